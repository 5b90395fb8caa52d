"""The native engine's library: what it defines by itself, and what a first trace sees of it."""

from __future__ import annotations

import pytest
import torch

import fresh
from fused_lstm import native
from fused_lstm.operator import ops

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"
)


@pytest.mark.parametrize("name", ops.SCHEMAS)
def test_schemas_are_parsed_alike(name):
    """By module.cpp, which defined the library's, and by ops.py, which defines triton's."""
    ours = torch._C.parse_schema(f"fused_lstm_native::{name}{ops.SCHEMAS[name]}")
    assert str(getattr(ops.NATIVE, name).default._schema) == str(ours)


ALONE = """
import sys, torch
torch.set_num_threads(1)
torch.ops.load_library({library!r})
lstm, x, zeros = torch.nn.LSTM(3, 4), torch.randn(5, 2, 3), torch.zeros(1, 2, 4)
weights = [p.detach() for p in lstm.parameters()]
y = torch.ops.fused_lstm_native.lstm(x, zeros, zeros, weights, 0.0, None, "layers", False)[0]
torch.testing.assert_close(y, lstm(x)[0])
assert "fused_lstm" not in sys.modules

import fused_lstm
program = torch.export.export(fused_lstm.LSTM(3, 4, engine="native"), (x,))
print(*set(str(node.target) for node in program.graph.nodes if "fused" in str(node.target)))
"""


def test_a_fresh_process():
    """Operators are there without the package; the first trace has the layer's alone."""
    said = fresh.python(ALONE.format(library=str(native.LIBRARY)))
    assert said.split() == ["fused_lstm_native.lstm.default"]
