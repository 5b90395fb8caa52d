"""Engine `loop`: the TensorFlow tutorial's LSTM, one step after another, with nothing fused.

A step of a layer is one matrix product on [x, h] and about ten pointwise kernels, each with its own
launch and its own trip to memory. `steps` takes the cell as an argument, which is all that
fuse="pointwise" replaces. fuse="hoisted" is fused_lstm.ladder.hoisted with the same cell. Cells
other than nn.LSTM's run in fused_lstm.reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import pointwise, reference, stack
from ..reference import by_layer, state_dtype
from ..rows import Padding
from ..spec import Spec
from . import hoisted
from .cell import UNFUSED

Cell = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Compute nn.LSTM's cell, a kernel an operation: gates [B, 4H], c [B, H] -> h, c_next."""
    i, f, g, o = gates.chunk(4, dim=1)
    c_next = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c_next.tanh()
    return h.to(gates.dtype), c_next


def steps(
    spec: Spec,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    not_reset: Tensor | None,
    states: bool,
    cell: Cell,
    drop: stack.Drop | None,
    linear: Callable[..., Tensor] = F.linear,
) -> tuple[Tensor, ...]:
    """Run a call, as in fused_lstm.choose, with `cell` at each step and `drop` between layers.

    cell: nn.LSTM's, with coupled gates or not.
    linear: F.linear, or a function of the same arguments: x [B, I + P], weight [4H, I + P], bias.
    """
    layers = by_layer(weights, len(h0), spec)
    rows = Padding(x, h0.shape[1], batch_sizes, not_reset)

    def sweep(x: Tensor, lane: int) -> stack.Swept:
        layer, order = layers[lane], rows.order(lane % spec.directions)
        weight, bias = torch.cat([layer.w_ih, layer.w_hh], dim=1), layer.bias()
        if spec.coupled:  # 1 - sigma(a) is sigma(-a)
            weight = pointwise.four_gates(weight)
            bias = None if bias is None else pointwise.four_gates(bias)
        h, c = h0[lane], c0[lane].to(state_dtype(x.dtype))
        xs, outputs, cs = x.unbind(0), {}, {}
        for t in order.steps:
            h_prev, c_prev = order.before(t, h, c)
            gates = linear(torch.cat([xs[t], h_prev], dim=1), weight, bias)
            h_next, c_next = cell(gates, c_prev)
            if layer.w_hr is not None:
                h_next = F.linear(h_next, layer.w_hr)
            h, c = order.after(t, h_next, h), order.after(t, c_next, c)
            outputs[t], cs[t] = order.output(t, h), c
        in_time = range(rows.T)
        h_all = torch.stack([outputs[t] for t in in_time])
        c_all = torch.stack([cs[t] for t in in_time]) if states else None
        return stack.Swept(h_all, c_all, h, c)

    return stack.run_lanes(spec, x, c0.dtype, rows, sweep, drop, states)


def run(
    spec: Spec,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weights: Sequence[Tensor],
    seed: Tensor | None = None,
    batch_sizes: Tensor | None = None,
    not_reset: Tensor | None = None,
    states: bool = False,
) -> tuple[Tensor, ...]:
    """Run a call, as in fused_lstm.choose."""
    p, level = spec.dropout, spec.level
    if level != "hoisted" and not spec.is_plain_lstm:
        return reference.run(spec, x, h0, c0, weights, seed, batch_sizes, not_reset)
    drop = (lambda y, _: F.dropout(y, p)) if p > 0 else None
    call = spec, x, h0, c0, weights, batch_sizes, not_reset, states
    if level == "hoisted":
        return hoisted.steps(*call, UNFUSED, drop)
    return steps(*call, cell, drop)


def missing(device: torch.device) -> str | None:
    return None


def describe(device: torch.device) -> str:
    return "a step loop in PyTorch, one kernel for each operation"
