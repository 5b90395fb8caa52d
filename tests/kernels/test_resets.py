"""What is not a number, or infinite, stays on its own side of a reset: forwards and backwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fused_lstm
from cases import rungs
from gru import rungs as gru_rungs
from tolerance import assert_close

T, B, I, H, BEGIN = 4, 2, 3, 5, 2  # row 1 begins anew at step BEGIN
CELLS = {
    "projected": {"proj_size": 3},
    "peephole": {"peephole": True},
    "zoneout": {"zoneout": 0.3},
    "coupled": {"coupled": True},
    "recurrent_dropout": {"recurrent_dropout": 0.3},
    "dropout": {"dropout": 0.3},
}


def run(module: torch.nn.Module, bad: tuple[str, int] | None, value: float) -> dict[str, Tensor]:
    """y [T, B, .] and the gradients by x and h_0. bad: x or dy, and at which step of row 1 it is
    `value`.
    """
    torch.manual_seed(3)
    x, dy = torch.randn(T, B, I), torch.randn(T, B, module.proj_size or H)
    h0 = torch.randn(module.num_layers, B, module.proj_size or H).requires_grad_()
    if bad is not None:
        tensor, t = {"x": x, "dy": dy}[bad[0]], bad[1]
        tensor[t, 1] = value
    state = h0
    if module.mode == "LSTM":
        state = h0, torch.randn(module.num_layers, B, H)
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[BEGIN, 1] = True
    y, _ = module(x.requires_grad_(), state, resets=resets)
    y.backward(dy)
    return {"y": y.detach(), "dx": x.grad, "dh_0": h0.grad}


def check(module: torch.nn.Module, value: float) -> None:
    clean = run(module, None, value)
    for tensor in ("x", "dy"):
        for t in (BEGIN - 1, BEGIN):
            found = run(module, (tensor, t), value)
            other = slice(BEGIN, T) if t < BEGIN else slice(0, BEGIN)  # side of the reset
            for name in ("y", "dx"):
                what = f"{name} with {value} in {tensor} at step {t}"
                assert not found["dx"][t, 1].isfinite().all(), what
                assert_close(found[name][other, 1], clean[name][other, 1], what)
                assert_close(found[name][:, 0], clean[name][:, 0], f"{what}, in row 0")
            if t >= BEGIN:
                assert_close(found["dh_0"], clean["dh_0"], f"dh_0 with it in {tensor} at {t}")


values = pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=str)


@values
@pytest.mark.parametrize(("engine", "fuse"), rungs("compile", "cudnn"))
def test_an_lstm(engine, fuse, value):
    check(fused_lstm.LSTM(I, H, 2, engine=engine, fuse=fuse), value)


@values
@pytest.mark.parametrize(("engine", "fuse"), gru_rungs("compile", "cudnn"))
def test_a_gru(engine, fuse, value):
    check(fused_lstm.GRU(I, H, 2, engine=engine, fuse=fuse), value)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("engine", "fuse"), rungs("compile", "cudnn", top=True, slow=("loop", "native"))
)
def test_a_cell_of_three_layers(engine, fuse, cell):
    check(fused_lstm.LSTM(I, H, 3, engine=engine, fuse=fuse, **CELLS[cell]), torch.nan)
