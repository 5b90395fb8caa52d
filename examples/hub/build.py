"""`python examples/hub/build.py FOLDER`: a repository for Hugging Face's `kernels`.

FOLDER/build/torch-universal is the package in Python: Triton's kernels and the step loop. With
--native FOLDER also gets a build with the C++ engine for each backend that is named, such as cpu or
cu130: the hub tells builds apart by the backend of the user's PyTorch, and the engine is the same.

Two builds may be loaded in one process, or beside an installed fused_lstm. So a build has its own
namespace of operators, named by what is in it, and no module is imported by an absolute name.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import runpy
import shutil
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCES = FOLDER.parents[1] / "kernels" / "fused_lstm"
# Of another package, or for work on the kernels; a build has no use for them.
LEFT_OUT = "integrations", "tools", "opacus.py", "__pycache__", "*.cpp", "*.h", "*.so", "py.typed"
# The operators' namespaces, of which the installed package has fused_lstm_native.
NAMESPACE = re.compile(r"\bfused_lstm_(?=native\b|triton\b|\{engine\})")
INSTALLED = "fused_lstm_native"


def build(target: Path, backend: str, native: bool) -> str:
    """Write a build into `target`; return its name, which is unique to its content.

    backend: the hub's name of what it is for.
    """
    shutil.copytree(SOURCES, target, ignore=shutil.ignore_patterns(*LEFT_OUT))
    shutil.copy(FOLDER / "layers.py", target)
    init = target / "__init__.py"
    init.write_text(f"{init.read_text()}\nfrom . import layers  # noqa: E402\n")
    files = sorted(target.rglob("*.py"))
    if native:
        files += sorted(path for end in ("cpp", "h") for path in SOURCES.rglob(f"*.{end}"))
    content = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    name = f"_fused_lstm_{content[:12]}"
    for path in target.rglob("*.py"):
        path.write_text(NAMESPACE.sub(f"{name}_", path.read_text()))
    about = {
        "id": name, "name": "fused-lstm", "version": 1, "license": "MIT", "python-depends": [],
        "backend": {"type": backend},
    }  # fmt: skip
    (target / "metadata.json").write_text(json.dumps(about, indent=2) + "\n")
    return name


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
    build(builds / "torch-universal", "cpu", native=False)
    engine = None
    for backend in options.native:
        where = f"{backend}-{platform.machine()}-{platform.system().lower()}"
        target = builds / f"torch-stable-abi211-{where}"
        name = build(target, "cpu" if backend == "cpu" else "cuda", native=True)
        library = target / "native" / "_native.so"
        if engine is None:
            compile_engine(library, name)
            engine = library
        else:
            shutil.copy(engine, library)
    print(*sorted(os.listdir(builds)), sep="\n")


if __name__ == "__main__":
    main()
