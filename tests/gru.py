"""`GRU` and nn.GRU with the same weights, and who runs ours."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fused_lstm
from cases import rungs as all_rungs
from fused_lstm.call.choose import ENGINES
from lanes import Case


def rungs(*exclude: str, **how) -> list:
    """(engine, fuse) for all that have a GRU."""
    found = all_rungs(*exclude, **how)
    return [rung for rung in found if ENGINES[rung.values[0]].has("gru", None, rung.values[1])]


every_top = pytest.mark.parametrize(("engine", "fuse"), rungs("compile", top=True))


class Paired(nn.Module):
    """A GRU as tests/lanes.py calls an LSTM: of a state of two parts, which it adds up."""

    def __init__(self, gru: nn.RNNBase) -> None:
        super().__init__()
        self.gru = gru

    @property
    def batch_first(self) -> bool:
        return self.gru.batch_first

    @batch_first.setter
    def batch_first(self, value: bool) -> None:
        self.gru.batch_first = value

    def forward(self, x, state=None, **options):
        y, h_n = self.gru(x, None if state is None else state[0] + state[1], **options)
        return y, (h_n, h_n)


def make_modules(case: Case, engine: str, fuse: str | None, dtype: torch.dtype) -> tuple:
    """nn.GRU and ours with the same weights."""
    options = {k: v for k, v in case.options.items() if k != "proj_size"} | {"dtype": dtype}
    torch.manual_seed(case.seed)
    theirs = nn.GRU(case.I, case.H, **options)
    ours = fused_lstm.GRU(case.I, case.H, engine=engine, fuse=fuse, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours
