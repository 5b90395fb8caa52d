"""The benchmark of cells that cuDNN does not have."""

from __future__ import annotations

import pytest
import torch

import fused_lstm
from bench.alone import Shape
from bench.measure.check import WrongAnswer
from bench.topics import cells
from fused_lstm.cell import OPTIONS

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    (why := fused_lstm.available_engines("cpu")["native"]) is not None, reason=f"native: {why}"
)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(cells, "PRESETS", {"small": Shape(3, 20, 8, 8, 2)})
    monkeypatch.setattr(cells, "KERAS", set())  # which takes seconds to import


def test_every_option_of_a_cell_is_timed():
    assert {name for options in cells.CELLS.values() for name in options} == set(OPTIONS)


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
