"""fuse="hoisted": each product that needs no order in time runs once, outside the loop.

A step loop runs five products at every step: W x and R h forward; dW, dR and the gradient by [x, h]
backward. Only R h and dgates R need the step before. At this level

    before the loop   W x + b of all steps, one product
    in the loop       R h and the cell's pointwise work; in the backward also dgates R
    after the loop    dW, dR, dx, db and dW_hr, one product or one sum each

so a weight's gradient is written once, and not at every step. Weights are not kept on chip and no
launch covers two steps: fuse="steps" adds both.

PyTorch's F.linear computes W x, dW, db and dx. The recurrence of a lane has a backward written by
hand.

T, B, H, P: time steps, batch, hidden size, size of h (H unless it is projected). Gate order i, f,
g, o. A lane is one layer in one direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import pointwise, stack
from ..choose import in_a_graph
from ..denormals import flush_denormals
from ..pullback import Backward, is_differentiated, is_transformed, pulled_back
from ..reference import by_layer, state_dtype
from ..rows import Order, Padding
from ..spec import Spec
from .cell import UNFUSED, Pointwise


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


def steps(
    spec: Spec,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    not_reset: Tensor | None,
    states: bool,
    cell: Pointwise,
    drop: stack.Drop | None,
    products: Products = TORCH,
) -> tuple[Tensor, ...]:
    """Run a call, as in fused_lstm.choose, with `drop` between layers.

    In a graph (torch.compile, torch.jit.trace), and with `states`, autograd differentiates the
    loop: R's gradient is then a product at every step.

    Args:
        cell: `UNFUSED`, or `fused` with an engine's operators: nn.LSTM's, gates coupled or not.
        products: the products; a benchmark may replace PyTorch's.
    """
    layers = by_layer(weights, len(h0), spec)
    rows = Padding(x, h0.shape[1], batch_sizes, not_reset)
    unrolls = states or in_a_graph()

    def sweep(x: Tensor, lane: int) -> stack.Swept:
        layer, order = layers[lane], rows.order(lane % spec.directions)
        w_ih, w_hh, bias = layer.w_ih, layer.w_hh, layer.bias()
        if spec.coupled:
            w_ih, w_hh = pointwise.four_gates(w_ih), pointwise.four_gates(w_hh)
            bias = None if bias is None else pointwise.four_gates(bias)
        x_part, c = products.linear(x, w_ih, bias), c0[lane].to(state_dtype(x.dtype))
        inputs = x_part, h0[lane], c, w_hh, layer.w_hr
        if unrolls or is_transformed():
            h, c_all = unrolled(order, UNFUSED if is_transformed() else cell, *inputs)
            last = order.steps[-1]
            return stack.Swept(h, c_all if states else None, h[last], c_all[last])
        if is_differentiated(*inputs):
            h, c_n = RecurrenceFunction.apply(cell, products, order, *inputs)
        else:
            h, c_n = recurrence(cell, products, order, *inputs)
        return stack.Swept(h, None, h[order.steps[-1]], c_n)

    return stack.run_lanes(spec, x, c0.dtype, rows, sweep, drop, states)


# --- the recurrence of a lane ---


class Kept(NamedTuple):
    """The tensors that a backward needs of each step, in order of time."""

    gates: list[Tensor]  # T x [B, 4H], as `Pointwise.forward` returns them
    c: list[Tensor]  # T x [B, H], after each step
    unprojected: list[Tensor]  # T x [B, H] where h is projected, else none


def recurrence(
    cell: Pointwise,
    products: Products,
    order: Order,
    x_part: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_hh: Tensor,
    w_hr: Tensor | None,
    kept: Kept | None = None,
) -> tuple[Tensor, Tensor]:
    """Run a lane whose input product is done.

    Args:
        order: the lane's steps.
        x_part: [T, B, 4H], W x + b.
        h0, c0: [B, P], and [B, H] in the state dtype.
        w_hh, w_hr: [4H, P], and [P, H] where h is projected, else None.
        kept: empty lists to fill for a backward, or None.

    Returns:
        h [T, B, P], the state after each step in order of time, and c_n [B, H].
    """
    h, c, parts = h0, c0, x_part.unbind(0)
    outputs = x_part.new_empty(len(parts), *h0.shape)
    for t in order.steps:
        h_prev, c_prev = order.before(t, h, c)
        h_next, c_next, gates = cell.forward(products.step(parts[t], h_prev, w_hh), c_prev)
        unprojected = h_next
        if w_hr is not None:
            h_next = products.linear(h_next, w_hr, None)
        h, c = order.after(t, h_next, h), order.after(t, c_next, c)
        outputs[t] = h
        if kept is not None:
            kept.gates.append(gates)
            kept.c.append(c)
            if w_hr is not None:
                kept.unprojected.append(unprojected)
    if kept is not None and order.steps.step < 0:
        for of_steps in kept:
            of_steps.reverse()
    return outputs, c


def recurrence_backward(
    cell: Pointwise,
    products: Products,
    order: Order,
    h: Tensor,
    kept: Kept,
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
        cell, products, order, x_part, h0, c0, w_hh, w_hr: the arguments of `recurrence`.
        h, kept: the results of `recurrence`.
        dh_all, dc_n: the gradients by h after each step [T, B, P] and by c_n [B, H], or None.
    """
    previous = dict(zip(order.steps[1:], order.steps[:-1], strict=True))
    dgates, by_projected = {}, {}
    dh, dc = torch.zeros_like(h0), torch.zeros_like(c0) if dc_n is None else dc_n
    for t in reversed(order.steps):
        if dh_all is not None:
            dh = dh + dh_all[t]
        by_h, by_c = order.output(t, dh), order.output(t, dc)
        if w_hr is not None:
            by_projected[t] = by_h
            by_h = products.by_rows(by_h, w_hr)
        (c_prev,) = order.before(t, kept.c[previous[t]] if t in previous else c0)
        dgates[t], by_c = cell.backward(kept.gates[t], c_prev, kept.c[t], by_h, by_c)
        by_h, by_c = order.before(t, products.by_rows(dgates[t], w_hh), by_c)
        dh, dc = order.after(t, by_h, dh), order.after(t, by_c, dc)
    in_time = range(len(x_part))
    dx_part = torch.stack([dgates[t] for t in in_time])
    dw_hh = products.of_weight(dx_part.flatten(0, 1), _before_each_step(h, h0, order))
    dw_hr = None
    if w_hr is not None:
        rows = torch.cat([by_projected[t] for t in in_time])
        dw_hr = products.of_weight(rows, torch.cat(kept.unprojected))
    return dx_part, dh, dc, dw_hh, dw_hr


def _before_each_step(h: Tensor, h0: Tensor, order: Order) -> Tensor:
    """Return the h that each step started from [T * B, P], in order of time."""
    forwards = order.steps.step > 0
    previous = torch.cat([h0[None], h[:-1]] if forwards else [h[1:], h0[None]])
    if order.not_reset is not None:
        previous = torch.where(order.not_reset, previous, 0.0)
    return previous.flatten(0, 1)


def unrolled(
    order: Order,
    cell: Pointwise,
    x_part: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_hh: Tensor,
    w_hr: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Run `recurrence` so that autograd can differentiate it -> h [T, B, P], c [T, B, H]."""
    h, c, hs, cs = h0, c0, {}, {}
    for t in order.steps:
        h_prev, c_prev = order.before(t, h, c)
        h_next, c_next, _ = cell.forward(x_part[t] + F.linear(h_prev, w_hh), c_prev)
        if w_hr is not None:
            h_next = F.linear(h_next, w_hr)
        h, c = order.after(t, h_next, h), order.after(t, c_next, c)
        hs[t], cs[t] = h, c
    in_time = range(len(x_part))
    return torch.stack([hs[t] for t in in_time]), torch.stack([cs[t] for t in in_time])


def _plain(
    order: Order, x_part: Tensor, h0: Tensor, c0: Tensor, w_hh: Tensor, w_hr: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Run `recurrence` in plain PyTorch -> h [T, B, P], c_n [B, H]."""
    h, c = unrolled(order, UNFUSED, x_part, h0, c0, w_hh, w_hr)
    return h, c[order.steps[-1]]


class RecurrenceFunction(torch.autograd.Function):
    """apply(cell, products, order, x_part, h0, c0, w_hh, w_hr) -> h, c_n of `recurrence`."""

    @staticmethod
    def forward(ctx, cell, products, order, *inputs):
        kept = Kept([], [], [])
        h, c_n = recurrence(cell, products, order, *inputs, kept)
        kept.c.pop(order.steps[-1])  # c_n, which autograd saves as a result
        ctx.cell, ctx.products, ctx.order, ctx.T = cell, products, order, len(h)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, h, c_n, *kept.gates, *kept.c, *kept.unprojected)
        return h, c_n

    @staticmethod
    def backward(ctx, dh_all, dc_n):
        x_part, h0, c0, w_hh, w_hr, h, c_n, *saved = ctx.saved_tensors  # read once
        inputs, T, order = (x_part, h0, c0, w_hh, w_hr), ctx.T, ctx.order
        if torch._C._are_functorch_transforms_active():
            grads = pulled_back(partial(_plain, order), inputs, (dh_all, dc_n))
            return None, None, None, *grads
        c = saved[T : 2 * T - 1]
        c.insert(order.steps[-1], c_n)
        kept = Kept(saved[:T], c, saved[2 * T - 1 :])
        run = partial(recurrence_backward, ctx.cell, ctx.products, order, h, kept)
        if torch.is_grad_enabled():
            run = partial(Backward.apply, run, partial(_plain, order), 2)
        with flush_denormals() if x_part.device.type == "cpu" else nullcontext():
            return None, None, None, *run(dh_all, dc_n, *inputs)
