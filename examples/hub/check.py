"""`python examples/hub/check.py FOLDER`: is each build in FOLDER what its metadata.json says?

Compares the SHA-256 of each file with the digest, through the package `kernels`, which reads the
same metadata. A file that was changed, added or removed is named on one line, with exit status 1.
`kernels verify-signature` does the same for a repository of the hub whose metadata is signed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from kernels.verify import Digest, DigestValidationError, Metadata


def check(folder: Path) -> None:
    """Compare each build of a repository with its digest.

    Raises:
        ValueError: a build has no digest, or a file differs from it; names the build and the files.
    """
    builds = sorted(path.parent for path in folder.glob("build/*/metadata.json"))
    if not builds:
        raise ValueError(f"folder: got '{folder}'; expected what examples/hub/build.py wrote")
    for build in builds:
        try:
            expected = Metadata.from_bytes((build / "metadata.json").read_bytes()).digest
        except ValueError as error:
            raise ValueError(f"{build.name}/metadata.json: {error}") from None
        if expected is None:
            raise ValueError(f"{build.name}: got metadata without a digest; expected one")
        try:
            expected.validate(Digest.hash_variant(expected.algorithm, build))
        except DigestValidationError as error:
            found = "; ".join(map(str, error.violations))
            raise ValueError(f"{build.name}: got {found}; expected its digest") from None


def main() -> None:
    """Check the folder that the command line names."""
    if len(sys.argv) != 2:
        sys.exit("check.py: got no folder; expected what examples/hub/build.py wrote")
    try:
        check(Path(sys.argv[1]))
    except ValueError as error:
        sys.exit(f"check.py: {error}")
    print(f"{sys.argv[1]}: each build is what its metadata says")


if __name__ == "__main__":
    main()
