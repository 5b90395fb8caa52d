"""A stack of layers: their order, the lanes of each, and the dropout between two of them.

The one place in Python, for every engine and level that takes layers in turns; how one lane or one
layer is swept is the caller's. (C++ has a loop of its own: nothing leaves it between two layers.)

A layer has D lanes, one for each direction. Layer l's are number D * l and, backwards in time,
D * l + 1: the order of nn.LSTM's weights and states. A caller that sweeps the lanes of a layer in
one go says directions=1; its "lane" is then the whole layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .spec import Spec
from .varlen import Rows

Sweep = Callable[[Tensor, int], Tensor]  # (what a lane reads, its number) -> what it writes
Drop = Callable[[Tensor, int], Tensor]  # (a layer's output, its number) -> what is left of it


def run(x: Tensor, layers: int, sweep: Sweep, drop: Drop | None, directions: int = 1) -> Tensor:
    """The last layer's output [..., D * H], lanes side by side.

    Args:
        x: [..., I], what the first layer reads.
        layers: how many.
        sweep: (x, lane) -> y [..., H].
        drop: (y, layer) -> what the layer above reads; None where nothing is dropped.
        directions: D.
    """
    for layer in range(layers):
        if layer > 0 and drop is not None:
            x = drop(x, layer - 1)
        lanes = []
        for lane in range(layer * directions, (layer + 1) * directions):
            lanes.append(sweep(x, lane))
        x = lanes[0] if directions == 1 else torch.cat(lanes, dim=-1)
    return x


class Swept(NamedTuple):
    """What a lane leaves, step after step in order of time."""

    h: Tensor  # [T, B, P], after each step; zero, or whatever it was, where a row has ended
    c: Tensor | None  # [T, B, H] in the state dtype, where the states are wanted
    h_n: Tensor  # [B, P], each row's after its last step
    c_n: Tensor  # [B, H]


def run_lanes(
    spec: Spec,
    x: Tensor,
    dtype: torch.dtype,
    rows: Rows,
    sweep: Callable[[Tensor, int], Swept],
    drop: Drop | None,
    states: bool,
) -> tuple[Tensor, ...]:
    """Run a call, as in fused_lstm.engines, lane by lane in plain PyTorch.

    Args:
        x: as the call has it, [T, B, I] or packed [N, I].
        dtype: of c_n.
        rows: where the rows of x lie.
        sweep: (x [T, B, I], lane) -> what the lane leaves.
        drop: as `run` takes it.
        states: whether the state after every step is wanted too.
    """
    D = spec.directions
    last, h_all, c_all = [], [], []

    def packed(x: Tensor, lane: int) -> Tensor:
        swept = sweep(rows.pad(x), lane)
        last.append((swept.h_n, swept.c_n.to(dtype)))
        y = rows.pack(swept.h)
        if swept.c is not None:
            h_all.append(y)
            c_all.append(rows.pack(swept.c))
        return y

    y = run(x, spec.layers, packed, drop, D)
    h_n, c_n = map(torch.stack, zip(*last, strict=True))
    if not states:
        return y, h_n, c_n
    below = [torch.cat(h_all[n : n + D], -1) for n in range(0, len(h_all) - D, D)]
    h = torch.stack(below) if below else y.new_empty(0, *y.shape)
    return y, h_n, c_n, h, torch.stack(c_all)


def run_back(
    dy: Tensor, layers: int, sweep: Sweep, drop: Drop | None, directions: int = 1
) -> Tensor:
    """The gradient by x [..., I], from dy [..., D * H], that by the last layer's output.

    Args:
        sweep: (dy [..., H], lane) -> dx [..., I or D * H], what the lane sends down.
        drop: `run`'s: a mask is its own derivative.
    """
    for layer in reversed(range(layers)):
        first, parts = layer * directions, dy.chunk(directions, dim=-1)
        dx = [sweep(part, first + n) for n, part in enumerate(parts)]
        dy = dx[0] if directions == 1 else torch.stack(dx).sum(0)
        if layer > 0 and drop is not None:
            dy = drop(dy, layer - 1)
    return dy
