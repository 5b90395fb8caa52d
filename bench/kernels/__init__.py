"""C++ of the native engine that only measurements and tests call, in a library of its own.

It has products alone (alone.h), what a plan says (plan.cpp), memory full of NaN, and AMX emulated
on any CPU, bit for bit, as the instruction set "emulated". The first call of a process builds it,
in build/bench, where it is older than its sources. The emulator takes minutes to compile.
Tests have it on a CPU without AMX, or where the environment's BENCH_EMULATOR is set; a measurement
does not.
"""

from __future__ import annotations

import os
import platform
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
WHOLE, MEASURING = FOLDER / "_bench.so", FOLDER / "measuring" / "_bench.so"


def has_amx() -> bool:
    """Return whether this CPU has AMX."""
    return "amx" in native.OPS.isa_names(torch.bfloat16)


def emulates() -> bool:
    """Return whether tests emulate AMX: where this CPU has none, or BENCH_EMULATOR is set."""
    return "BENCH_EMULATOR" in os.environ or not has_amx()


@cache
def missing() -> str | None:
    """Load the library that tests need, built first where that is due; return why not, or None."""
    return native.load() or _load(WHOLE if emulates() else MEASURING)


@cache
def _measuring() -> str | None:
    # A process has one of the two. AMX emulated is the only bfloat16 of other processors.
    whole = missing.cache_info().currsize or is_current(WHOLE) or platform.machine() != "x86_64"
    return missing() if whole else _load(MEASURING)


def _load(library: Path) -> str | None:
    why = native.load()
    if why is not None:
        return why
    try:
        build(library)
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        return f"the library of bench/kernels is not there: {error}"
    return None


def ops():
    """Return the library's operators; a RuntimeError says why there are none."""
    why = _measuring()
    if why is not None:
        raise RuntimeError(why)
    return torch.ops.fused_lstm_bench


def is_current(library: Path = WHOLE) -> bool:
    """Return whether a library is there, and younger than its sources and the engine's library."""
    engine = Path(native.__file__).parent
    read = [*HERE.glob("*.cpp"), *HERE.glob("*.h"), *engine.rglob("*.h"), engine / "build.py"]
    read += [*engine.glob("isa/*.cpp"), native.LIBRARY]
    youngest = max(file.stat().st_mtime for file in read)
    return library.exists() and library.stat().st_mtime > youngest


def build(library: Path = WHOLE) -> None:
    """Compile and link a library if it is not current; a line says so."""
    library.parent.mkdir(parents=True, exist_ok=True)
    engine = Path(native.__file__).parent
    with FileLock(library.parent / "lock"):  # tests run in several processes
        if is_current(library):
            return
        sources, flags = sorted(HERE.glob("*.cpp")), ["-w"]  # the engine's build shows warnings
        if library == MEASURING:
            sources = [source for source in sources if "emulated" not in source.name]
        else:
            flags.append("-DFL_EMULATOR")
            if not has_amx():  # it is for this CPU alone, see below
                flags.append("-DFL_WITHOUT_AMX")
                sources = [source for source in sources if "alone_amx" not in source.name]
        print(f"building {library}: {len(sources)} files", file=sys.stderr, flush=True)
        torch_folder = Path(torch.__file__).parent
        # For this CPU alone, which takes a third less time: vectors of 64 bytes are many of SSE2's.
        emulated = [source for source in sources if source.name.startswith("emulated")]
        compile_all(
            sources, library.parent, library, torch_folder, (HERE, engine), (native.LIBRARY,),
            flags, emulated,
        )  # fmt: skip
        library.touch()
