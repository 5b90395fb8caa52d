"""What fuse= means, for every engine with kernels of its own: which operator covers how much."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import torch
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

    pointwise: the step loop with a fused cell. steps, layers: one operator.
    """
    if fuse == "pointwise":
        return unrolled(x, h0, c0, weights, dropout, derivatives.operator(ops, "cell"))
    seed = draw_seed(x.device) if dropout > 0 else None
    save = torch.is_grad_enabled() and any(t.requires_grad for t in (x, h0, c0, *weights))
    save = save or torch.jit.is_tracing()  # what is traced once may be trained and not
    operator = derivatives.operator(ops, "lstm")
    return operator(x, h0, c0, weights, dropout, seed, fuse, save)[:3]
