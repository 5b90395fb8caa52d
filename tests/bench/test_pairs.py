"""Calls of two checkouts in turns: what a record of them has."""

import pytest

from bench import pairs
from fused_lstm import native

WHY_NOT = native.load()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=f"native: {WHY_NOT}")

ONE = {"mode": "inference", "shape": [1, 1, 16, 16, 2]}


@pytest.fixture
def race(monkeypatch):
    """Returns a function that races a call in bfloat16 against it in float32: its record."""

    def run(call, change="ahead"):
        monkeypatch.setitem(pairs.CHANGES, change, [call])
        monkeypatch.setattr(pairs.Unit, "undisturbed", lambda self: True)
        (record,) = pairs.race(change, ".|dtype=bfloat16", ".", seconds=0.1, threads=1)
        return record

    return run


def test_a_record_has_the_ratio_of_medians_and_its_interval(race):
    record = race(ONE)
    assert record["clock"] == "CPU time"
    assert record["ratio"] == pytest.approx(record["before"] / record["after"])
    assert record["low"] <= record["ratio"] <= record["high"]
    assert record["rounds"] >= 7
    assert "tails" not in record


def test_the_slowest_calls_are_wall_time_with_their_distribution(race):
    pytest.importorskip("onnxruntime")
    record = race(ONE | {"threads": 1, "pause": 0.001, "busy": 0}, "tail")
    assert record["clock"] == "wall time"
    assert list(record["tails"]) == ["before", "after", "nn.LSTM", "ONNX Runtime"]
    for tail in record["tails"].values():
        assert tail["calls"] >= 7 * 50
        assert tail["p50"] <= tail["worst"]
        assert "p99" not in tail, "of fewer than 1,000 calls"
    assert "0 busy" in pairs.said(record)
    assert "worst in ms: before" in pairs.said(record)
