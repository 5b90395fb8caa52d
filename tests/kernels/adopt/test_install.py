"""fused_lstm.install: torch.nn's recurrent layers run ours, and are what they were."""

from __future__ import annotations

import copy
import io
import pickle
import sys
import threading
import types
import warnings

import pytest
import torch
from torch import nn
from torch.nn.modules import rnn
from torch.nn.utils.rnn import pack_padded_sequence

import fused_lstm
from fused_lstm import native
from fused_lstm.call import door
from tolerance import assert_close

MISSING = native.missing(torch.device("cpu"))
pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=f"native: {MISSING}"),
    pytest.mark.filterwarnings(
        "ignore:.*torch.jit.* is deprecated", "ignore::torch.jit.TracerWarning:torch"
    ),
]
LAYERS = {
    "LSTM": (nn.LSTM, {}),
    "LSTM-projected": (nn.LSTM, {"proj_size": 3}),
    "GRU": (nn.GRU, {}),
    "RNN-tanh": (nn.RNN, {}),
    "RNN-relu": (nn.RNN, {"nonlinearity": "relu", "bias": False}),
}
layers = pytest.mark.parametrize(("kind", "options"), LAYERS.values(), ids=LAYERS)


@pytest.fixture(autouse=True)
def _restored():
    yield
    assert rnn._VF is torch._VF, "a test left ours installed"


@pytest.fixture
def ran(monkeypatch) -> list[str]:
    """The cells of the calls that were ours."""
    module, cells = sys.modules["fused_lstm.adopt.install"], []
    run = module.run

    def spy(call, *args):
        cells.append(call.spec.cell)
        return run(call, *args)

    run_at_the_door = module.run_at_the_door

    def spy_at_the_door(spec, *args):
        results = run_at_the_door(spec, *args)
        cells.extend([spec.cell] if results is not None else [])
        return results

    monkeypatch.setattr(module, "run", spy)
    monkeypatch.setattr(module, "run_at_the_door", spy_at_the_door)
    return cells


@pytest.fixture
def no_door(monkeypatch) -> None:
    """A PyTorch that has no doors."""
    monkeypatch.setattr(door, "exists", lambda: False)
    monkeypatch.setattr(door, "is_open", lambda: False)


needs_door = pytest.mark.skipif(not door.exists(), reason="no door before PyTorch 2.14")


def tensors(outputs) -> list[torch.Tensor]:
    """Every tensor of a call's outputs, in order."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [t for part in outputs if part is not None for t in tensors(part)]


def results(model, *inputs):
    """Outputs and every gradient of a call."""
    outputs = [t for t in tensors(model(*inputs)) if t.is_floating_point()]
    wanted = dict(model.named_parameters())
    grads = torch.autograd.grad(sum(t.sin().sum() for t in outputs), wanted.values())
    named = {f"output {n}": t.detach() for n, t in enumerate(outputs)}
    return named | dict(zip(wanted, grads, strict=True))


def assert_same(model, *inputs):
    """Check that ours gives what torch's own gives, as it lies in memory."""
    expected = results(model, *inputs)
    with fused_lstm.install():
        found = results(model, *inputs)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert found[name].stride() == value.stride(), name
        assert_close(found[name], value, name)


# --- values and gradients ---


@layers
@pytest.mark.parametrize("call", ["time-first", "batch-first", "unbatched", "packed", "state"])
def test_values_and_gradients(kind, options, call, ran):
    model = kind(5, 6, 2, bidirectional=True, batch_first=call == "batch-first", **options).double()
    x, arguments = torch.randn(4, 3, 5).double(), ()
    if call == "unbatched":
        x = x[:, 0]
    elif call == "packed":
        x = pack_padded_sequence(x, [2, 4, 1], enforce_sorted=False)
    elif call == "state":
        h = torch.randn(4, 3, options.get("proj_size", 6)).double()
        arguments = ((h, torch.randn(4, 3, 6).double()) if kind is nn.LSTM else h,)
    assert_same(model, x, *arguments)
    assert ran == [model.mode.lower()]


@needs_door
@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_a_cell(kind, ran):
    """Ours is for inference; in training torch's own is faster."""
    model, x = kind(5, 6), torch.randn(4, 5)
    assert_same(model, x)
    assert ran == []
    with torch.no_grad():
        first = model(x)
        expected = model(x, first)
        with fused_lstm.install():
            found = model(x, model(x))
    for a, b in zip(tensors(found), tensors(expected), strict=True):
        assert_close(a, b, "state")
    assert len(ran) == 2


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_a_cell_without_a_door(kind, ran, no_door):
    """Ours is for large products in inference; the rest is torch's own, which is faster."""
    model, x = kind(70, 130), torch.randn(64, 70)
    assert_same(model, x)
    with torch.no_grad(), fused_lstm.install():
        small = tensors(model(x[:2]))
    assert ran == []
    with torch.no_grad():
        expected = tensors(model(x))
        with fused_lstm.install():
            found = tensors(model(x))
    for a, b in zip([*found, *small], [*expected, *(t[:2] for t in expected)], strict=True):
        assert_close(a, b, "state")
    assert ran == {nn.LSTMCell: ["lstm"], nn.GRUCell: ["gru"], nn.RNNCell: []}[kind]


def test_one_row_of_a_large_cell(ran, no_door):
    for kind, H in ((nn.LSTMCell, 255), (nn.LSTMCell, 256), (nn.GRUCell, 256), (nn.GRUCell, 512)):
        with torch.no_grad(), fused_lstm.install():
            kind(H, H)(torch.randn(1, H))
    assert ran == ["lstm", "gru"]


@needs_door
def test_one_step(ran):
    """Ours runs in inference; of what is trained, torch's own where that is faster."""
    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        model, x = kind(5, 6), torch.randn(1, 2, 5)
        assert_same(model, x)
        with torch.no_grad(), fused_lstm.install():
            model(x)
    assert ran == ["lstm", "lstm", "gru", "gru", "rnn_tanh"]
    for kind, H, B in ((nn.GRU, 129, 31), (nn.GRU, 129, 32), (nn.RNN, 16, 8)):
        assert_same(kind(5, H), torch.randn(1, B, 5))
    assert ran[5:] == ["gru"]


def test_one_step_without_a_door(ran, no_door):
    """Check that torch's own code runs where it is faster for one step."""
    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        model, x = kind(5, 6), torch.randn(1, 2, 5)
        assert_same(model, x)
        with torch.no_grad(), fused_lstm.install():
            model(x)
    assert ran == ["lstm", "lstm", "gru"]
    for H, B in ((6, 8), (128, 32), (129, 31), (129, 32)):  # the last one is torch's
        assert_same(nn.GRU(5, H), torch.randn(1, B, 5))
    assert ran[3:] == ["gru"] * 3


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
def test_autocast_gives_the_dtypes_that_torchs_has(name, x_dtype):
    """Compare dtypes: nn.LSTM's and nn.RNN's is bfloat16, a step loop's that of its operators."""
    model = getattr(nn, name)(70, 130)
    x = torch.randn(*(() if "Cell" in name else (2,)), 64, 70, dtype=x_dtype)
    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    runs = (name, x_dtype) != ("LSTM", torch.float32) or has_bfloat16
    with torch.autocast("cpu", torch.bfloat16, enabled=runs), torch.no_grad():
        expected = tensors(model(x))
    if not runs:  # it is an error of oneDNN's on such a CPU, and ours is as on others
        expected = [t.bfloat16() for t in expected]
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad(), fused_lstm.install():
        found = tensors(model(x))
    assert [t.dtype for t in found] == [t.dtype for t in expected]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.float(), b.float(), atol=2e-2, rtol=0)


def test_torchs_words_for_arguments_that_do_not_fit():
    model, calls = nn.LSTM(5, 6), []
    calls.append(lambda: model(torch.randn(4, 3, 7)))
    calls.append(lambda: model(torch.randn(4, 3, 5).double()))
    calls.append(lambda: model(torch.randn(4, 3, 5), (torch.zeros(1, 2, 6),) * 2))
    calls.append(lambda: nn.GRUCell(5, 6)(torch.randn(3, 5), torch.zeros(2, 6)))
    for call in calls:
        with pytest.raises((RuntimeError, ValueError), match=r"\w") as expected:
            call()
        with fused_lstm.install(), pytest.raises(type(expected.value)) as found:
            call()
        assert str(found.value) == str(expected.value)
    packed = pack_padded_sequence(torch.randn(4, 3, 5), [4, 4, 4])
    with fused_lstm.install(), pytest.raises(ValueError, match="h_0: got shape"):
        model(packed, (torch.zeros(1, 2, 6),) * 2)  # where nn.LSTM ends the process


# --- what stays ---


class Twice(nn.LSTM):
    """A subclass that calls its base's forward."""

    def forward(self, x):
        y, (h, c) = super().forward(x)
        return 2 * y, h, c


def test_a_module_stays_what_it_is(ran):
    model, x = nn.LSTM(5, 6), torch.randn(4, 3, 5)
    before = pickle.dumps(model), list(vars(model)), nn.LSTM.forward, repr(model)
    with fused_lstm.install():
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), nn.LSTM(5, 6)]
        copies[2].load_state_dict(model.state_dict())
        expected = model(x)[0]
        for each in copies:
            assert type(each) is nn.LSTM
            assert torch.equal(each(x)[0], expected)
        assert (pickle.dumps(model), list(vars(model)), nn.LSTM.forward, repr(model)) == before
    assert len(ran) == 4
    assert vars(nn.modules.rnn)["_VF"] is torch._VF


def test_a_subclass_runs_ours(ran):
    model, x = Twice(5, 6), torch.randn(4, 3, 5)
    assert_same(model, x)
    assert ran == ["lstm"]


class Wrapped(nn.Module):
    """A module around a layer, since torch.jit.script takes no recurrent layer by itself."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


@layers
@pytest.mark.parametrize("made", ["script", "trace"])
def test_what_torch_jit_saves_needs_nothing_of_ours(kind, options, made, ran):
    model, x = Wrapped(kind(5, 6, **options)).eval(), torch.randn(4, 3, 5)
    with fused_lstm.install():
        if made == "script":
            compiled = torch.jit.script(model)
        else:
            compiled = torch.jit.trace(model, (x,), check_trace=False)
        file = io.BytesIO()
        torch.jit.save(compiled, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    names = {node.kind() for node in loaded.inlined_graph.nodes()}
    assert f"aten::{model.layer.mode.lower()}" in names
    assert not any("fused_lstm" in name for name in names)
    assert torch.equal(loaded(x), model(x))
    assert ran == []


def test_torch_export_sees_torchs_operators(ran):
    model, x = Wrapped(nn.LSTM(5, 6)), torch.randn(4, 3, 5)
    with fused_lstm.install():
        program = torch.export.export(model, (x,))
    targets = [str(node.target) for node in program.graph.nodes]
    assert any("aten.lstm" in target for target in targets)
    assert not any("fused_lstm" in target for target in targets)
    assert ran == []


def test_fx_quantize_dynamic_and_compile(ran):
    model, x = nn.Sequential(nn.Linear(5, 5), nn.LSTM(5, 6)), torch.randn(4, 3, 5)
    expected = model(x)[0]
    with fused_lstm.install(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.fx.symbolic_trace(model)
        assert traced.get_submodule("1") is model[1]
        assert_close(traced(x)[0], expected, "fx")
        assert ran == ["lstm"]
        quantized = torch.ao.quantization.quantize_dynamic(model, {nn.LSTM})
        assert type(quantized[1]) is torch.ao.nn.quantized.dynamic.LSTM
        quantized(x)
        compiled = torch.compile(model, backend="eager")
        assert_close(compiled(x)[0], expected, "compile")
    assert ran == ["lstm", "lstm"]  # Dynamo breaks its graph there


@layers
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_torch_compile_trains_a_model(kind, options, backend, ran):
    """Its graph breaks at nn.LSTM, as without us; what nn.LSTM calls is no graph of its own."""
    model, x = Wrapped(kind(5, 6, **options)), torch.randn(4, 3, 5)
    weights = list(model.parameters())
    expected = torch.autograd.grad(model(x).sin().sum(), weights)
    with fused_lstm.install():
        y = torch.compile(model, backend=backend)(x)
        got = torch.autograd.grad(y.sin().sum(), weights)
    for (name, _), found, wanted in zip(model.named_parameters(), got, expected, strict=True):
        assert_close(found, wanted, name)
    assert ran == [model.layer.mode.lower()]


@pytest.mark.slow  # a compiler runs
def test_inductor_trains_a_model(ran):
    model, x = Wrapped(nn.LSTM(5, 6)), torch.randn(4, 3, 5)
    with fused_lstm.install():
        torch.compile(model)(x).sum().backward()
    assert ran == ["lstm"]
    assert model.layer.weight_hh_l0.grad.abs().sum() > 0


def test_a_traced_cell_is_torchs_in_a_graph(ran):
    """Dynamo traces nn.LSTMCell, whose graph needs nothing of ours."""
    cell, x = nn.LSTMCell(5, 6), torch.randn(3, 5)
    expected = cell(x)[0]
    with fused_lstm.install():
        compiled = torch.compile(cell, backend="aot_eager", fullgraph=True)
        assert_close(compiled(x)[0], expected, "h")
    assert ran == []


def test_functional_call_and_checkpoint(ran):
    model, x = nn.LSTM(5, 6), torch.randn(4, 3, 5, requires_grad=True)
    weights = {name: p.detach() * 2 for name, p in model.named_parameters()}
    expected = torch.func.functional_call(model, weights, (x,))[0]
    want = torch.autograd.grad(model(x)[0].sin().sum(), x)[0]
    with fused_lstm.install():
        assert_close(torch.func.functional_call(model, weights, (x,))[0], expected, "y")
        y = torch.utils.checkpoint.checkpoint(lambda x: model(x)[0], x, use_reentrant=False)
        assert_close(torch.autograd.grad(y.sin().sum(), x)[0], want, "dx")
    assert ran == ["lstm"] * 3


class Kind(torch.Tensor):
    pass


def test_what_looks_at_operators_or_is_no_plain_tensor_gets_torchs(ran):
    from torch.utils.flop_counter import FlopCounterMode

    model, x = nn.GRU(5, 6), torch.randn(4, 3, 5)
    counter = FlopCounterMode(display=False)
    with fused_lstm.install():
        with counter:
            model(x)
        model(x.as_subclass(Kind))
        torch.func.grad(lambda x: model(x)[0].sum())(x)
        model(x[:, :0])
    assert counter.get_total_flops() > 0
    assert ran == []


# --- in and out ---


def test_calls_nest():
    fused_lstm.install()
    with fused_lstm.install():
        assert rnn._VF is not torch._VF
    assert rnn._VF is not torch._VF
    fused_lstm.uninstall()
    assert rnn._VF is torch._VF
    fused_lstm.uninstall()  # one too many does nothing
    with fused_lstm.install():
        assert rnn._VF is not torch._VF


class Other(types.ModuleType):
    """Another package's functions over those that it found."""

    def __init__(self, found) -> None:
        super().__init__("other")
        self.found, self.calls = found, 0

    def __getattr__(self, name):
        if name == "lstm":
            vars(self)["calls"] += 1
        return getattr(vars(self)["found"], name)


def test_another_packages_functions_stay(ran, monkeypatch):
    """Put there before `install` or after it; ours run in between alone."""
    monkeypatch.setattr(rnn, "_VF", torch._VF)  # restores it at the end
    module, x = nn.LSTM(5, 6), torch.randn(4, 3, 5)
    before = rnn._VF = Other(torch._VF)
    fused_lstm.install()
    module(x)
    assert (len(ran), before.calls) == (1, 0)
    after = rnn._VF = Other(rnn._VF)
    module(x)
    assert (len(ran), after.calls) == (2, 1)
    fused_lstm.uninstall()
    assert rnn._VF is after
    module(x)
    assert (len(ran), after.calls) == (2, 2)  # torch's own runs under it
    with fused_lstm.install():
        module(x)
        assert len(ran) == 3
    assert rnn._VF is after
    rnn._VF = before
    with fused_lstm.install():
        pass
    assert rnn._VF is before


def test_an_error_uninstalls():
    with pytest.raises(KeyError), fused_lstm.install():
        raise KeyError
    assert rnn._VF is torch._VF


def test_threads_share_it(ran):
    """A thread that leaves does not take it from one that stays."""
    model, x, left, go_on = nn.GRU(5, 6), torch.randn(4, 3, 5), threading.Event(), threading.Event()

    def stay():
        with fused_lstm.install():
            go_on.set()
            left.wait()
            model(x)

    thread = threading.Thread(target=stay)
    with fused_lstm.install():
        thread.start()
        go_on.wait()
    left.set()
    thread.join()
    assert ran == ["gru"]


# --- explain ---


def test_explain():
    torch.jit.script(scripted := Wrapped(nn.LSTM(2, 3)))
    model = nn.ModuleDict({
        "lstm": nn.LSTM(5, 6), "gru": nn.GRU(5, 6), "cell": nn.RNNCell(5, 6), "twice": Twice(5, 6),
        "complex": nn.LSTM(5, 6, dtype=torch.complex64),
        "ours": fused_lstm.LSTM(5, 6, engine="loop"),
        "linear": nn.Linear(5, 6), "scripted": torch.jit.script(scripted),
        "quantized": torch.ao.nn.quantized.dynamic.LSTM(5, 6),
    })  # fmt: skip
    slstm = fused_lstm.SLSTM(8, 8, engine="loop")
    assert fused_lstm.explain(slstm)[""].startswith("loop at none")
    before = fused_lstm.explain(model)
    assert before["lstm"] == "torch's own: fused_lstm.install() has not been called"
    assert before["ours"].startswith("loop at none")
    with fused_lstm.install():
        now = fused_lstm.explain(model)
    assert list(now) == [
        "lstm", "gru", "cell", "twice", "complex", "ours", "scripted.layer", "quantized",
    ]  # fmt: skip
    assert now["lstm"].startswith("native at layers: C++ kernels")
    assert now["lstm"].endswith("; auto's choice on a CPU")
    assert now["ours"].endswith("; asked for by name")
    assert now["gru"].endswith("; torch's own for some training steps of one step")
    assert now["cell"].endswith("; torch's own in training")
    assert now["twice"].endswith("; where Twice's forward calls LSTM's")
    assert now["complex"] == "torch's own: it is in torch.complex64"
    assert now["scripted.layer"] == "torch's own: torch.jit has compiled it"
    assert now["quantized"] == "torch's own: it is quantized, with integers for weights"
    assert {n for n, why in fused_lstm.conversions(model).items() if why} == {
        "twice", "scripted.layer", "quantized",
    }  # fmt: skip
