"""Engine `native`: the three fusions in C++ for the CPU, built by setup.py (see build.py).

The vectors and the matrix products are this project's own (simd.h, tile.h), compiled for several
instruction sets of which the best that the CPU has is chosen when the library is loaded;
the environment's FUSED_LSTM_ISA names another one.
"""

from __future__ import annotations

import importlib.util

import torch

from .. import derivatives, fused, ops
from ..reference import state_dtype

OPS = ops.register("native")

NOT_BUILT = (
    "its C++ extension is not built: install a C++ compiler and PyTorch, then run"
    " `pip install --no-build-isolation -e .` in the project and look for"
    " 'native engine not built' in what it prints"
)


def _load() -> str | None:
    """Import the extension; why it cannot be, or None."""
    name = f"{__name__}._C"
    if importlib.util.find_spec(name) is None:
        return NOT_BUILT
    try:
        importlib.import_module(name)
        OPS.isa()  # FUSED_LSTM_ISA may ask for what this CPU does not have
    except (ImportError, ValueError) as error:
        return f"its C++ extension does not load here: {error}"
    return None


def _fake_linear_cross_entropy(hidden, weight, bias, target, row_grad, ignore_index):
    """Shapes and dtypes alone, for torch.compile."""
    grads = [
        hidden.new_empty(0) if row_grad is None or t is None else t.new_empty(t.shape)
        for t in (hidden, weight, bias)
    ]
    return hidden.new_empty(len(hidden), dtype=state_dtype(hidden.dtype)), *grads


WHY_NOT = _load()
if WHY_NOT is None:
    torch.library.register_fake(
        "fused_lstm_native::linear_cross_entropy", _fake_linear_cross_entropy
    )
    torch.library.register_fake(
        "fused_lstm_native::dropout",
        lambda x, p, seed: torch.empty_like(x, memory_format=torch.contiguous_format),
    )
    LIBRARY = torch.library.Library("fused_lstm_native", "FRAGMENT")
    derivatives.register(LIBRARY, OPS, "dropout")


def missing(device: torch.device) -> str | None:
    if device.type != "cpu":
        return f"its kernels are for the CPU, not {device.type}: use triton there"
    return WHY_NOT


def describe(device: torch.device) -> str:
    offer = ", ".join(OPS.isa_names())
    return f"C++ kernels for {OPS.isa()} (this CPU has {offer}), {torch.get_num_threads()} threads"


def release_memory() -> int:
    """Give the memory that this engine keeps for its next calls back to the system: bytes.

    It keeps what its results and scratch lay in, as torch.cuda's allocator does (there it is
    torch.cuda.empty_cache() that gives back): together with what is in use at most half as much
    again as calls have needed at once, at most 512 MiB, and nothing that no call has used for five
    seconds, though without a call nothing is given back. 0 where the engine was not built.
    """
    return OPS.release_memory() if WHY_NOT is None else 0


def lstm(x, h0, c0, weights, dropout, fuse):
    return fused.run(OPS, x, h0, c0, weights, dropout, fuse)
