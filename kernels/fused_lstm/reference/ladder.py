"""The levels below fuse="steps", and engine `loop`, which has the lowest of them.

They are the reference's loop over time (`reference.sweep`) with nn.LSTM's cell, gates coupled or
not, and differ by what a step is:

    none        one product of [x, h] and about ten pointwise kernels, each with a launch and a trip
                to memory of its own: the TensorFlow tutorial's LSTM
    pointwise   the same product, and one kernel for all pointwise work
    hoisted     R h, and one kernel; every product that needs no order in time is one product
                outside the loop: W x before it; in the backward dW, dR, dx, db and dW_hr after it

At `hoisted` a weight's gradient is written once, and not at every step. fuse="steps" adds weights
that stay on chip, and one launch for all steps.

T, B, H, P: time steps, batch, hidden size, size of h (H unless it is projected). Gate order i, f,
g, o. A lane is one layer in one direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import reference
from ..call.choose import in_a_graph
from ..call.record import Call
from ..call.rows import Order, Padding
from ..call.spec import is_reversed
from ..operator.pullback import Backward, is_differentiated, is_transformed, kernel, pulled_back
from ..training.denormals import flush_denormals
from . import by_layer, pointwise, stack, state_dtype

# --- engine `loop` ---


def run(call: Call) -> tuple[Tensor, ...]:
    """Run a call, as in fused_lstm.call.choose; cells other than nn.LSTM's run in the reference."""
    p = call.spec.dropout
    if call.spec.level != "hoisted" and not call.spec.is_plain_lstm:
        return reference.run(call)
    return climb(None, call, (lambda y, _: F.dropout(y, p)) if p > 0 else None)


def missing(device: torch.device) -> str | None:
    return None


def describe(device: torch.device) -> str:
    return "a step loop in PyTorch, one kernel for each operation"


# --- the levels ---


class Products(NamedTuple):
    """The functions that multiply matrices. N: the rows of one step, or of all steps."""

    linear: Callable[..., Tensor]  # x [.., I], W [4H, I], b [4H] or None: W x + b
    step: Callable[[Tensor, Tensor, Tensor], Tensor]  # W x + b of a step, h, R: W x + b + R h
    by_rows: Callable[[Tensor, Tensor], Tensor]  # dgates [N, 4H], R [4H, P] -> [N, P]
    of_weight: Callable[[Tensor, Tensor], Tensor]  # dgates [N, 4H], h [N, P] -> dR [4H, P]


TORCH = Products(
    linear=F.linear,
    step=lambda x_part, h, w_hh: torch.addmm(x_part, h, w_hh.T),
    by_rows=torch.mm,
    of_weight=lambda dgates, h: torch.mm(dgates.T, h),
)


def climb(
    ops: SimpleNamespace | None,
    call: Call,
    drop: stack.Drop | None,
    products: Products = TORCH,
) -> tuple[Tensor, ...]:
    """Run a call, as in fused_lstm.call.choose, at a level of the ladder.

    In a graph (torch.compile, torch.jit.trace), under torch.func, and with `states`, autograd
    differentiates the loop: at "hoisted" R's gradient is then a product at every step.

    Args:
        ops: the operators of the engine that has the cell as one kernel; None for a kernel an
            operation.
        drop: the dropout between layers.
        products: the products; a benchmark may replace PyTorch's.
    """
    spec, h0, c0 = call.spec, call.h0, call.c0
    layers, hoisted = by_layer(call.weights, len(h0), spec), spec.level == "hoisted"
    rows = Padding(call.x, h0.shape[1], call.batch_sizes, call.not_reset)
    cell = UNFUSED if ops is None else fused(ops)

    def sweep(x: Tensor, lane: int) -> stack.Swept:
        layer, order = layers[lane], rows.order(is_reversed(spec, lane))
        w_ih, w_hh, bias = layer.w_ih, layer.w_hh, layer.bias()
        if spec.coupled:  # 1 - sigma(a) is sigma(-a)
            w_ih, w_hh = pointwise.four_gates(w_ih), pointwise.four_gates(w_hh)
            bias = None if bias is None else pointwise.four_gates(bias)
        x, h, c = rows.pad(x), h0[lane], c0[lane].to(state_dtype(x.dtype))
        if hoisted:
            inputs = products.linear(x, w_ih, bias), h, c, w_hh, layer.w_hr
            if call.states or in_a_graph() or is_transformed():
                made = unrolled(cell, order, *inputs)
            elif is_differentiated(*inputs):
                h_all, c_n = Hoisted.apply(cell, products, order, *inputs)
                return stack.Swept(rows.pack(h_all), None, h_all[order.steps[-1]], c_n)
            else:
                made = recurrence(cell, products, order, *inputs)
        else:
            made = multiplied(cell, products, order, x, h, c, w_ih, w_hh, bias, layer.w_hr)
        h_n, c_n, *_ = made[order.steps[-1]]
        c_all = rows.pack(reference.in_time(made, 1)) if call.states else None
        return stack.Swept(rows.pack(reference.in_time(made, 0)), c_all, h_n, c_n)

    return stack.run_lanes(spec, call.x, c0.dtype, sweep, drop)


# --- nn.LSTM's cell ---


class Pointwise(NamedTuple):
    """The pointwise part of a step: gates [B, 4H] before activation, c [B, H] in the state dtype.

    step(gates, c) -> h, c_next [B, H], differentiable.
    forward(gates, c) -> h, c_next, and what the backward keeps [B, 4H].
    backward(kept, c, c_next, dh, dc_next) -> dgates [B, 4H], dc [B, H].
    """

    step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    forward: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
    backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


# A kernel for each operation.
UNFUSED = Pointwise(pointwise.cell, pointwise.forward, pointwise.cell_backward)


def fused(ops: SimpleNamespace) -> Pointwise:
    """Return the cell as one kernel forward and one back: an engine's `cell`, `cell_backward`."""

    def forward(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return *kernel(ops.cell.default, gates, c), gates

    return Pointwise(partial(fused_step, ops), forward, partial(kernel, ops.cell_backward.default))


def fused_step(ops: SimpleNamespace, gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the cell by an engine's operator: gates [B, 4H], c [B, H] -> h, c_next [B, H]."""
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


# --- a lane, with all products in the loop ---


def multiplied(cell, products, order, x, h0, c0, w_ih, w_hh, bias, w_hr) -> reference.Made:
    """Run a lane of x [T, B, I]: each step is one product of [x, h], and the cell."""
    weight, xs = torch.cat([w_ih, w_hh], dim=1), x.unbind(0)

    def gates(t: int, h: Tensor) -> Tensor:
        return products.linear(torch.cat([xs[t], h], dim=1), weight, bias)

    return differentiable(cell, order, gates, h0, c0, w_hr)


def differentiable(cell, order, gates, h0, c0, w_hr) -> reference.Made:
    """Run a lane so that autograd can differentiate it; gates: (t, h) -> a step's sums [B, 4H]."""

    def step(t: int, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        h_next, c_next = cell.step(gates(t, h), c)
        return h_next if w_hr is None else F.linear(h_next, w_hr), c_next

    return reference.sweep(step, order, h0, c0)


# --- a lane whose input product is done ---

# x_part: [T, B, 4H], W x + b. h0, c0: [B, P], and [B, H] in the state dtype. w_hh, w_hr: [4H, P],
# and [P, H] where h is projected, else None.


def unrolled(cell, order, x_part, h0, c0, w_hh, w_hr) -> reference.Made:
    """Run a lane so that autograd can differentiate it."""
    gates = lambda t, h: x_part[t] + F.linear(h, w_hh)  # noqa: E731
    return differentiable(cell, order, gates, h0, c0, w_hr)


def recurrence(cell, products, order, x_part, h0, c0, w_hh, w_hr, keep=False) -> reference.Made:
    """Run a lane; with `keep` each step also has what the backward needs.

    That is what the cell keeps and, where h is projected, h before it is.
    """
    parts = x_part.unbind(0)

    def step(t: int, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        h_next, c_next, kept = cell.forward(products.step(parts[t], h, w_hh), c)
        saved = (kept, h_next) if keep else ()
        if w_hr is None:
            return h_next, c_next, *saved[:1]
        return products.linear(h_next, w_hr, None), c_next, *saved

    return reference.sweep(step, order, h0, c0)


def plain(order, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Run a lane in plain PyTorch -> h [T, B, P], c_n [B, H]."""
    made = unrolled(UNFUSED, order, *inputs)
    return reference.in_time(made, 0), made[order.steps[-1]][1]


class Hoisted(torch.autograd.Function):
    """apply(cell, products, order, x_part, h0, c0, w_hh, w_hr) -> h [T, B, P], c_n [B, H]."""

    @staticmethod
    def forward(ctx, cell, products, order, *inputs):
        made = recurrence(cell, products, order, *inputs, keep=True)
        h, (_, c_n, *_) = reference.in_time(made, 0), made[order.steps[-1]]
        ctx.of, ctx.steps = (cell, products, order), len(order.steps)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, h, *(t for n in order.steps for t in made[n][1:]))
        return h, c_n

    @staticmethod
    def backward(ctx, dh_all, dc_n):
        tensors = ctx.saved_tensors  # once: under torch.utils.checkpoint a second time fails
        *inputs, h = tensors[:6]
        saved = tensors[6:]
        order, each = ctx.of[2], len(saved) // ctx.steps
        if torch._C._are_functorch_transforms_active():
            grads = pulled_back(partial(plain, order), inputs, (dh_all, dc_n))
            return None, None, None, *grads
        kept = {t: saved[each * n : each * (n + 1)] for n, t in enumerate(order.steps)}
        run = partial(recurrence_backward, *ctx.of, h, kept)
        if torch.is_grad_enabled():
            run = partial(Backward.apply, run, partial(plain, order), 2)
        with flush_denormals() if h.device.type == "cpu" else nullcontext():
            return None, None, None, *run(dh_all, dc_n, *inputs)


def recurrence_backward(
    cell: Pointwise,
    products: Products,
    order: Order,
    h: Tensor,
    kept: dict[int, Sequence[Tensor]],
    dh_all: Tensor | None,
    dc_n: Tensor | None,
    x_part: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_hh: Tensor,
    w_hr: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Return the gradients by x_part (every step's dgates), h0, c0, w_hh and w_hr.

    Args:
        h: [T, B, P], after each step.
        kept: of each step c after it, and what `recurrence` kept.
        dh_all, dc_n: the gradients by h after each step [T, B, P] and by c_n [B, H], or None.
    """
    before = dict(zip(order.steps[1:], order.steps[:-1], strict=True))
    made: dict[int, tuple[Tensor, Tensor]] = {}
    dh, dc = torch.zeros_like(h0), torch.zeros_like(c0) if dc_n is None else dc_n
    for t in reversed(order.steps):
        if dh_all is not None:
            dh = dh + dh_all[t]
        by_projected, by_c = order.output(t, dh), order.output(t, dc)
        by_h = by_projected if w_hr is None else products.by_rows(by_projected, w_hr)
        (c_prev,) = order.before(t, kept[before[t]][0] if t in before else c0)
        c_next, of_cell, *_ = kept[t]
        dgates, by_c = cell.backward(of_cell, c_prev, c_next, by_h, by_c)
        by_h, by_c = order.before(t, products.by_rows(dgates, w_hh), by_c)
        dh, dc = order.after(t, by_h, dh), order.after(t, by_c, dc)
        made[t] = dgates, by_projected
    dx_part = reference.in_time(made, 0)
    forwards = order.steps.step > 0
    h_prev = torch.cat([h0[None], h[:-1]] if forwards else [h[1:], h0[None]])
    if order.not_reset is not None:
        h_prev = torch.where(order.not_reset, h_prev, 0.0)
    dw_hh, dw_hr = products.of_weight(dx_part.flatten(0, 1), h_prev.flatten(0, 1)), None
    if w_hr is not None:
        unprojected = reference.in_time(kept, 2).flatten(0, 1)
        dw_hr = products.of_weight(reference.in_time(made, 1).flatten(0, 1), unprojected)
    return dx_part, dh, dc, dw_hh, dw_hr
