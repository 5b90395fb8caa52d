"""The options of a cell, and modules that have them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fused_lstm
from lanes import Case

CELLS = {
    "layer_norm": {"layer_norm": True},
    "peephole": {"peephole": True},
    "coupled": {"coupled": True},
    "zoneout": {"zoneout": 0.4},
    "zoneout of h": {"zoneout": (0.4, 0.0)},
    "zoneout of c": {"zoneout": (0.0, 0.4)},
    "recurrent_dropout": {"recurrent_dropout": 0.4},
    "peephole and coupled": {"peephole": True, "coupled": True, "zoneout": (0.2, 0.3)},
    "all but coupled": {
        "layer_norm": True, "peephole": True, "zoneout": (0.3, 0.2),
        "recurrent_dropout": 0.3,
    },
    "all but layer_norm": {
        "peephole": True, "coupled": True, "zoneout": (0.3, 0.2),
        "recurrent_dropout": 0.3,
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
