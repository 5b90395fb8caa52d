"""Compiles the machine with the C++ compiler that setup.py uses, where its text has changed."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent / "machine"
CACHE = Path(__file__).parents[2] / "build" / "ptx"
# No contraction: a product and a sum in PTX round twice.
FLAGS = ["-std=c++20", "-O2", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared"]


def compiler() -> str:
    """The one that torch.utils.cpp_extension, and so setup.py, takes."""
    return os.environ.get("CXX", "c++")


def missing() -> str | None:
    """Why the machine cannot be compiled here, or None."""
    if platform.system() != "Linux":
        return "Triton compiles for GPUs on Linux alone"
    if shutil.which(compiler()) is None:
        return f"the PTX machine needs a C++ compiler; {compiler()!r} is not there"
    return None


@cache
def library() -> Path:
    """The compiled machine; a compiler's error is raised as it stands."""
    texts = sorted(SOURCES.iterdir())
    command = [compiler(), *FLAGS]
    key = hashlib.sha256(" ".join([*command, platform.machine()]).encode())
    for text in texts:
        key.update(text.read_bytes())
    found = CACHE / f"machine-{key.hexdigest()[:16]}.so"
    if not found.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        partial = found.with_suffix(f".{os.getpid()}")  # another process may be compiling too
        # Compile one file: each alone would read the same headers, half of the time.
        whole = "".join(f'#include "{text}"\n' for text in texts if text.suffix == ".cpp")
        words = [*command, "-x", "c++", "-", "-o", partial]
        done = subprocess.run(words, input=whole, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the PTX machine does not compile:\n{done.stderr}")
        partial.rename(found)
    return found
