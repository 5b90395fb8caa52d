"""Engine `native`: the three fusions in C++ for the CPU, built by setup.py (see build.py).

The vectors and the matrix products are this project's own (simd.h, tile.h), compiled for several
instruction sets of which the best that the CPU has is chosen when the library is loaded;
the environment's FUSED_LSTM_ISA names another one, or "emulated": AMX's products of bfloat16, which
any CPU can check and none would want.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache, partial

import torch

from .. import ops

OPS = ops.NATIVE
EXTENSION = f"{__name__}._C"

NOT_BUILT = (
    "its C++ extension is not built: install a C++ compiler and PyTorch, then run"
    " `pip install --no-build-isolation -e .` in the project and look for"
    " 'native engine not built' in what it prints"
)


@cache
def load() -> str | None:
    """Import the extension, which registers the kernels; why it cannot be, or None."""
    if importlib.util.find_spec(EXTENSION) is None:
        return NOT_BUILT
    try:
        importlib.import_module(EXTENSION)
        OPS.isa()  # FUSED_LSTM_ISA may ask for what this CPU does not have
    except (ImportError, ValueError) as error:
        return f"its C++ extension does not load here: {error}"
    return None


def missing(device: torch.device) -> str | None:
    if device.type != "cpu":
        return f"its kernels are for the CPU, not {device.type}: use triton there"
    return load()


def describe(device: torch.device) -> str:
    offer = ", ".join(name for name in OPS.isa_names() if name != "emulated")
    return f"C++ kernels for {OPS.isa()} (this CPU has {offer}), {torch.get_num_threads()} threads"


def release_memory() -> int:
    """Give the memory that this engine keeps for its next calls back to the system: bytes.

    It keeps what its results and scratch lay in, as torch.cuda's allocator does (there it is
    torch.cuda.empty_cache() that gives back): together with what is in use at most half as much
    again as calls have needed at once, at most 512 MiB, and nothing that no call has used for five
    seconds, though without a call nothing is given back. 0 where the engine has not run.
    """
    return OPS.release_memory() if EXTENSION in sys.modules else 0


lstm = partial(ops.run, OPS)
