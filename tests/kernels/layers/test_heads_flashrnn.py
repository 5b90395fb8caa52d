"""FlashRNN's own PyTorch backend `vanilla`, and the operator `recurrence` on the same tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import fused_lstm
from fused_lstm import heads
from fused_lstm.operator import ops
from fused_lstm.operator.recurrence import LaneCell, recur
from tolerance import assert_close

flashrnn: Any = pytest.importorskip("flashrnn", reason="the package flashrnn is not there")

HAVE_NATIVE = fused_lstm.available_engines("cpu")["native"] is None
native_only = pytest.mark.skipif(not HAVE_NATIVE, reason="native was not built")
ENGINES = {"loop": None, "native": ops.NATIVE}
T, B, K = 7, 3, 5
# FlashRNN's function -> our cell; states; gates of x, of h, of the bias.
CELLS = {
    "lstm": ("lstm", 2, 4, 4, 4),
    "slstm": ("slstm", 4, 4, 4, 4),
    "elman": ("rnn_tanh", 1, 1, 1, 1),
    "gru": ("gru", 1, 3, 3, 4),
}


def theirs(function: str, leaves: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return FlashRNN's y [T, B, H] and last states [S, B, H]."""
    N = leaves["weight"].shape[1]
    config = flashrnn.FlashRNNConfig(
        backend="vanilla", function=function, num_heads=N, head_dim=K, dtype="float32"
    )  # a name only: `vanilla` computes in the tensors' dtype
    states = leaves["states"].unflatten(-1, (N, K)).unsqueeze(2)  # [S, B, 1, N, K]
    every, last = flashrnn.flashrnn(
        leaves["gates"], leaves["weight"], leaves["bias"], states, function, config
    )
    return every[0].transpose(0, 1).flatten(2), last[:, :, 0].flatten(2)


def ours(function: str, engine: str, leaves: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return y and last states of the operator, on FlashRNN's tensors in our layout."""
    gates, weight, bias = leaves["gates"], leaves["weight"], leaves["bias"].flatten(1)
    bias_m = None
    if function == "gru":  # h's part of n comes first in R and in the bias, and last in ours
        weight, bias_m, bias = weight[[1, 2, 0]], bias[0], bias[1:]
    x_part = gates.transpose(0, 1).flatten(3) + bias  # [T, B, G, H]
    h0, *rest = leaves["states"]
    y, h_n, c_n, _ = recur(
        ENGINES[engine], LaneCell(CELLS[function][0]), x_part.flatten(2), h0,
        torch.cat(rest, -1) if rest else h0, heads.from_flashrnn(weight), bias_m,
    )  # fmt: skip
    return y, torch.stack([h_n, *(c_n.chunk(len(rest), -1) if rest else ())])


@pytest.mark.parametrize("engine", ["loop", pytest.param("native", marks=native_only)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("N", [1, 3])
@pytest.mark.parametrize("function", CELLS)
def test_values_and_gradients_are_flashrnns(function, N, dtype, engine):
    _, S, of_x, of_h, of_bias = CELLS[function]
    torch.manual_seed(4)
    leaves = {
        "gates": torch.randn(B, T, of_x, N, K, dtype=dtype),
        "weight": torch.randn(of_h, N, K, K, dtype=dtype) * 0.5,
        "bias": torch.randn(of_bias, N, K, dtype=dtype),
        "states": torch.randn(S, B, N * K, dtype=dtype),
    }
    if function == "slstm":  # FlashRNN's n is never below 1
        leaves["states"][2] = leaves["states"][2].abs() + 1
    outcomes = []
    for call in (theirs, lambda *a: ours(a[0], engine, a[1])):
        own = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
        y, last = call(function, own)
        weights = torch.linspace(-1, 1, last.numel(), dtype=dtype).view_as(last)
        (y.sin().sum() + (last * weights).sum()).backward()
        outcomes.append({"y": y, "last": last} | {f"{n}.grad": t.grad for n, t in own.items()})
    expected, got = outcomes
    for name, value in got.items():
        assert_close(value.detach(), expected[name].detach(), name)
