"""Every cell written out for one row and one step at a time: what the tests of cells compare with.

Nothing here comes from fused_lstm.reference. A mask's row is drawn by itself, from the number that
docs/cells.md gives it.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fused_lstm
from fused_lstm.philox import dropout_mask
from lanes import Case

CELLS = {
    "layer_norm": {"layer_norm": True},
    "peephole": {"peephole": True},
    "coupled": {"coupled": True},
    "zoneout": {"zoneout": 0.4},
    "zoneout of h": {"zoneout": (0.4, 0.0)},
    "zoneout of c": {"zoneout": (0.0, 0.4)},
    "recurrent_dropout": {"recurrent_dropout": 0.4},
    "candidate_dropout": {"candidate_dropout": 0.4},
    "peephole and coupled": {"peephole": True, "coupled": True, "zoneout": (0.2, 0.3)},
    "all but coupled": {
        "layer_norm": True, "peephole": True, "zoneout": (0.3, 0.2),
        "recurrent_dropout": 0.3, "candidate_dropout": 0.4,
    },
    "all but layer_norm": {
        "peephole": True, "coupled": True, "zoneout": (0.3, 0.2),
        "recurrent_dropout": 0.3, "candidate_dropout": 0.4,
    },
}  # fmt: skip
each_cell = pytest.mark.parametrize("options", CELLS.values(), ids=CELLS)
# For what takes seconds and is the same code for each option: these two have all of them.
few_cells = pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=[] if "all but" in name else pytest.mark.slow)
        for name, options in CELLS.items()
    ],
)


def make(case: Case, **options) -> fused_lstm.LSTM:
    """A module whose every weight is far from where it starts: gains are not 1."""
    torch.manual_seed(case.seed)
    module = fused_lstm.LSTM(case.I, case.H, **case.options, **options, dtype=torch.float64)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.4)
    return module


def drawn_seed(seed: int) -> Tensor:
    """What a call draws first after torch.manual_seed(seed)."""
    torch.manual_seed(seed)
    return torch.randint(2**63 - 1, (1,))


class Place(NamedTuple):
    """Of a unit vector of a mask: [lane, t, b] of [lanes, T, B], and the seed, None in eval."""

    seed: Tensor | None
    lane: int
    lanes: int
    T: int
    t: int
    B: int
    b: int

    def mask(self, kind: int, p: float, size: int, each_step: bool = True) -> Tensor | float:
        if p == 0 or self.seed is None:
            return 1.0
        row = (self.lane * self.T + self.t) * self.B + self.b
        row = row if each_step else self.b * self.lanes + self.lane
        return dropout_mask(self.seed, (size,), p, (kind << 56) + row * size).double()

    def zone(self, kind: int, p: float, size: int) -> Tensor | float:
        return p if p == 0 or self.seed is None else (self.mask(kind, p, size) == 0).double()


def one_step(module: fused_lstm.LSTM, end: str, x, h, c, place: Place) -> tuple[Tensor, Tensor]:
    """x [I], h [P], c [H] of one row; end: of the weights' names, such as "_l0"."""
    cell, H = module.spec, module.hidden_size

    def weight(name: str):
        return getattr(module, name + end, 0.0)

    fed = h * place.mask(3, cell.recurrent_dropout, len(h), each_step=False)
    by_x, by_h = weight("weight_ih") @ x, weight("weight_hh") @ fed
    if cell.layer_norm:
        by_x = F.layer_norm(by_x, by_x.shape) * weight("gain_ih")
        by_h = F.layer_norm(by_h, by_h.shape) * weight("gain_hh")
    a = by_x + by_h + weight("bias_ih") + weight("bias_hh")
    peep = list(weight("weight_ch").split(H)) if cell.peephole else [0.0] * 3
    if cell.coupled:
        a_i, a_g, a_o = a.split(H)
        i = torch.sigmoid(a_i + peep[0] * c)
        f = 1 - i
    else:
        a_i, a_f, a_g, a_o = a.split(H)
        i, f = torch.sigmoid(a_i + peep[0] * c), torch.sigmoid(a_f + peep[1] * c)
    g = torch.tanh(a_g) * place.mask(4, cell.candidate_dropout, H)
    new_c = f * c + i * g
    o = torch.sigmoid(a_o + peep[-1] * new_c)
    seen = new_c
    if cell.layer_norm:
        seen = F.layer_norm(new_c, new_c.shape) * weight("gain_c") + weight("bias_c")
    new_h = o * torch.tanh(seen)
    if module.proj_size:
        new_h = weight("weight_hr") @ new_h
    z_h, z_c = place.zone(1, cell.zoneout[0], len(h)), place.zone(2, cell.zoneout[1], H)
    return z_h * h + (1 - z_h) * new_h, z_c * c + (1 - z_c) * new_c


def written_out(
    module: fused_lstm.LSTM,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The module on x [T, B, I], time first; seed None is eval. -> y, h_n, c_n."""
    (T, B), D = x.shape[:2], 1 + module.bidirectional
    lengths = torch.full((B,), T) if lengths is None else lengths
    place_of = lengths.argsort(descending=True, stable=True).argsort()  # masks count rows so
    h_n, c_n = [[None] * B for _ in h0], [[None] * B for _ in c0]
    for lane in range(len(h0)):
        layer, backwards = divmod(lane, D)
        if backwards == 0:
            below, outputs = x, []
        rows = []
        for b in range(B):
            h, c, n = h0[lane, b], c0[lane, b], int(lengths[b])
            y = [torch.zeros_like(h)] * T
            for t in reversed(range(n)) if backwards else range(n):
                first = t + 1 if backwards else t  # nothing crosses between it and the one before
                if resets is not None and first < n and resets[first, b]:
                    h, c = torch.zeros_like(h), torch.zeros_like(c)
                end = f"_l{layer}" + "_reverse" * backwards
                place = Place(seed, lane, len(h0), T, t, B, int(place_of[b]))
                h, c = one_step(module, end, below[t, b], h, c, place)
                y[t] = h
            rows.append(torch.stack(y))
            h_n[lane][b], c_n[lane][b] = h, c
        outputs.append(torch.stack(rows, 1))
        if backwards == D - 1:
            x = torch.cat(outputs, -1)
    return x, *(torch.stack([torch.stack(rows) for rows in of]) for of in (h_n, c_n))
