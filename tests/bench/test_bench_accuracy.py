"""The topic `accuracy`: every way to hold numbers has its own error, and no switch stays moved."""

from __future__ import annotations

import pytest
import torch

from bench.alone import Shape
from bench.topics import accuracy
from fused_lstm import native
from topic import needs_native, run

# From the bits of a factor, with room for what a sum and a recurrence make of them.
WITHIN = {"float32": 1e-5, "two terms": 1e-4, "one term": 2e-2, "bfloat16": 2e-2}


@pytest.fixture
def small(tiny, monkeypatch):
    monkeypatch.setattr(accuracy, "SHAPE", Shape(7, 5, 33, 33, 2))  # a shorter call is float32's
    monkeypatch.setattr(accuracy, "DEPTHS", (33,))
    monkeypatch.setattr(accuracy, "VOCABULARY", 40)


@needs_native
def test_errors_are_those_of_each_ways_bits(small, tmp_path):
    isa, switches = native.OPS.isa(), (torch.backends.mkldnn.rnn, torch.backends.mkldnn.matmul)
    before = [switch.fp32_precision for switch in switches]
    found = run("accuracy", tmp_path)
    assert [switch.fp32_precision for switch in switches] == before
    assert native.OPS.isa() == isa
    (products,), lstm = found["products"].values(), found["lstm"]["float32"]
    for name, most in WITHIN.items():
        assert most / 1e4 < products[name] < most, name
        assert all(most / 1e4 < error < most for error in lstm[name].values()), name
    assert (
        lstm["bfloat16, widened"].keys()
        == lstm["PyTorch bfloat16"].keys()
        == lstm["float32"].keys()
    )
    assert {"loss", "dhidden", "dweight", "dbias"} == found["softmax"]["small"]["float32"].keys()


@needs_native
def test_numbers_that_bfloat16_has_lose_nothing_to_one_term(small):
    """Where float64 gets the rounded tensors too: one term of x and of a weight is all of it."""
    rounded, plain = accuracy.of_lstm(torch.bfloat16), accuracy.of_lstm(torch.float32)
    assert rounded["one term"]["y"] < plain["one term"]["y"]
    assert rounded["float32"]["y"] < 1e-5
