"""Tracers, scripts and exporters: each takes our LSTM where it takes nn.LSTM, with its values."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch
from torch import nn

import fused_lstm
from tolerance import assert_close

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.* is deprecated",
    "ignore::torch.jit.TracerWarning:torch",
    "ignore:_check_is_size will be removed",
    "ignore:The tensor attributes self.lstm._flat_weights",  # nn.LSTM's own
)


HAVE_NATIVE = fused_lstm.available_engines("cpu")["native"] is None
native_only = pytest.mark.skipif(not HAVE_NATIVE, reason="native was not built")


class Tagger(nn.Module):
    """Two layers and their states, so that an exporter sees all three outputs."""

    def __init__(self, engine="auto", **options):
        super().__init__()
        self.lstm = fused_lstm.LSTM(3, 4, 2, batch_first=True, engine=engine, **options)
        self.out = nn.Linear(4, 5)

    def forward(self, x):
        y, (h, c) = self.lstm(x)
        return self.out(y), h, c


def nn_lstm_inside(model):
    """The same model, weights and all, with nn.LSTM in it: what every result is compared with."""
    return fused_lstm.convert(copy.deepcopy(model), back=True)


def assert_runs_as(expected, found, *inputs):
    outputs = zip("yhc", found(*inputs), expected(*inputs), strict=True)
    for name, actual, value in outputs:
        assert_close(actual.detach(), value.detach(), name)


ENGINES = ["auto", "cudnn", "loop"]


@pytest.mark.parametrize("engine", ENGINES)
def test_trace(engine):
    """One graph for inference and training, for every T and B where the engine has operators."""
    model = Tagger(engine)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=torch.jit.TracerWarning, message="Converting")
        traced = torch.jit.trace(model, torch.randn(2, 5, 3))
    expected = nn_lstm_inside(model)
    if engine == "loop":  # whose steps are unrolled
        return assert_runs_as(expected, traced, torch.randn(2, 5, 3))
    x = torch.randn(3, 7, 3)
    assert_runs_as(expected, traced, x)
    with torch.no_grad():
        assert_runs_as(expected, traced, x)
    grads = (torch.autograd.grad(m(x)[0].sum(), m.lstm.weight_hh_l0)[0] for m in (traced, expected))
    assert_close(*grads, "weight_hh_l0.grad")


@pytest.mark.parametrize("engine", ENGINES)
def test_script_takes_nn_lstm(engine):
    """PyTorch puts what it scripts into the model as well; convert takes it out again."""
    model = Tagger(engine)
    weight = model.lstm.weight_hh_l1
    scripted = torch.jit.script(model)
    assert type(model.lstm) is nn.LSTM
    fused_lstm.convert(model, engine)
    assert type(model.lstm) is fused_lstm.LSTM
    assert model.lstm.weight_hh_l1 is weight
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    assert_runs_as(nn_lstm_inside(model), torch.jit.load(file), torch.randn(2, 5, 3))


def test_symbolic_trace_keeps_the_module():
    model = Tagger()
    traced = torch.fx.symbolic_trace(model)
    assert traced.lstm is model.lstm
    assert [n.target for n in traced.graph.nodes if n.op == "call_module"] == ["lstm", "out"]
    assert_runs_as(nn_lstm_inside(model), traced, torch.randn(2, 5, 3))


@pytest.mark.parametrize("engine", ENGINES)
def test_torch_export(engine):
    model, x = Tagger(engine), torch.randn(2, 5, 3)
    assert_runs_as(nn_lstm_inside(model), torch.export.export(model, (x,)).module(), x)


@native_only
def test_torch_export_of_any_steps_with_resets():
    """A mask of two directions once bound T, and the export was refused."""

    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = fused_lstm.LSTM(3, 4, bidirectional=True, engine="native")

        def forward(self, x, resets):
            return self.lstm(x, resets=resets)[0]

    def inputs(T, B):
        return torch.randn(T, B, 3), torch.rand(T, B) < 0.3

    model, sizes = Policy().eval(), {0: torch.export.Dim("T"), 1: torch.export.Dim("B")}
    program = torch.export.export(model, inputs(5, 2), dynamic_shapes=(sizes, sizes)).module()
    for T, B in ((5, 2), (2, 3), (9, 4)):
        x, resets = inputs(T, B)
        assert_close(program(x, resets).detach(), model(x, resets).detach(), f"y at T={T}, B={B}")


def test_onnx_has_its_own_lstm():
    """The exporter takes ONNX's LSTM for any batch; test_onnx.py has all that it takes."""
    pytest.importorskip("onnxscript", reason="ONNX export needs onnx and onnxscript")
    from onnx.reference import ReferenceEvaluator

    model = Tagger(bidirectional=True)
    model.out = nn.Identity()
    program = torch.onnx.export(
        model, (torch.randn(2, 5, 3),), dynamo=True, verbose=False, opset_version=18,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )  # fmt: skip
    proto = program.model_proto
    assert sum(node.op_type == "LSTM" for node in proto.graph.node) >= 1

    def evaluate(x):
        feeds = {proto.graph.input[0].name: x.numpy()}
        return map(torch.from_numpy, ReferenceEvaluator(proto).run(None, feeds))

    with torch.no_grad():
        assert_runs_as(nn_lstm_inside(model), evaluate, torch.randn(3, 5, 3))


def test_a_graph_after_an_export_to_onnx():
    """PyTorch's own nn.LSTM is differentiated wrongly in a graph from then on (torch 2.15)."""
    pytest.importorskip("onnxscript", reason="ONNX export needs onnx and onnxscript")
    torch.onnx.export(
        Tagger(), (torch.randn(2, 5, 3),), dynamo=True, verbose=False, opset_version=18,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )  # fmt: skip
    model = fused_lstm.LSTM(3, 4, 2, engine="cudnn")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 2, 3, requires_grad=True)
    leaves = {"x": x, **dict(model.named_parameters())}
    wanted, found = (
        torch.autograd.grad(m(x)[0].sin().sum(), leaves.values()) for m in (model, compiled)
    )
    for name, a, b in zip(leaves, found, wanted, strict=True):
        assert_close(a, b, name)


@pytest.mark.parametrize(
    ("needs", "backend"),
    [
        ("weights", "aot_eager"),
        ("state", "aot_eager"),
        pytest.param("weights", "inductor", marks=pytest.mark.slow),
    ],
)
def test_compiled_cudnn_whose_input_needs_no_gradient(needs, backend):
    """PyTorch takes such an LSTM apart into oneDNN's inference, which has no backward."""
    torch.compiler.reset()
    model = fused_lstm.LSTM(3, 4, engine="cudnn").requires_grad_(needs == "weights")
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    x = torch.randn(2, 3, 3)
    state = [torch.randn(1, 3, 4, requires_grad=needs == "state") for _ in "hc"]
    wanted = state if needs == "state" else list(model.parameters())
    found = {}
    for run in (model, compiled):
        y, (h_n, c_n) = run(x, tuple(state))
        grads = torch.autograd.grad(y.sum() + (h_n * c_n).sum(), wanted)
        found[run] = [y.detach(), *grads]
    for n, (a, b) in enumerate(zip(found[compiled], found[model], strict=True)):
        assert_close(a, b, f"{n} of y and the gradients")
