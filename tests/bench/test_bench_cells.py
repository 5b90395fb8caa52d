"""The benchmark of cells that cuDNN does not have."""

from __future__ import annotations

import pytest
import torch

import fused_lstm
from bench import peers
from bench.alone import Shape
from bench.measure.check import WrongAnswer
from bench.topics import cells
from fused_lstm.spec import LSTM_OPTIONS

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    (why := fused_lstm.available_engines("cpu")["native"]) is not None, reason=f"native: {why}"
)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(cells, "PRESETS", {"small": Shape(3, 20, 7, 9, 2)})
    monkeypatch.setattr(cells, "KERAS", ())  # which takes seconds to import


def test_every_option_of_a_cell_is_timed():
    assert {name for options in cells.CELLS.values() for name in options} == set(LSTM_OPTIONS)


def test_a_device_without_an_engine_of_ours_is_one_line():
    says = "--device mps: our engines run on cpu and cuda"
    assert cells.why_not(torch.device("mps")) == says


def test_costs(small):
    found, samples = cells.costs("small", CPU, 0.01)
    assert set(found) == set(cells.CELLS)
    assert found["plain"].to_plain == 1
    assert all(cost.to_loop > 0 and cost.to_keras is None for cost in found.values())
    assert {name for name, cost in found.items() if cost.to_theirs} == {"gru"}
    assert {engine for _, engine in samples} == {"native", "loop", "torch"}


def test_a_wrong_cell_is_not_timed(small, monkeypatch):
    monkeypatch.setattr(cells.Stack, "answer", lambda self: {"y": torch.rand(2)})
    with pytest.raises(WrongAnswer, match="plain: y differs"):
        cells.costs("small", CPU, 0.01, names=("plain",))


@pytest.mark.parametrize("name", ["plain", "recurrent_dropout", "layer_norm"])
def test_keras_gives_what_ours_gives(small, monkeypatch, name):
    """Through its own cell or its own LayerNormalization, under the masks that ours draws."""
    if why := peers.missing(cells.PEER.engine, CPU):
        pytest.skip(why)
    stack = cells.Stack(name, "native", "small", CPU)
    with torch.no_grad():  # gains are not 1, and biases not 0
        for parameter in stack.module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    remote = cells.in_keras(stack)
    assert remote.timed("step")() > 0
    with torch.no_grad():
        stack.module.weight_hh_l1[0, 0] += 1  # and it would notice
    with pytest.raises(WrongAnswer, match="keras: y differs"):
        cells.require_right("keras", remote.answer(), stack.answer())
    remote.close()


def test_a_run_without_keras_says_why(small, monkeypatch, capsys):
    monkeypatch.setattr(cells, "KERAS", ("layer_norm",))
    monkeypatch.setattr(peers, "missing", lambda name, device: "it is not here")
    found, _ = cells.costs("small", CPU, 0.01, names=("plain", "layer_norm"))
    assert found["layer_norm"].to_keras is None
    assert "layer_norm: keras: it is not here" in capsys.readouterr().out
