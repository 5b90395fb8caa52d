"""The operators that a fused engine implements, registered with torch.library once for all engines.

`register("triton", {...})` makes `torch.ops.fused_lstm_triton.*`. What is the same for every
engine lives here: schemas, fake implementations (for torch.compile) and, from derivatives.py,
autograd. What differs, the kernels, is what the engine passes in (or, for C++, what its library
registers itself).

T, B, I, H, L: time steps, batch, input size, hidden size, layers.
Gate order i, f, g, o. Half-precision inputs keep their cell state in float32: "state dtype" below.

    cell           gates [B, 4H] before activation, c [B, H] -> h [B, H], c_next [B, H]
                   gates and h have one dtype; c and c_next the state dtype.
    cell_backward  dh, dc_next [B, H] -> dgates [B, 4H], dc [B, H]

    lstm           x [T, B, I]; h0, c0 [L, B, H]; weights flat, as nn.LSTM's `_flat_weights`:
                   a layer has w_ih [4H, I or H], w_hh [4H, H] and, with bias, b_ih [4H], b_hh [4H].
                   dropout is the probability of dropping an element of h between two layers;
                   the mask is `fused_lstm.reference.dropout_mask(seed, ...)`, seed [1] int64 on x's
                   device (None where dropout is 0). fuse: "steps" takes one layer after another,
                   "layers" all at once, or as "steps" where that is faster; results are the same.
                   -> y [T, B, H], h_n, c_n [L, B, H], all of x's dtype, and, where `save` is true,
                   what the backward needs (else three tensors of no elements):
                   h [L-1, T, B, H] outputs of the layers below the last, before dropout,
                   c [L, T, B, H] cell states in the state dtype,
                   gates [L, T, B, 4H] activated gates.
    lstm_backward  dy, dh_n, dc_n (None where no gradient comes) -> dx (no elements unless
                   `needs_dx`), dh0, dc0, and one gradient for each of `weights`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import derivatives, reference

SCHEMAS = {
    "cell": "(Tensor gates, Tensor c) -> (Tensor h, Tensor c_next)",
    "cell_backward": "(Tensor gates, Tensor c, Tensor c_next, Tensor dh, Tensor dc_next)"
    " -> (Tensor dgates, Tensor dc)",
    "lstm": "(Tensor x, Tensor h0, Tensor c0, Tensor[] weights, float dropout, Tensor? seed,"
    " str fuse, bool save) -> (Tensor y, Tensor h_n, Tensor c_n, Tensor h, Tensor c, Tensor gates)",
    "lstm_backward": "(Tensor? dy, Tensor? dh_n, Tensor? dc_n, Tensor x, Tensor h0, Tensor c0,"
    " Tensor[] weights, float dropout, Tensor? seed, str fuse, Tensor y, Tensor h, Tensor c,"
    " Tensor gates, bool needs_dx) -> (Tensor dx, Tensor dh0, Tensor dc0, Tensor[] dweights)",
}


LIBRARIES = []  # kept, since what a Library has registered goes with it


def register(engine: str, kernels: dict[str, Callable] | None = None):
    """Define an engine's operators and return their namespace, `torch.ops.fused_lstm_<engine>`.

    Args:
        engine: its name in fused_lstm.engines.
        kernels: operator name -> Python function with the schema's arguments; None where a
            C++ library registers its own for the operators defined here.
    """
    namespace = f"fused_lstm_{engine}"
    for name, schema in SCHEMAS.items():
        torch.library.define(f"{namespace}::{name}", schema)
        if kernels is not None:
            torch.library.impl(f"{namespace}::{name}", ("cpu", "cuda"), kernels[name])
        torch.library.register_fake(f"{namespace}::{name}", FAKES[name])
    ops = getattr(torch.ops, namespace)
    library = torch.library.Library(namespace, "FRAGMENT")
    derivatives.register(library, ops, "cell", "lstm")
    LIBRARIES.append(library)
    return ops


def draw_seed(device: torch.device) -> Tensor:
    """A seed [1] int64 of a dropout mask, from PyTorch's generator.

    On the device, so that it costs no sync and a CUDA graph can replay it.
    """
    return torch.randint(2**63 - 1, (1,), device=device)


# --- fake implementations: shapes and dtypes alone. What a kernel makes is contiguous. ---


def _fake_cell(gates, c):
    return gates.new_empty(c.shape), c.new_empty(c.shape)


def _fake_cell_backward(gates, c, c_next, dh, dc_next):
    return gates.new_empty(gates.shape), c.new_empty(c.shape)


def _fake_lstm(x, h0, c0, weights, dropout, seed, fuse, save):
    (T, B, _), (L, _, H) = x.shape, h0.shape
    dtype = reference.state_dtype(x.dtype)
    saved = [(L - 1, T, B, H), (L, T, B, H), (L, T, B, 4 * H)] if save else [(0,)] * 3
    h, c, gates = saved
    return (
        x.new_empty(T, B, H),
        h0.new_empty(h0.shape),
        c0.new_empty(c0.shape),
        x.new_empty(h),
        x.new_empty(c, dtype=dtype),
        x.new_empty(gates),
    )


def _fake_lstm_backward(
    dy, dh_n, dc_n, x, h0, c0, weights, dropout, seed, fuse, y, h, c, gates, needs_dx
):
    dx = x.new_empty(x.shape if needs_dx else 0)
    return dx, *(t.new_empty(t.shape) for t in (h0, c0)), [w.new_empty(w.shape) for w in weights]


FAKES = {
    "cell": _fake_cell,
    "cell_backward": _fake_cell_backward,
    "lstm": _fake_lstm,
    "lstm_backward": _fake_lstm_backward,
}
