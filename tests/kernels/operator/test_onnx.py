"""ONNX export: nodes that ONNX Runtime runs, with the module's own values."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

import pytest
import torch
from torch import nn

import fused_lstm
from fused_lstm import zoo
from fused_lstm.call.spec import Spec
from fused_lstm.operator import onnx
from tolerance import assert_close

pytestmark = pytest.mark.skipif(
    find_spec("onnxscript") is None, reason="ONNX export needs onnx and onnxscript"
)
T, B, I, H = 6, 3, 4, 5


class Called(nn.Module):
    """A layer called with lengths, and its states beside y."""

    def __init__(self, layer, named=False):
        super().__init__()
        self.layer, self.named = layer, named

    def forward(self, x, *arguments):
        options = {"lengths": arguments[0]} if self.named else {}
        y, last = self.layer(x, **options) if self.named else self.layer(x, *arguments)
        return y, *(last if isinstance(last, tuple) else (last,))


def exported(model, inputs, dynamic=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model.eval(), inputs, dynamo=True, verbose=False, opset_version=18,
            dynamic_shapes=dynamic,
        )  # fmt: skip
    return program.model_proto


def evaluated(proto, inputs):
    """Run it in ONNX Runtime; onnx's own evaluator knows neither lengths nor coupled gates."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    feeds = {i.name: t.numpy() for i, t in zip(proto.graph.input, inputs, strict=True)}
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    return [torch.from_numpy(a) for a in session.run(None, feeds)]


def nodes(proto):
    names = ("LSTM", "GRU", "RNN")
    return [node for node in proto.graph.node if node.op_type in names]


CALLS = {
    "LSTM": (fused_lstm.LSTM, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    "LSTM-unbatched": (fused_lstm.LSTM, {"bias": False}),
    "peephole": (fused_lstm.LSTM, {"peephole": True, "bidirectional": True}),
    "coupled": (fused_lstm.LSTM, {"coupled": True}),
    "coupled-peephole": (fused_lstm.LSTM, {"coupled": True, "peephole": True, "num_layers": 2}),
    "dropouts": (fused_lstm.LSTM, {"recurrent_dropout": 0.5}),
    "GRU": (fused_lstm.GRU, {"num_layers": 2, "bidirectional": True}),
    "RNN-tanh": (fused_lstm.RNN, {"bidirectional": True}),
    "RNN-relu": (fused_lstm.RNN, {"nonlinearity": "relu", "batch_first": True}),
}


SLOW = "LSTM-unbatched", "peephole", "coupled", "dropouts", "RNN-tanh"  # others have it too


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in CALLS]
)
def test_one_node_a_layer_with_the_modules_values(name):
    kind, options = CALLS[name]
    model = Called(kind(I, H, **options))
    x = torch.randn(T, I) if "unbatched" in name else torch.randn(T, B, I)
    proto = exported(model, (x,))
    assert [n.op_type for n in nodes(proto)] == [kind.__name__] * options.get("num_layers", 1)
    assert not any("fused_lstm" in node.domain for node in proto.graph.node)
    for n, (a, b) in enumerate(zip(evaluated(proto, [x]), model(x), strict=True)):
        assert_close(a, b.detach(), f"{name}: output {n}")


@pytest.mark.parametrize("bias", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_gru_whose_reset_gate_comes_first(bias):
    model = Called(
        fused_lstm.Recurrent(zoo.gru_reset_before, I, H, 2, bias=bias, bidirectional=True)
    )
    x = torch.randn(T, B, I)
    proto = exported(model, (x,))
    resets = [{a.name: a.i for a in node.attribute}["linear_before_reset"] for node in nodes(proto)]
    assert resets == [0, 0]
    for n, (a, b) in enumerate(zip(evaluated(proto, [x]), model(x), strict=True)):
        assert_close(a, b.detach(), f"output {n}")


@pytest.mark.parametrize(
    "kind", [fused_lstm.LSTM, pytest.param(fused_lstm.GRU, marks=pytest.mark.slow)]
)
def test_lengths_of_any_batch(kind):
    model = Called(kind(I, H, 2, bidirectional=True), named=True)
    inputs = torch.randn(T, B, I), torch.tensor([2, 6, 4])
    dynamic = {"x": {1: torch.export.Dim("B")}, "arguments": ({0: torch.export.Dim("B")},)}
    proto = exported(model, inputs, dynamic)
    inputs = torch.randn(T, 5, I), torch.tensor([1, 6, 3, 2, 5])
    for n, (a, b) in enumerate(zip(evaluated(proto, inputs), model(*inputs), strict=True)):
        assert_close(a, b.detach(), f"output {n}")


@pytest.mark.slow
def test_a_state_that_is_given():
    model = Called(fused_lstm.GRU(I, H))
    inputs = torch.randn(T, B, I), torch.randn(1, B, H)
    proto = exported(model, inputs)
    for n, (a, b) in enumerate(zip(evaluated(proto, inputs), model(*inputs), strict=True)):
        assert_close(a, b.detach(), f"output {n}")


REFUSED = {
    "proj_size": ({"proj_size": 2}, {}),
    "layer_norm": ({"layer_norm": True}, {}),
    "zoneout": ({"zoneout": 0.1}, {}),
    "num_heads": ({"num_heads": 5}, {}),
    "resets": ({}, {"resets": torch.zeros(T, B, dtype=torch.bool)}),
    "return_states": ({}, {"return_states": True}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_onnx_does_not_have_is_refused(name, monkeypatch):
    options, call = REFUSED[name]
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    monkeypatch.setattr(
        fused_lstm.layers.modules, "in_a_graph", lambda: True
    )  # as while it exports
    why = rf"{name}: got .*; expected none: ONNX's LSTM {onnx.REASONS[name]}"
    with pytest.raises(ValueError, match=why):
        fused_lstm.LSTM(I, H, **options)(torch.randn(T, B, I), **call)


def test_a_cell_that_onnx_does_not_have_is_refused():
    with pytest.raises(ValueError, match="cell: got 'slstm'; expected one of lstm, gru"):
        onnx.check(Spec("slstm"), False, None, False)
