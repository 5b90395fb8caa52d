"""A stack of layers: their order, their directions, and the dropout between two layers.

Every engine and level that runs one layer after another in Python uses it; the caller runs a lane
or a layer. (The C++ engine has a loop of its own, so that a call never returns between two layers.)

A lane is one layer in one direction. Layer l's lanes are number D * l and, backwards in time,
D * l + 1: the order of nn.LSTM's weights and states. A caller that runs all lanes of a layer at
once passes directions=1; its "lane" is then the layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..call.spec import Spec

Sweep = Callable[[Tensor, int], Tensor]  # (a lane's input, its number) -> its output
Drop = Callable[[Tensor, int], Tensor]  # (a layer's output, its number) -> the same after dropout


def run(x: Tensor, layers: int, sweep: Sweep, drop: Drop | None, directions: int = 1) -> Tensor:
    """Run the layers; return the last one's output [..., D * H].

    Args:
        x: [..., I], the first layer's input.
        layers: L.
        sweep: (x, lane) -> y [..., H].
        drop: (y, layer) -> the input of the layer above; None without dropout.
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
    """The results of a lane. N: the rows of its input, T * B or packed."""

    h: Tensor  # [N.., P], after each step
    c: Tensor | None  # [N.., H] in the state dtype, where the call returns states
    h_n: Tensor  # [B, P], after each row's last step
    c_n: Tensor  # [B, H]


def run_lanes(
    spec: Spec,
    x: Tensor,
    dtype: torch.dtype,
    sweep: Callable[[Tensor, int], Swept],
    drop: Drop | None,
) -> tuple[Tensor, ...]:
    """Run a call, as in fused_lstm.call.choose, lane by lane.

    Args:
        x: [T, B, I] or packed [N, I].
        dtype: the dtype of c_n.
        sweep: (the lane's input, its number) -> its results.
        drop: as in `run`.

    Returns:
        y, h_n, c_n; where the lanes return c also h of the layers below the last [L - 1, ..., D *
        P], and c of all [L * D, ..., H].
    """
    D, lanes = spec.directions, []

    def output(x: Tensor, lane: int) -> Tensor:
        lanes.append(sweep(x, lane))
        return lanes[-1].h

    y = run(x, spec.layers, output, drop, D)
    h_n = torch.stack([lane.h_n for lane in lanes])
    c_n = torch.stack([lane.c_n.to(dtype) for lane in lanes])
    c_all = [lane.c for lane in lanes if lane.c is not None]
    if not c_all:
        return y, h_n, c_n
    h_all = [lane.h for lane in lanes[:-D]]
    below = [torch.cat(h_all[n : n + D], -1) for n in range(0, len(h_all), D)]
    h = torch.stack(below) if below else y.new_empty(0, *y.shape)
    return y, h_n, c_n, h, torch.stack(c_all)
