"""Engine `loop`: the TensorFlow tutorial's LSTM, one step after another. Nothing is fused.

A step of a layer is one matrix product on [x, h] and about ten pointwise kernels, each with its
own launch and its own trip to memory. `steps` takes the cell as an argument: that is the one thing
fuse="pointwise" replaces, so the two rungs differ in nothing else. Cells other than nn.LSTM's are
fused_lstm.reference's own loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import hoisted, reference, stack
from .cell import PLAIN, Cell
from .reference import by_layer, state_dtype
from .rows import Rows

Pointwise = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """gates [B, 4H] before activation, c [B, H] -> h, c_next [B, H]: every operation a kernel."""
    i, f, g, o = gates.chunk(4, dim=1)
    c_next = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c_next.tanh()
    return h.to(gates.dtype), c_next


def steps(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weights: Sequence[Tensor],
    cell: Pointwise,
    directions: int = 1,
    batch_sizes: Tensor | None = None,
    keep: Tensor | None = None,
    linear: Callable[..., Tensor] = F.linear,
) -> tuple[stack.Sweep, list[tuple[Tensor, Tensor]]]:
    """A sweep for fused_lstm.stack that calls `cell` at each step, and where it puts last states.

    Arguments as in fused_lstm.engines; x says how its rows lie. linear: x, W, b -> W x + b.
    """
    lanes, states = list(by_layer(weights, len(h0))), []
    rows = Rows(x, h0.shape[1], batch_sizes, keep)

    def sweep(x: Tensor, lane: int) -> Tensor:
        own, order = lanes[lane], rows.order(lane % directions)
        weight, bias = torch.cat([own.w_ih, own.w_hh], dim=1), own.bias()
        h, c = h0[lane], c0[lane].to(state_dtype(x.dtype))
        xs, outputs = rows.pad(x).unbind(0), {}
        for t in order.steps:
            h_prev, c_prev = order.before(t, h, c)
            gates = linear(torch.cat([xs[t], h_prev], dim=1), weight, bias)
            h_next, c_next = cell(gates, c_prev)
            if own.w_hr is not None:
                h_next = F.linear(h_next, own.w_hr)
            h, c = order.after(t, h_next, h), order.after(t, c_next, c)
            outputs[t] = order.output(t, h)
        states.append((h, c.to(c0.dtype)))
        return rows.pack(torch.stack([outputs[t] for t in range(rows.T)]))

    return sweep, states


def last(states: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """h_n [L * D, B, P], c_n [L * D, B, H] of what a sweep has left."""
    h_n, c_n = zip(*states, strict=True)
    return torch.stack(h_n), torch.stack(c_n)


def lstm(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weights: Sequence[Tensor],
    dropout: float,
    fuse: str | None,
    directions: int = 1,
    batch_sizes: Tensor | None = None,
    keep: Tensor | None = None,
    options: Cell = PLAIN,
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    lanes = directions, batch_sizes, keep
    if options.on:
        return reference.lstm(x, h0, c0, weights, dropout, seed, *lanes, options)
    if fuse == "hoisted":
        sweep, states = hoisted.steps(x, h0, c0, weights, hoisted.UNFUSED, *lanes)
    else:
        sweep, states = steps(x, h0, c0, weights, cell, *lanes)
    drop = (lambda y, _: F.dropout(y, dropout)) if dropout > 0 else None
    return stack.run(x, len(h0) // directions, sweep, drop, directions), *last(states)


def missing(device: torch.device) -> str | None:
    return None


def describe(device: torch.device) -> str:
    return "a step loop in PyTorch, one kernel for each operation"
