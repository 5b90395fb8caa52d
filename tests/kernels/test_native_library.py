"""The native engine's library: what it defines by itself, and what a first trace sees of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from fused_lstm import native, ops

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"
)


def schema(operators, name: str) -> str:
    return str(getattr(operators, name).default._schema).partition("::")[2]


@pytest.mark.parametrize(
    "name", [n for n, operator in ops.OPERATORS.items() if "native" in operator.engines]
)
def test_the_library_defines_what_ops_says(name):
    """native/module.cpp and ops.py have the schemas: one for C++ alone, one for triton."""
    parsed = torch._C.parse_schema(f"fused_lstm_native::{name}{ops.OPERATORS[name].schema}")
    assert schema(ops.NATIVE, name) == str(parsed).partition("::")[2]


ALONE = """
import sys, torch
torch.ops.load_library(sys.argv[1])
lstm, x, zeros = torch.nn.LSTM(3, 4), torch.randn(5, 2, 3), torch.zeros(1, 2, 4)
weights = [p.detach() for p in lstm.parameters()]
y = torch.ops.fused_lstm_native.lstm(x, zeros, zeros, weights, 0.0, None, "layers", False)[0]
torch.testing.assert_close(y, lstm(x)[0])
assert "fused_lstm" not in sys.modules

import fused_lstm
program = torch.export.export(fused_lstm.LSTM(3, 4, engine="native"), (x,))
print(*{str(node.target) for node in program.graph.nodes if "fused" in str(node.target)})
"""


def test_a_fresh_process():
    """Operators are there without the package; the first trace has the layer's alone."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(native.LIBRARY)],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["fused_lstm_native.lstm.default"]
