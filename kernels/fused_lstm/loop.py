"""Engine `loop`: the TensorFlow tutorial's LSTM, one step after another. Nothing is fused.

A step of a layer is one matrix product on [x, h] and about ten pointwise kernels, each with its
own launch and its own trip to memory. `steps` takes the cell as an argument: that is the one thing
fuse="pointwise" replaces, so the two rungs differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import stack
from .reference import by_layer, state_dtype

Cell = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """gates [B, 4H] before activation, c [B, H] -> h, c_next [B, H]: every operation a kernel."""
    i, f, g, o = gates.chunk(4, dim=1)
    c_next = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c_next.tanh()
    return h.to(gates.dtype), c_next


def steps(
    h0: Tensor, c0: Tensor, weights: Sequence[Tensor], cell: Cell
) -> tuple[stack.Sweep, list[tuple[Tensor, Tensor]]]:
    """A sweep for fused_lstm.stack that calls `cell` at each step, and where it puts last states.

    h0, c0: [L, B, H]; weights flat, as in fused_lstm.engines.
    """
    layers, states = list(by_layer(weights, len(h0))), []

    def sweep(x: Tensor, lane: int) -> Tensor:
        layer, outputs = layers[lane], []
        weight, bias = torch.cat([layer.w_ih, layer.w_hh], dim=1), layer.bias()
        h, c = h0[lane], c0[lane].to(state_dtype(x.dtype))
        for x_t in x.unbind(0):
            gates = F.linear(torch.cat([x_t, h], dim=1), weight, bias)
            h, c = cell(gates, c)
            outputs.append(h)
        states.append((h, c.to(c0.dtype)))
        return torch.stack(outputs)

    return sweep, states


def last(states: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """h_n, c_n [L, B, H] of what a sweep has left."""
    h_n, c_n = zip(*states, strict=True)
    return torch.stack(h_n), torch.stack(c_n)


def lstm(
    x: Tensor, h0: Tensor, c0: Tensor, weights: Sequence[Tensor], dropout: float, fuse: str | None
) -> tuple[Tensor, Tensor, Tensor]:
    sweep, states = steps(h0, c0, weights, cell)
    drop = (lambda y, _: F.dropout(y, dropout)) if dropout > 0 else None
    return stack.run(x, len(h0), sweep, drop), *last(states)


def missing(device: torch.device) -> str | None:
    return None


def describe(device: torch.device) -> str:
    return "a step loop in PyTorch, one kernel for each operation"
