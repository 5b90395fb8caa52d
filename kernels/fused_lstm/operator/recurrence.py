"""Layers with heads, and the sLSTM: one product of x, then one operator for the recurrence.

With recurrent weights in N blocks, heads do not depend on each other. So a layer is one product of
x for all gates, by PyTorch, and N independent recurrences of K units: an engine's operator
`recurrence` (operator.ops). A layer that computes its gates otherwise, such as xLSTM's, calls
`recur`.

T, B, H, N, K: time steps, batch, hidden size, heads, H / N. G: gates. S: states beside h, at least
one.
"""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import reference
from ..call.choose import in_a_graph
from ..call.record import Call
from ..call.rows import Padding
from ..call.spec import CELLS, Spec, is_reversed
from ..reference import Layer, by_layer, input_product, stack
from . import transforms
from .pullback import Forms, Forward, is_differentiated, is_transformed, kernel


class LaneCell(NamedTuple):
    """A lane's cell and direction, as arguments of the operators."""

    name: str  # of fused_lstm.call.spec.CELLS
    reverse: bool = False  # from the last step to the first
    clip: float = 0.0  # the largest gradient through R; 0 for no limit
    precision: str | None = None  # as in the operator lstm

    @property
    def spec(self) -> Spec:
        """The Spec of the lane, for the reference."""
        return _spec_of(self.name, self.clip)


@lru_cache
def _spec_of(name: str, clip: float) -> Spec:
    return Spec(name, recurrent_clip=clip or None)


def cell_of(spec: Spec, lane: int = 0) -> LaneCell:
    """Return the operators' arguments for a call's lane."""
    clip = spec.recurrent_clip or 0.0
    return LaneCell(spec.cell, is_reversed(spec, lane), float(clip), spec.precision)


# --- a stack of layers ---


def run(ops: SimpleNamespace, call: Call, drop: stack.Drop | None) -> tuple[Tensor, ...]:
    """Run a call, as in fused_lstm.call.choose, with `drop` between layers."""
    spec, h0, c0, states = call.spec, call.h0, call.c0, call.states
    layers, D, not_reset = by_layer(call.weights, len(h0), spec), spec.directions, call.not_reset

    def sweep(x: Tensor, lane: int) -> stack.Swept:
        layer = layers[lane]
        bias, bias_m = biases(layer, spec)
        w_hh = layer.w_hh if layer.w_hh.dim() == 3 else layer.w_hh[None]
        y, h_n, c_n, c = recur(
            ops, cell_of(spec, lane), input_product(x, layer, spec, bias), h0[lane], c0[lane], w_hh,
            bias_m, call.batch_sizes, None if not_reset is None else not_reset[lane % D], states,
        )  # fmt: skip
        if not spec.has_c:
            return stack.Swept(y, y if states else None, h_n, h_n)
        return stack.Swept(y, by_state(c, spec.c_parts) if states else None, h_n, c_n)

    return stack.run_lanes(spec, call.x, c0.dtype, sweep, drop)


def biases(layer: Layer, spec: Spec) -> tuple[Tensor | None, Tensor | None]:
    """Return the biases of x's part of the gates [G*H], and those of h's parts that stay alone.

    The latter is a GRU's [H] of m, and None where a cell has no such parts.
    """
    kind = CELLS[spec.cell]
    if (not kind.apart and kind.of_h == kind.gates) or layer.b_ih is None or layer.b_hh is None:
        return layer.bias(), None
    of_x = kind.gates - kind.inputs
    H = len(layer.b_ih) // of_x
    summed, alone = layer.b_hh.split([kind.sums * H, kind.apart * H])
    by_x = layer.b_ih + F.pad(summed, (0, (of_x - kind.sums) * H))
    return by_x, alone if kind.apart else None


def heads_first(t: Tensor, N: int, K: int) -> Tensor:
    """Rearrange t [.., C*H], heads side by side in each column, to [N, .., C*K]."""
    return reference.by_head(t, N, K).movedim(-2, 0)


def by_state(c: Tensor, S: int) -> Tensor:
    """Rearrange c [N, .., S*K], heads first, to [.., S*H], states side by side."""
    return c.unflatten(-1, (S, -1)).movedim(0, -2).flatten(-3)


# --- one lane ---


def recur(
    ops: SimpleNamespace | None,
    cell: LaneCell,
    x_part: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_hh: Tensor,
    bias_m: Tensor | None = None,
    batch_sizes: Tensor | None = None,
    not_reset: Tensor | None = None,
    states: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run a lane whose input product is done.

    Args:
        ops: an engine's operators, or None for plain PyTorch.
        x_part: [T, B, G*H], or packed [n, G*H]: W x with all biases except bias_m.
        h0, c0: [B, H] and [B, S*H]; h0 twice for a cell without c.
        w_hh: [N, G*K, K].
        bias_m: [H], the bias of a GRU's m, or of all parts by h that stay alone; or None.
        batch_sizes: as in fused_lstm.call.rows.
        not_reset: as in fused_lstm.call.rows, of the lane's direction: [T, B] or [n].
        states: whether to return c after every step.

    Returns:
        y [.., H] with the rows of x_part, h_n [B, H], c_n [B, S*H] (no elements without c) and,
        with `states` or for a backward, c after each step, heads first [N, .., S*K].
    """
    tensors = x_part, h0, c0, w_hh, bias_m
    if ops is None or (is_transformed() and not in_a_graph()):
        if ops is None or states or not transforms.have_kernels():
            return plain(cell, batch_sizes, not_reset, *tensors)
        constants = batch_sizes, not_reset
        return *transforms.run(RECURRENCE, ops, cell, constants, *tensors), h0.new_empty(0)
    differentiated = is_differentiated(*tensors)
    if in_a_graph():
        save = states or differentiated or torch.jit.is_tracing()
        return ops.recurrence(
            x_part, h0, c0, w_hh, bias_m, cell.name, save, reverse=cell.reverse,
            batch_sizes=batch_sizes, not_reset=not_reset, clip=cell.clip, precision=cell.precision,
        )[:4]  # fmt: skip
    if differentiated:
        return Forward.apply(RECURRENCE, ops, cell, (batch_sizes, not_reset), *tensors)[:4]
    return forward(ops, cell, states, batch_sizes, not_reset, *tensors)[:4]


def forward(ops, cell, save, batch_sizes, not_reset, x_part, h0, c0, w_hh, bias_m):
    """Return the operator's five outputs; without `save` the last two have no elements."""
    return kernel(
        ops.recurrence.default, x_part, h0, c0, w_hh, bias_m, cell.name, save,
        reverse=cell.reverse, batch_sizes=batch_sizes, not_reset=not_reset, clip=cell.clip,
        precision=cell.precision,
    )  # fmt: skip


def backward(
    ops, cell, needs_dx, saved, dy, dh_n, dc_n, x_part, h0, c0, w_hh, bias_m, *, by_states=()
):
    """Return the operator's gradients by x_part, h0, c0, w_hh and bias_m (None without it)."""
    batch_sizes, not_reset, y, c, gates = saved
    by_c = {"dc": by_states[0]} if by_states else {}
    dx_part, *grads, dbias_m = kernel(
        ops.recurrence_backward.default, dy, dh_n, dc_n, h0, c0, w_hh, bias_m, y, c, gates,
        cell.name, reverse=cell.reverse, batch_sizes=batch_sizes, not_reset=not_reset,
        clip=cell.clip, precision=cell.precision, **by_c,
    )  # fmt: skip
    return dx_part if needs_dx else None, *grads, None if bias_m is None else dbias_m


def plain(cell, batch_sizes, not_reset, x_part, h0, c0, w_hh, bias_m):
    """Return the differentiable results of `recur`, computed by the reference."""
    spec = cell.spec
    N, _, K = w_hh.shape
    b_ih = b_hh = None
    if bias_m is not None:
        kind, H = CELLS[spec.cell], N * K
        b_ih, b_hh = bias_m.new_zeros(kind.gates * H), F.pad(bias_m, (kind.sums * H, 0))
    mask = None if not_reset is None else not_reset[None]
    rows = Padding(x_part, len(h0), batch_sizes, mask)
    order = rows.order(cell.reverse)
    layer = Layer(None, w_hh, b_ih, b_hh)
    h, c, *_ = reference.layer_forward(rows.pad(x_part), h0, c0, layer, order, spec=spec)
    end = order.steps[-1]
    y, c_n = rows.pack(h), c[end].to(c0.dtype) if spec.has_c else c0.new_empty(0)
    kind = CELLS[spec.cell]
    if not (kind.kept or kind.custom):  # its operators save h only
        return y, h[end], c_n, c.new_empty(0)
    own = [rows.pack(one) for one in heads_first(c, N, K)]
    return y, h[end], c_n, torch.stack(own)


RECURRENCE = Forms(forward, backward, plain, lambda *_: False, rows=(1, 0, 0))
