"""AOTInductor: layers exported and compiled in a fresh process are eager ones at any T and B."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import aot
import fused_lstm
from fused_lstm import native

MISSING = native.missing(torch.device("cpu"))
pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=f"native: {MISSING}"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="AOTInductor needs a C++ compiler"),
]
# Beside the layer's own: an initial state, a reset mask; of heads the input's product and a lane.
PLAIN = {"aten.new_zeros.default", "aten.sym_size.int"}
ADDED = {
    "resets": {"aten.bitwise_not.default", "aten.unsqueeze.default"},
    "heads": {
        f"aten.{name}"
        for name in (
            "linear.default",
            "select.int",
            "stack.default",
            "chunk.default",
            "add.Tensor",
            "zeros_like.default",
            "cat.default",
            "unsqueeze.default",
        )
    },
}


def operators(*names: str) -> set[str]:
    """Check the layers in one package, in a process of its own; return its graph's operators."""
    where = os.pathsep.join([str(Path(fused_lstm.__file__).parents[1]), *sys.path])
    done = subprocess.run(
        [sys.executable, aot.__file__, *names], capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": where},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return set(done.stdout.partition(" | ")[2].split())


def test_three_layers_in_one_package():
    """Options of a cell, a GRU, an sLSTM of heads."""
    found = operators("together", "GRU", "SLSTM")
    ours = {"fused_lstm_native.lstm.default", "fused_lstm_native.recurrence.default"}
    assert found == ours | (found & (PLAIN | ADDED["heads"]))
    assert ours <= found


@pytest.mark.slow
@pytest.mark.parametrize("name", aot.CASES)
def test_a_layer(name):
    """Its graph has the layer's operator once a call, and no loop over steps."""
    found, (_, options, arguments) = operators(name), aot.CASES[name]
    in_heads = "num_heads" in options or name.startswith("SLSTM")
    ours = {f"fused_lstm_native.{'recurrence' if in_heads else 'lstm'}.default"}
    assert {n for n in found if n.startswith("fused")} == ours
    if "lengths" not in arguments:  # whose packing is PyTorch's
        allowed = set().union(PLAIN, *(ADDED[name] for name in arguments))
        assert found - ours <= (allowed | ADDED["heads"] if in_heads else allowed)
