"""Engine `loop`: the TensorFlow tutorial's LSTM, one step after another. Nothing is fused.

A step of a layer is one matrix product on [x, h] and about ten pointwise kernels, each with its
own launch and its own trip to memory. `unrolled` takes the cell as an argument: that is the one
thing fuse="pointwise" replaces, so the two rungs differ in nothing else.
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


def unrolled(
    x: Tensor, h0: Tensor, c0: Tensor, weights: Sequence[Tensor], dropout: float, cell: Cell
) -> tuple[Tensor, Tensor, Tensor]:
    """Run `cell` step by step, layer by layer; shapes as in fused_lstm.engines."""
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

    drop = (lambda y, layer: F.dropout(y, dropout)) if dropout > 0 else None
    y = stack.run(x, len(layers), sweep, drop)
    h_n, c_n = map(torch.stack, zip(*states, strict=True))
    return y, h_n, c_n


def missing(device: torch.device) -> str | None:
    return None


def describe(device: torch.device) -> str:
    return "a step loop in PyTorch, one kernel for each operation"


def lstm(
    x: Tensor, h0: Tensor, c0: Tensor, weights: Sequence[Tensor], dropout: float, fuse: str
) -> tuple[Tensor, Tensor, Tensor]:
    return unrolled(x, h0, c0, weights, dropout, cell)
