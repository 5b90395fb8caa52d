"""What is not a number, or infinite, stays on its own side of a reset: forwards and backwards."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

import fused_lstm
from cases import rungs
from gru import rungs as gru_rungs
from tolerance import assert_close

T, I, H, BEGIN = 4, 3, 5, 2  # all rows but row 0 begin anew at step BEGIN
# Row n + 1 of a batch has a bad value in this tensor at this step; row 0 has none.
PLACES = list(product(("x", "dy"), (BEGIN - 1, BEGIN)))
B = 1 + len(PLACES)
CELLS = {
    "projected": {"proj_size": 3},
    "peephole": {"peephole": True},
    "zoneout": {"zoneout": 0.3},
    "coupled": {"coupled": True},
    "recurrent_dropout": {"recurrent_dropout": 0.3},
    "dropout": {"dropout": 0.3},
}
TOGETHER = {
    "all but zoneout": {
        "proj_size": 3, "peephole": True, "recurrent_dropout": 0.3, "dropout": 0.3,
    },
    "coupled with zoneout": {"coupled": True, "zoneout": 0.3},
}  # fmt: skip


def run(module: torch.nn.Module, value: float | None) -> dict[str, Tensor]:
    """y [T, B, .] and the gradients by x and h_0, with `value` in every one of PLACES."""
    torch.manual_seed(3)
    x, dy = torch.randn(T, B, I), torch.randn(T, B, module.proj_size or H)
    h0 = torch.randn(module.num_layers, B, module.proj_size or H).requires_grad_()
    if value is not None:
        for row, (name, t) in enumerate(PLACES, 1):
            {"x": x, "dy": dy}[name][t, row] = value
    state = h0
    if module.mode == "LSTM":
        state = h0, torch.randn(module.num_layers, B, H)
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[BEGIN, 1:] = True
    y, _ = module(x.requires_grad_(), state, resets=resets)
    y.backward(dy)
    return {"y": y.detach(), "dx": x.grad, "dh_0": h0.grad}


def check(module: torch.nn.Module, value: float) -> None:
    clean, found = run(module, None), run(module, value)
    for row, (tensor, t) in enumerate(PLACES, 1):
        where = f"{value} in {tensor} at step {t}"
        assert not found["dx"][t, row].isfinite().all(), where
        other = slice(BEGIN, T) if t < BEGIN else slice(0, BEGIN)  # side of the reset
        for name in ("y", "dx"):
            assert_close(found[name][other, row], clean[name][other, row], f"{name} with {where}")
        if t >= BEGIN:
            assert_close(found["dh_0"][:, row], clean["dh_0"][:, row], f"dh_0 with {where}")
    for name in ("y", "dx", "dh_0"):
        assert_close(found[name][:, 0], clean[name][:, 0], f"{name} of row 0")


values = pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=str)


@values
@pytest.mark.parametrize(("engine", "fuse"), rungs("compile", "cudnn"))
def test_an_lstm(engine, fuse, value):
    check(fused_lstm.LSTM(I, H, 2, engine=engine, fuse=fuse), value)


@values
@pytest.mark.parametrize(("engine", "fuse"), gru_rungs("compile", "cudnn"))
def test_a_gru(engine, fuse, value):
    check(fused_lstm.GRU(I, H, 2, engine=engine, fuse=fuse), value)


@pytest.mark.parametrize("options", TOGETHER.values(), ids=TOGETHER)
@pytest.mark.parametrize(("engine", "fuse"), rungs("compile", "cudnn", top=True, slow=("triton",)))
def test_cells_of_three_layers(engine, fuse, options):
    check(fused_lstm.LSTM(I, H, 3, engine=engine, fuse=fuse, **options), torch.nan)


@pytest.mark.slow  # each by itself
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("engine", "fuse"), rungs("compile", "cudnn", top=True))
def test_a_cell_of_three_layers(engine, fuse, cell):
    check(fused_lstm.LSTM(I, H, 3, engine=engine, fuse=fuse, **CELLS[cell]), torch.nan)
