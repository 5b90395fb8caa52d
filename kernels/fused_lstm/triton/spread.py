"""The operators of around.py on weights of three gates: spread to four, their gradients folded.

Coupled: 1 - sigma(a) is sigma(-a), so the forget gate's rows are minus the input gate's. A GRU's
become m, r, z, n: m is what h alone makes of n, which is then what x alone does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import around


def _kind(cell: str) -> str | None:
    return next((name for name in cell.split(",") if name in ("coupled", "gru")), None)


def _is_of_gates(index: int, weight: Tensor) -> bool:
    return index < 2 or weight.dim() == 1  # weight_hr alone has no gates


def _four(kind: str, index: int, weight: Tensor, H: int) -> Tensor:
    """Three gates' rows of a lane's weight number `index` -> four's."""
    if not _is_of_gates(index, weight):
        return weight
    if kind == "coupled":
        return torch.cat([weight[:H], -weight[:H], weight[H:]])
    zeros = torch.zeros_like(weight[:H])
    if index % 2:  # weight_hh, bias_hh
        return torch.cat([weight[2 * H :], weight[: 2 * H], zeros])
    return torch.cat([zeros, weight])


def _three(kind: str, index: int, weight: Tensor, grad: Tensor, H: int, dim: int) -> Tensor:
    """Undo `_four` of a gradient, whose rows are dimension `dim`."""
    if not _is_of_gates(index, weight):
        return grad
    rows = grad.movedim(dim, 0)
    if kind == "coupled":
        rows = torch.cat([rows[:H] - rows[H : 2 * H], rows[2 * H :]])
    elif index % 2:
        rows = torch.cat([rows[H : 3 * H], rows[:H]])
    else:
        rows = rows[H:]
    return rows.movedim(0, dim).contiguous()


def _told(cell: str) -> str:
    """Return the operator's word for a cell of four gates."""
    return ",".join(name for name in cell.split(",") if name != "coupled")


def lstm(x, h0, c0, weights: Sequence[Tensor], *arguments, cell: str = "", **named):
    """As around.lstm; of coupled gates it keeps i, g and o."""
    if (kind := _kind(cell)) is None:
        return around.lstm(x, h0, c0, weights, *arguments, cell=cell, **named)
    H, per_lane = c0.shape[2], len(weights) // len(h0)
    weights = [_four(kind, n % per_lane, w, H) for n, w in enumerate(weights)]
    *others, gates = around.lstm(x, h0, c0, weights, *arguments, cell=_told(cell), **named)
    if kind == "coupled" and gates.numel() > 0:
        gates = torch.cat([gates[..., :H], gates[..., 2 * H :]], -1)
    return *others, gates


def lstm_backward(
    dy, dh_n, dc_n, x, h0, c0, weights: Sequence[Tensor], dropout, seed, fuse, y, h, c, gates,
    needs_dx, cell: str = "", **named,
):  # fmt: skip
    """As around.lstm_backward."""
    before = dy, dh_n, dc_n, x, h0, c0
    if (kind := _kind(cell)) is None:
        return around.lstm_backward(
            *before, weights, dropout, seed, fuse, y, h, c, gates, needs_dx, cell=cell, **named
        )
    H, per_lane = c0.shape[2], len(weights) // len(h0)
    four = [_four(kind, n % per_lane, w, H) for n, w in enumerate(weights)]
    if kind == "coupled":
        gates = torch.cat([gates[..., :H], 1 - gates[..., :H], gates[..., H:]], -1)
    *others, grads = around.lstm_backward(
        *before, four, dropout, seed, fuse, y, h, c, gates, needs_dx, cell=_told(cell), **named
    )
    dim = 1 if named.get("samples") else 0
    grads = [
        _three(kind, n % per_lane, w, g, H, dim)
        for n, (w, g) in enumerate(zip(weights, grads, strict=True))
    ]
    return *others, grads
