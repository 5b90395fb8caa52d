"""The operators that a fused engine implements, registered with torch.library once for all engines.

`register("triton", {...})` makes `torch.ops.fused_lstm_triton.*`. What is the same for every
engine lives here: schemas, fake implementations (for torch.compile) and autograd. What differs,
the kernels, is what the engine passes in (or, for C++, what its library registers itself).

T, B, I, H, L: time steps, batch, input size, hidden size, layers.
Gate order i, f, g, o. Half-precision inputs keep their cell state in float32: "state dtype" below.

    cell           gates [B, 4H] before activation, c [B, H] -> h [B, H], c_next [B, H]
                   gates and h have one dtype; c and c_next the state dtype.
    cell_backward  dh, dc_next [B, H] -> dgates [B, 4H], dc [B, H]

    lstm           x [T, B, I]; h0, c0 [L, B, H]; weights flat, as nn.LSTM's `_flat_weights`:
                   a layer has w_ih [4H, I or H], w_hh [4H, H] and, with bias, b_ih [4H], b_hh [4H].
                   dropout is the probability of dropping an element of h between two layers;
                   the mask is `kernels.reference.dropout_mask(seed, ...)`, seed [1] int64 on x's
                   device (None where dropout is 0).
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

from . import reference

SCHEMAS = {
    "cell": "(Tensor gates, Tensor c) -> (Tensor h, Tensor c_next)",
    "cell_backward": "(Tensor gates, Tensor c, Tensor c_next, Tensor dh, Tensor dc_next)"
    " -> (Tensor dgates, Tensor dc)",
    "lstm": "(Tensor x, Tensor h0, Tensor c0, Tensor[] weights, float dropout, Tensor? seed,"
    " bool save) -> (Tensor y, Tensor h_n, Tensor c_n, Tensor h, Tensor c, Tensor gates)",
    "lstm_backward": "(Tensor? dy, Tensor? dh_n, Tensor? dc_n, Tensor x, Tensor h0, Tensor c0,"
    " Tensor[] weights, float dropout, Tensor? seed, Tensor y, Tensor h, Tensor c, Tensor gates,"
    " bool needs_dx) -> (Tensor dx, Tensor dh0, Tensor dc0, Tensor[] dweights)",
}
