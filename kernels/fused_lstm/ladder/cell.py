"""The pointwise part of a step between two products: a kernel an operation, or one for all of it.

Level "pointwise" is the step loop with a fused cell, and "hoisted" takes products out of that loop.

B, H: batch, hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor

from .. import pointwise
from ..choose import in_a_graph
from ..pullback import Backward, is_differentiated, is_transformed, kernel, pulled_back

# --- one kernel, with its derivative ---


def cell(ops: SimpleNamespace, gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Compute nn.LSTM's cell: gates [B, 4H] before activation, c [B, H] -> h, c_next [B, H]."""
    if in_a_graph():
        return ops.cell(gates, c)
    if is_transformed():
        return pointwise.cell(gates, c)
    if is_differentiated(gates, c):
        return CellFunction.apply(ops, gates, c)
    return kernel(ops.cell.default, gates, c)


class CellFunction(torch.autograd.Function):
    """apply(ops, gates, c) -> h, c_next."""

    @staticmethod
    def forward(ctx, ops, gates, c):
        h, c_next = kernel(ops.cell.default, gates, c)
        ctx.ops = ops
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(gates, c, c_next)
        return h, c_next

    @staticmethod
    def backward(ctx, dh, dc_next):
        gates, c, c_next = ctx.saved_tensors
        if torch._C._are_functorch_transforms_active():
            return None, *pulled_back(pointwise.cell, (gates, c), (dh, dc_next))
        run = partial(cell_backward, ctx.ops, c_next)
        if torch.is_grad_enabled():
            run = partial(Backward.apply, run, pointwise.cell, 2)
        return None, *run(dh, dc_next, gates, c)


def cell_backward(ops, c_next, dh, dc_next, gates, c):
    """Return the kernel's gradients by gates [B, 4H] and c [B, H]."""
    dh = torch.zeros_like(c_next, dtype=gates.dtype) if dh is None else dh
    dc_next = torch.zeros_like(c_next) if dc_next is None else dc_next
    return kernel(ops.cell_backward.default, gates, c, c_next, dh, dc_next)


# --- between two products ---


class Pointwise(NamedTuple):
    """An engine's functions for nn.LSTM's cell between two products."""

    # gates [B, 4H] before activation, c [B, H] -> h, c_next [B, H], kept [B, 4H] for the backward
    forward: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
    # kept [B, 4H], c, c_next, dh, dc_next [B, H] -> dgates [B, 4H], dc [B, H]
    backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


# Engine `loop`'s cell: a kernel for each operation.
UNFUSED = Pointwise(pointwise.forward, pointwise.cell_backward)


def fused(ops: SimpleNamespace) -> Pointwise:
    """Return the cell as one kernel forward and one back: an engine's `cell`, `cell_backward`."""

    def forward(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if in_a_graph() or is_differentiated(gates, c):
            return *ops.cell(gates, c), gates
        return *kernel(ops.cell.default, gates, c), gates

    return Pointwise(forward, partial(kernel, ops.cell_backward.default))
