"""`python examples/hub/build.py FOLDER`: a repository for Hugging Face's `kernels`.

FOLDER/build/torch-universal is the package in Python: Triton's kernels and the step loop. With
--native FOLDER also gets a build with the C++ engine for each backend that is named, such as cpu or
cu130: the hub tells builds apart by the backend of the user's PyTorch, and the engine is the same.

Two builds may be loaded in one process, or beside an installed fused_lstm. So a build has its own
namespace of operators, named by what is in it, and no module is imported by an absolute name.

metadata.json has the SHA-256 of each file of a build (`digest`) and the commit that it was made of
(`provenance`). `kernels` 0.18 and later compares the files with their digest before it loads them.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
SOURCES = FOLDER.parents[1] / "kernels" / "fused_lstm"
# Of another package, or for work on the kernels; a build has no use for them.
LEFT_OUT = "integrations", "tools", "opacus.py", "__pycache__", "*.cpp", "*.h", "*.so", "py.typed"
# The operators' namespaces, of which the installed package has fused_lstm_native.
NAMESPACE = re.compile(r"\bfused_lstm_(?=native\b|triton\b|\{engine\})")
INSTALLED = "fused_lstm_native"


def build(target: Path, native: bool) -> str:
    """Write a build without its library and metadata; return its name, unique to its content."""
    shutil.copytree(SOURCES, target, ignore=shutil.ignore_patterns(*LEFT_OUT))
    shutil.copy(FOLDER / "hub_layers.py", target)
    init = target / "__init__.py"
    init.write_text(f"{init.read_text()}\nfrom . import hub_layers as layers  # noqa: E402\n")
    files = [*sorted(target.rglob("*.py")), target / "schemas.txt"]
    if native:
        files += sorted(path for end in ("cpp", "h") for path in SOURCES.rglob(f"*.{end}"))
    content = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    name = f"_fused_lstm_{content[:12]}"
    for path in target.rglob("*.py"):
        path.write_text(NAMESPACE.sub(f"{name}_", path.read_text()))
    return name


def describe(target: Path, name: str, backend: str) -> None:
    """Write the metadata of a build all of whose other files are there.

    backend: the hub's name of what it is for.
    """
    files = sorted(path for path in target.rglob("*") if path.is_file())
    digests = {path.relative_to(target).as_posix(): digest(path) for path in files}
    about = {
        "id": name, "name": "fused-lstm", "version": 1, "license": "MIT", "python-depends": [],
        "backend": {"type": backend}, "digest": {"algorithm": "sha256", "files": digests},
        "provenance": provenance(),
    }  # fmt: skip
    (target / "metadata.json").write_text(json.dumps(about, indent=2) + "\n")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file as the hub writes it: in base64."""
    return base64.b64encode(hashlib.sha256(path.read_bytes()).digest()).decode()


def provenance() -> dict[str, Any]:
    """Return what made a build: this program, and the commit of its checkout where it is one.

    The hub's own kernel-builder is not used, so its version is the name of this program.
    """
    made: dict[str, Any] = {"kernel-builder": {"version": "fused-lstm examples/hub/build.py"}}

    def git(*words: str) -> str:
        command = ["git", "-C", str(FOLDER), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--", str(FOLDER), str(SOURCES)) != ""
        made["kernel"] = {"commit": git("rev-parse", "HEAD"), "dirty": dirty}
    except (OSError, subprocess.CalledProcessError):
        pass  # an unpacked archive has no commit
    return made


def compile_engine(target: Path, name: str) -> None:
    """Compile the C++ engine, with the operators of a build's namespace, into `target`."""
    import torch

    compile_all = runpy.run_path(str(SOURCES / "native" / "build.py"))["compile_all"]
    compile_all(
        sorted(SOURCES.rglob("*.cpp")), FOLDER.parents[1] / "build" / "hub", target,
        Path(torch.__path__[0]), (SOURCES / "native",), flags=[f"-D{INSTALLED}={name}_native"],
    )  # fmt: skip


def main() -> None:
    """Build a repository."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--native", nargs="+", default=[], metavar="BACKEND")
    options = parser.parse_args()
    if options.folder.exists():
        sys.exit(f"folder: '{options.folder}' exists; expected a new one")
    options.folder.mkdir(parents=True)
    shutil.copy(FOLDER / "README.md", options.folder)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(FOLDER / "benchmarks", options.folder / "benchmarks", ignore=ignored)
    builds = options.folder / "build"
    universal = builds / "torch-universal"
    describe(universal, build(universal, native=False), "cpu")
    engine = None
    for backend in options.native:
        where = f"{backend}-{platform.machine()}-{platform.system().lower()}"
        target = builds / f"torch-stable-abi211-{where}"
        name = build(target, native=True)
        library = target / "native" / "_native.so"
        if engine is None:
            compile_engine(library, name)
            engine = library
        else:
            shutil.copy(engine, library)
        describe(target, name, "cpu" if backend == "cpu" else "cuda")
    print(*sorted(os.listdir(builds)), sep="\n")


if __name__ == "__main__":
    main()
