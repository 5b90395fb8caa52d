"""AOTInductor: layers exported and compiled in a fresh process are eager ones at any T and B."""

from __future__ import annotations

import shutil

import pytest
import torch

import aot
import fresh
from fused_lstm import native

MISSING = native.missing(torch.device("cpu"))
pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=f"native: {MISSING}"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="AOTInductor needs a C++ compiler"),
]
# Beside the layer's own: an initial state, a reset mask; of heads the input's product and a lane.
PLAIN = {"aten.new_zeros.default", "aten.sym_size.int"}
ADDED = {
    "resets": {
        "aten.bitwise_not.default", "aten.unsqueeze.default", "aten.slice.Tensor",
        "aten.ones_like.default", "aten.cat.default", "aten.select.int", "aten.stack.default",
    },
    "heads": {
        "aten.linear.default", "aten.select.int", "aten.stack.default", "aten.chunk.default",
        "aten.add.Tensor", "aten.zeros_like.default", "aten.cat.default", "aten.unsqueeze.default",
        "aten.split_with_sizes.default", "aten.pad.default",  # of a GRU's biases
        "aten._assert_tensor_metadata.default", "aten.to.dtype",  # a last state, to its own dtype
    },
}  # fmt: skip


def check(*names: str) -> None:
    """Compile layers in a fresh process; check that a graph calls the layer's operator once."""
    said = fresh.python(f"import aot; aot.main({names})", fresh.CELLS)
    print(said)
    graphs = {name: calls for name, *calls in map(str.split, said.splitlines())}
    assert set(graphs) == set(names)
    for name, calls in graphs.items():
        _, options, arguments = aot.CASES[name]
        in_heads = "num_heads" in options or name.startswith("SLSTM")
        ours = f"fused_lstm_native.{'recurrence' if in_heads else 'lstm'}.default"
        layers = options.get("num_layers", 1) if in_heads else 1  # of heads each has its own
        assert [call for call in calls if call.startswith("fused")] == [ours] * layers, name
        if "lengths" not in arguments:  # whose packing is PyTorch's
            allowed = PLAIN.union(*(ADDED[argument] for argument in arguments))
            allowed |= ADDED["heads"] if in_heads else set()
            assert set(calls) - {ours} <= allowed, name


def test_a_layer_in_a_package():
    """An LSTM in both directions with options: test_every_layer has all in a minute."""
    check("together")


@pytest.mark.slow
def test_every_layer():
    """In one package."""
    check(*aot.CASES)
