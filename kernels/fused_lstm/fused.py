"""What fuse= means, for every engine with kernels of its own: which operator covers how much."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from . import derivatives
from .loop import unrolled
from .ops import draw_seed


def run(
    ops: SimpleNamespace,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weights: Sequence[Tensor],
    dropout: float,
    fuse: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run an engine's operators (see fused_lstm.ops); other arguments as in fused_lstm.engines.

    pointwise: the step loop with a fused cell. steps: one call a layer. layers: one call.
    """
    if fuse == "pointwise":
        return unrolled(x, h0, c0, weights, dropout, derivatives.operator(ops, "cell"))
    if fuse == "layers":
        return _one_call(ops, x, h0, c0, weights, dropout)
    return _one_call_a_layer(ops, x, h0, c0, weights, dropout)


def _one_call(ops, x, h0, c0, weights, dropout):
    """All layers in one call, with the dropout between them inside."""
    seed = draw_seed(x.device) if dropout > 0 else None
    save = torch.is_grad_enabled() and any(t.requires_grad for t in (x, h0, c0, *weights))
    save = save or torch.jit.is_tracing()  # what is traced once may be trained and not
    y, h_n, c_n, *_ = derivatives.operator(ops, "lstm")(x, h0, c0, weights, dropout, seed, save)
    return y, h_n, c_n


def _one_call_a_layer(ops, x, h0, c0, weights, dropout):
    """A call for each layer, and dropout between two calls."""
    per_layer, h_n, c_n = len(weights) // len(h0), [], []
    for index in range(len(h0)):
        if index > 0:
            x = F.dropout(x, dropout)
        only, own = slice(index, index + 1), slice(index * per_layer, (index + 1) * per_layer)
        x, h, c = _one_call(ops, x, h0[only], c0[only], weights[own], 0.0)
        h_n.append(h)
        c_n.append(c)
    return x, torch.cat(h_n), torch.cat(c_n)
