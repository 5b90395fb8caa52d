"""The C++ kernels on Arm: NEON's code, run by qemu, gives what SSE2's gives here.

`make arm` says what to install, and runs it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fused_lstm import native
from fused_lstm.native.build import FLAGS, FOLDER, compile_all
from tolerance import assert_close

ROOT = Path(__file__).parents[3]
SOURCES = [
    ROOT / "tests/kernels/native/arm/kernels.cpp",
    *(ROOT / FOLDER / f"isa/{name}.cpp" for name in ("base", "cells_base", "caches")),
]
HERE, ARM, QEMU = "g++", "aarch64-linux-gnu-g++", "qemu-aarch64"


def build(compiler: str, program: Path, *more: str) -> Path:
    options = ["-std=c++20", *FLAGS, *more, f"-I{ROOT / FOLDER}", "-pthread", "-static"]
    subprocess.run([compiler, *options, *SOURCES, "-o", program], check=True)
    return program


def run(*command: str | Path) -> tuple[str, dict[str, Tensor]]:
    """The instruction set's name, and a program's results by their names."""
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    found = {}
    for dtype, name, *values in map(str.split, lines[1:]):
        numbers = torch.tensor([float(v) for v in values], dtype=torch.float64)
        found[f"{dtype} {name}"] = numbers.to(getattr(torch, dtype))
    return lines[0], found


@pytest.mark.slow  # minutes to compile; `make arm` runs it
def test_neon_gives_what_sse2_gives(tmp_path):
    missing = [name for name in (HERE, ARM, QEMU) if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: apt-get install g++-{ARM[:-4]} qemu-user")
    here, expected = run(build(HERE, tmp_path / "here", "-O1"))  # a sixth of the time to compile
    name, found = run(QEMU, build(ARM, tmp_path / "arm"))
    assert (here, name) == ("sse2", "neon")
    assert found.keys() == expected.keys()
    for result, value in expected.items():
        assert_close(found[result], value, result)


@pytest.mark.parametrize("compiler", [HERE, ARM])
def test_the_library_asks_for_libtorch_and_no_openmp(compiler, tmp_path, monkeypatch):
    """The installed one; Arm's linked without LibTorch there, of files that know it and OpenMP."""
    missing = [name for name in (compiler, "readelf") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: apt-get install g++-{ARM[:-4]} binutils")
    library = Path(native.LIBRARY)
    if compiler == ARM:
        monkeypatch.chdir(ROOT)
        monkeypatch.setenv("CXX", f"{ARM} -O0")
        sources = [str(FOLDER / f"{name}.cpp") for name in ("tensor", "threads")]
        library = tmp_path / "native.so"
        compile_all(sources, tmp_path, library, Path(torch.__file__).parent)
    text = subprocess.run(["readelf", "-hdW", library], check=True, capture_output=True, text=True)
    (machine,) = re.findall(r"Machine: +(.*)", text.stdout)
    assert ("AArch64" in machine) == (compiler == ARM)
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", text.stdout))
    # The loader is asked for by thread_local.
    assert needed - {"ld-linux-aarch64.so.1", "ld-linux-x86-64.so.2"} <= {
        "libtorch_cpu.so", "libstdc++.so.6", "libm.so.6", "libgcc_s.so.1", "libc.so.6"
    }  # fmt: skip
    assert "libtorch_cpu.so" in needed
