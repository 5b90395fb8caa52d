"""fuse="hoisted": every product that needs no order in time is made once, outside the loop.

A step loop makes five products at every step: W x and R h on the way forward, and on the way back
those of dW, dR and of the gradient by [x, h]. Only R h and dgates R need the step before. Here

    before the loop   W x + b of all steps, one product
    in the loop       R h and the cell's pointwise work; backwards the same, and dgates R
    after the loop    dW, dR, dx, db and dW_hr, one product or one sum each

so a weight's gradient is written once, and not once a step and summed. Nothing is kept on chip and
no launch covers two steps: that is what fuse="steps" adds.

W x, dW, db and dx are PyTorch's own F.linear, whose derivative is one product each. The rest, a
lane's recurrence, is a `Recurrence`, with a backward written by hand.

T, B, H, P: time steps, batch, hidden size, size of h (H unless it is projected). Gate order i, f,
g, o. A lane is one layer in one direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import pointwise, reference, stack
from .derivatives import Fused, call_of, filled
from .reference import by_layer, state_dtype
from .rows import Order, Rows

Product = Callable[[Tensor, Tensor], Tensor]


class Pointwise(NamedTuple):
    """How an engine computes nn.LSTM's cell between two products."""

    # gates [B, 4H] before activation, c [B, H] -> h [B, H], c_next [B, H], and what backward keeps
    forward: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
    # kept [B, 4H], c, c_next, dh, dc_next [B, H] -> dgates [B, 4H], dc [B, H]
    backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def _by_rows(dgates: Tensor, weight: Tensor) -> Tensor:
    return torch.mm(dgates, weight)


def _of_weight(dgates: Tensor, left: Tensor) -> Tensor:
    return torch.mm(dgates.T, left)


def _step(x_part: Tensor, h: Tensor, w_hh: Tensor) -> Tensor:
    return torch.addmm(x_part, h, w_hh.T)


class Products(NamedTuple):
    """How matrices are multiplied; PyTorch's way unless a benchmark says otherwise.

    N: rows of one step or of all.
    """

    linear: Callable[..., Tensor] = F.linear  # x [.., I], W [4H, I], b [4H] or None: W x + b
    step: Callable[[Tensor, Tensor, Tensor], Tensor] = _step  # W x + b of a step, h, R: + R h
    by_rows: Product = _by_rows  # dgates [N, 4H], R [4H, P] -> [N, P]
    of_weight: Product = _of_weight  # dgates [N, 4H], h [N, P] -> R's gradient [4H, P]


TORCH = Products()

# The cell as engine `loop` has it: a kernel for each operation.
UNFUSED = Pointwise(pointwise.forward, reference.cell_backward)


def fused(ops: SimpleNamespace) -> Pointwise:
    """The cell as one kernel each way: the operators `cell` and `cell_backward` of an engine."""

    def forward(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return *ops.cell.default(gates, c), gates

    return Pointwise(forward, ops.cell_backward.default)


def steps(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weights: Sequence[Tensor],
    cell: Pointwise,
    directions: int = 1,
    batch_sizes: Tensor | None = None,
    keep: Tensor | None = None,
    products: Products = TORCH,
) -> tuple[stack.Sweep, list[tuple[Tensor, Tensor]]]:
    """Return a sweep for fused_lstm.stack, and where it puts last states, as loop.steps does.

    A graph that is being made, of torch.compile or a trace, takes the loop's own derivatives: there
    R's gradient is a product a step, summed.

    Args:
        x, h0, c0, weights, directions, batch_sizes, keep: as in fused_lstm.engines.
        cell: `UNFUSED`, or `fused` of an engine's operators.
        products: how matrices are multiplied.
    """
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    save = torch.is_grad_enabled() and any(t.requires_grad for t in (x, h0, c0, *weights))
    lanes, states = list(by_layer(weights, len(h0))), []
    rows = Rows(x, h0.shape[1], batch_sizes, keep)

    def sweep(x: Tensor, lane: int) -> Tensor:
        layer, order = lanes[lane], rows.order(lane % directions)
        x_part = products.linear(rows.pad(x), layer.w_ih, layer.bias())
        c = c0[lane].to(state_dtype(x.dtype))
        inputs = x_part, h0[lane], c, layer.w_hh, layer.w_hr
        if traced:
            h, c_n = unrolled(*inputs, order, cell)
        else:
            call = Recurrence(cell, products, order.steps, save)
            h, c_n, *_ = call_of(Fused, save)(call, *inputs, order.live, order.keep)
        states.append((h[order.steps[-1]], c_n.to(c0.dtype)))
        return rows.pack(h)

    return sweep, states


# --- the recurrence of a lane ---


def unrolled(
    x_part: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_hh: Tensor,
    w_hr: Tensor | None,
    order: Order,
    cell: Pointwise,
) -> tuple[Tensor, Tensor]:
    """The recurrence for autograd to differentiate, whose arguments `Recurrence.kernel` has.

    Returns:
        h [T, B, P], the state after each step, and c_n [B, H].
    """
    h, c, outputs = h0, c0, {}
    for t in order.steps:
        h_prev, c_prev = order.before(t, h, c)
        h_next, c_next, *_ = cell.forward(x_part[t] + F.linear(h_prev, w_hh), c_prev)
        if w_hr is not None:
            h_next = F.linear(h_next, w_hr)
        h, c = order.after(t, h_next, h), order.after(t, c_next, c)
        outputs[t] = h
    return torch.stack([outputs[t] for t in range(len(x_part))]), c


@dataclass(slots=True, eq=False)
class Recurrence:
    """A lane less its input product: a `Differentiable` call of fused_lstm.derivatives."""

    cell: Pointwise
    products: Products
    order: range  # the steps in the lane's order of time
    save: bool
    inputs: int = 5
    results: int = 2

    def arguments(self, *tensors):
        return tensors, {}

    def kernel(
        self,
        x_part: Tensor,  # [T, B, 4H], W x + b
        h0: Tensor,  # [B, P]
        c0: Tensor,  # [B, H] in the state dtype
        w_hh: Tensor,  # [4H, P]
        w_hr: Tensor | None,  # [P, H] where h is projected
        live: Tensor | None,  # [T, B, 1] as `Order` has it
        keep: Tensor | None,  # [T, B, 1]
    ) -> tuple[Tensor, ...]:
        """Return h [T, B, P], the state after each step, c_n [B, H], and what a backward needs.

        That is, where it is kept: the gates of all steps as the cell keeps them, c after all steps
        but the lane's last, whose is c_n, and where h is projected what it was before; in order of
        time.
        """
        order, parts = Order(self.order, live, keep), x_part.unbind(0)
        h, c, states, kept, unprojected = h0, c0, {}, {}, {}
        outputs = x_part.new_empty(len(parts), *h0.shape)
        for t in order.steps:
            h_prev, c_prev = order.before(t, h, c)
            gates = self.products.step(parts[t], h_prev, w_hh)
            h_next, c_next, kept[t] = self.cell.forward(gates, c_prev)
            if w_hr is not None:
                unprojected[t] = h_next
                h_next = self.products.linear(h_next, w_hr, None)
            h, c = order.after(t, h_next, h), order.after(t, c_next, c)
            outputs[t], states[t] = h, c
            if not self.save:
                states, kept, unprojected = {}, {}, {}
        states.pop(order.steps[-1], None)
        saved = (of[t] for of in (kept, states, unprojected) for t in sorted(of))
        return outputs, c, *saved

    def twin(self, x_part, h0, c0, w_hh, w_hr, live, keep):
        return unrolled(x_part, h0, c0, w_hh, w_hr, Order(self.order, live, keep), UNFUSED)

    def kept(self, h, c_n, *saved):
        return h, c_n, *saved

    def backward(self, needed):
        return RecurrenceBackward(self)


@dataclass(slots=True, eq=False)
class RecurrenceBackward:
    """Gradients by a `Recurrence`'s inputs: a `Call` of fused_lstm.derivatives."""

    forward: Recurrence
    inputs: int = 7

    def arguments(self, dh, dc_n, x_part, h0, c0, w_hh, w_hr, live, keep, h, c_n, *saved):
        if not saved:  # an outer transform wanted what nobody here knew of
            saving = Recurrence(self.forward.cell, self.forward.products, self.forward.order, True)
            h, c_n, *saved = saving.kernel(x_part, h0, c0, w_hh, w_hr, live, keep)
        dh, dc_n = filled((dh, dc_n), (h, c_n))
        return (dh, dc_n, h0, c0, w_hh, w_hr, live, keep, h, c_n, *saved), {}

    def kernel(
        self,
        dh_all: Tensor,  # [T, B, P], by the state after each step
        dc_n: Tensor,  # [B, H], by the last c
        h0: Tensor,
        c0: Tensor,
        w_hh: Tensor,
        w_hr: Tensor | None,
        live: Tensor | None,
        keep: Tensor | None,
        h: Tensor,  # [T, B, P]; this and what follows are the forward's results
        c_n: Tensor,
        *saved: Tensor,
    ) -> tuple[Tensor | None, ...]:
        """Return dx_part [T, B, 4H], which is every step's dgates, dh0, dc0, dw_hh and dw_hr."""
        products, cell, T = self.forward.products, self.forward.cell, len(h)
        order = Order(self.forward.order, live, keep)
        gates, unprojected = saved[:T], saved[2 * T - 1 :]
        c = dict(zip(sorted(order.steps[:-1]), saved[T : 2 * T - 1], strict=True))
        c[order.steps[-1]] = c_n
        previous = dict(zip(order.steps[1:], order.steps[:-1], strict=True))
        dgates, by_projected = {}, {}
        dh, dc = torch.zeros_like(h0), dc_n
        for t in reversed(order.steps):
            dh = dh + dh_all[t]
            by_h, by_c = order.output(t, dh), order.output(t, dc)
            if w_hr is not None:
                by_projected[t] = by_h
                by_h = products.by_rows(by_h, w_hr)
            (c_prev,) = order.before(t, c[previous[t]] if t in previous else c0)
            dgates[t], by_c = cell.backward(gates[t], c_prev, c[t], by_h, by_c)
            by_h, by_c = order.before(t, products.by_rows(dgates[t], w_hh), by_c)
            dh, dc = order.after(t, by_h, dh), order.after(t, by_c, dc)
        dx_part = torch.stack([dgates[t] for t in range(T)])
        dw_hh = products.of_weight(dx_part.flatten(0, 1), _before_each_step(h, h0, order))
        dw_hr = None
        if w_hr is not None:
            rows = torch.cat([by_projected[t] for t in range(T)])
            dw_hr = products.of_weight(rows, torch.cat(unprojected))
        return dx_part, dh, dc, dw_hh, dw_hr

    def twin(self, dh, dc_n, x_part, h0, c0, w_hh, w_hr, live, keep, *results):
        weights = (w_hh,) if w_hr is None else (w_hh, w_hr)

        def forward(x_part, h0, c0, w_hh, w_hr=None):
            return self.forward.twin(x_part, h0, c0, w_hh, w_hr, live, keep)

        outputs, pullback = torch.func.vjp(forward, x_part, h0, c0, *weights)
        return pullback(filled((dh, dc_n), outputs))


def _before_each_step(h: Tensor, h0: Tensor, order: Order) -> Tensor:
    """[T * B, P]: the h that each step started from, in order of time."""
    forwards = order.steps.step > 0
    previous = torch.cat([h0[None], h[:-1]] if forwards else [h[1:], h0[None]])
    if order.keep is not None:
        previous = torch.where(order.keep, previous, 0.0)
    return previous.flatten(0, 1)
