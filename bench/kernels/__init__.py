"""C++ of the native engine that only measurements and tests call, in a library of its own.

It has products alone (alone.h), what a plan says (plan.cpp), memory full of NaN, and AMX emulated
on any CPU, bit for bit, as the instruction set "emulated". The first call of a process builds it,
in build/bench, where it is older than its sources: minutes the first time.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock

from fused_lstm import native
from fused_lstm.native.build import compile_all

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / "build" / "bench"
LIBRARY = FOLDER / "_bench.so"


@cache
def missing() -> str | None:
    """Load the library, built first where that is due; return why it cannot be, or None."""
    why = native.load()
    if why is not None:
        return why
    try:
        build()
        torch.ops.load_library(str(LIBRARY))
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        return f"the library of bench/kernels is not there: {error}"
    return None


def ops():
    """Return the library's operators; a RuntimeError says why there are none."""
    why = missing()
    if why is not None:
        raise RuntimeError(why)
    return torch.ops.fused_lstm_bench


def build() -> None:
    """Compile and link the library if any of its sources, or the engine's library, is younger."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    engine = Path(native.__file__).parent
    with FileLock(FOLDER / "lock"):  # tests run in several processes
        sources = [*HERE.glob("*.cpp")]
        read = [*sources, *HERE.glob("*.h"), *engine.rglob("*.h"), engine / "build.py"]
        read += [*engine.glob("isa/*.cpp"), native.LIBRARY]
        youngest = max(file.stat().st_mtime for file in read)
        if LIBRARY.exists() and LIBRARY.stat().st_mtime > youngest:
            return
        print(f"building {LIBRARY}: minutes", file=sys.stderr, flush=True)
        torch_folder = Path(torch.__file__).parent
        compile_all(
            sorted(sources), FOLDER, LIBRARY, torch_folder, (HERE, engine), (native.LIBRARY,)
        )
        LIBRARY.touch()
