"""The door past PyTorch's dispatcher: it gives the operator's bits, and leaves it what is its."""

from __future__ import annotations

import copy
import re
import sys
import threading
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import fused_lstm
from cases import needs_native
from fused_lstm.call import door
from fused_lstm.call.spec import PLAIN

pytestmark = [
    needs_native,
    pytest.mark.skipif(
        door._maker() is None or door.of(PLAIN, door.FORWARD, False) is door._closed,
        reason="there is no door before PyTorch 2.14, and on Linux alone",
    ),
]
T, B, I, H = 5, 3, 6, 7


@pytest.fixture(autouse=True)
def taken(monkeypatch) -> list[bool]:
    """List for each call that came to the door whether it took it."""
    calls, made = [], door.of

    def of(*key):
        def counted(*arguments):
            results = made(*key)(*arguments)
            calls.append(results is not None)
            return results

        return counted

    monkeypatch.setattr(door, "of", of)
    return calls


def by_operator(monkeypatch, call, *arguments):
    """Return what a call gives where the door is shut."""
    with monkeypatch.context() as patch:
        patch.setattr(door, "is_open", lambda: False)
        return call(*arguments)


def flat(results) -> list[Tensor]:
    return [results] if isinstance(results, Tensor) else [t for r in results for t in flat(r)]


def assert_same(got, expected) -> None:
    for one, other in zip(flat(got), flat(expected), strict=True):
        assert one.dtype == other.dtype
        assert one.stride() == other.stride()
        assert torch.equal(one, other)


KINDS = {
    "lstm": lambda **more: nn.LSTM(I, H, 2, **more),
    "lstm of two directions": lambda **more: nn.LSTM(I, H, bidirectional=True, **more),
    "lstm projected": lambda **more: nn.LSTM(I, H, proj_size=4, bias=False, **more),
    "gru": lambda **more: nn.GRU(I, H, **more),
    "rnn": lambda **more: nn.RNN(I, H, nonlinearity="relu", **more),
}


@pytest.mark.parametrize("form", ["layer", torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("kind", KINDS)
def test_it_gives_the_operators_bits(kind, form, taken, monkeypatch):
    for batch_first in (False, True):
        module = KINDS[kind](batch_first=batch_first).eval()
        own = copy.deepcopy(module)
        own = fused_lstm.convert(own) if form == "layer" else fused_lstm.prepare(own, form)
        x = torch.randn(T, B, I)
        for given in (x, x[:2], x[:, :2].contiguous()):
            with torch.no_grad():
                first = own(given)
                again = own(given, first[1])
                assert taken == [True, True]
                assert_same(first, by_operator(monkeypatch, own, given))
                assert_same(again, by_operator(monkeypatch, own, given, first[1]))
            taken.clear()


@pytest.mark.parametrize("kind", KINDS)
def test_many_rows_of_bfloat16_give_the_operators_bits(kind, taken, monkeypatch):
    """A CPU with products of bfloat16 runs them by the layer's kernels."""
    prepared = fused_lstm.prepare(KINDS[kind](dtype=torch.bfloat16).eval())
    x = torch.randn(T, 30, I, dtype=torch.bfloat16)
    with torch.no_grad():
        y, last = prepared(x)
        again = prepared(x, last)
        assert taken == [True, True]
        assert_same((y, last), by_operator(monkeypatch, prepared, x))
        assert_same(again, by_operator(monkeypatch, prepared, x, last))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
def test_a_cell_gives_the_operators_bits(kind, dtype, taken, monkeypatch):
    cell = getattr(fused_lstm, kind)(I, H, dtype=dtype, engine="native")
    x = torch.randn(B, I, dtype=dtype)
    with torch.no_grad():
        first = cell(x)
        again = cell(x, first)
        assert taken == [True, True]
        assert_same(first, by_operator(monkeypatch, cell, x))
        assert_same(again, by_operator(monkeypatch, cell, x, first))
        assert_same(cell(x[0]), by_operator(monkeypatch, cell, x[0]))


@pytest.mark.parametrize("form", ["layer", "prepared"])
def test_a_stream_gives_the_operators_bits(form, taken, monkeypatch):
    own = fused_lstm.GRU(I, H).eval()
    own = fused_lstm.prepare(own) if form == "prepared" else own
    frames = torch.randn(T, B, I)

    def run():
        stream = fused_lstm.Streaming(own, B)
        return [stream(frame) for frame in frames]

    results = run()
    assert taken == [True] * T
    assert_same(results, by_operator(monkeypatch, run))


class Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        self.names.append(str(function))
        return function(*arguments, **named or {})


class SeenFunctions(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, function, types, arguments=(), named=None):
        self.names.append(str(function))
        return function(*arguments, **named or {})


LAYERS = {
    "lstm": lambda: fused_lstm.LSTM(I, H).eval(),
    "prepared_lstm": lambda: fused_lstm.prepare(nn.LSTM(I, H).eval()),
}


@pytest.mark.parametrize("name", LAYERS)
def test_modes_and_a_profiler_see_the_operator(name, taken):
    layer, x = LAYERS[name](), torch.randn(T, B, I)
    with torch.no_grad():
        with Seen() as seen:
            layer(x)
        with SeenFunctions() as functions:
            layer(x)
        with torch.profiler.profile() as profile:
            layer(x)
    of_profile = [event.name for event in profile.events()]
    for names in (seen.names, functions.names, of_profile):
        assert any(name in one for one in names)
    assert taken == []


@pytest.mark.parametrize("name", LAYERS)
def test_graphs_have_the_operator(name, taken):
    layer, x, graphs = LAYERS[name](), torch.randn(T, B, I), []

    def backend(graph, _):
        graphs.append(str(graph.graph))
        return graph

    with torch.no_grad():
        expected = layer(x)[0]
        traced = torch.jit.trace(layer, (x,), check_trace=False)
        compiled = torch.compile(layer, backend=backend, fullgraph=True)
        assert torch.equal(compiled(x)[0], expected)
        assert torch.equal(traced(x)[0], expected)
    assert f"fused_lstm_native::{name}" in str(traced.inlined_graph)
    assert f"fused_lstm_native.{name}" in graphs[0]


def test_a_transform_takes_it_for_what_it_has_unwrapped(taken):
    layer, x = LAYERS["lstm"](), torch.randn(T, B, I)
    with torch.no_grad():
        many = torch.func.vmap(lambda x: layer(x)[0])(x[None])
        torch.testing.assert_close(many[0], layer(x)[0])
    assert taken == [True, True]


class Own(Tensor):
    """A tensor of somebody else's."""


@pytest.mark.parametrize("name", LAYERS)
def test_tensors_that_are_not_plain_are_left_to_the_operator(name, taken):
    layer, x = LAYERS[name](), torch.randn(T, B, I)
    put_off = torch.imag(torch.complex(x, x).conj())  # whose numbers PyTorch has yet to negate
    assert put_off.is_neg()
    with torch.no_grad():
        expected = layer(-x)[0]
        assert torch.equal(layer(put_off)[0], expected)
        states = torch.imag(torch.complex(*torch.randn(2, 1, B, H)).conj())
        assert torch.equal(layer(x, (states,) * 2)[0], layer(x, (states.resolve_neg(),) * 2)[0])
        taken.clear()
        layer((-x).as_subclass(Own))
    assert True not in taken


@pytest.mark.parametrize("name", [*LAYERS, "cell"])
def test_what_is_refused_is_refused_by_name(name, monkeypatch):
    layer = LAYERS.get(name, lambda: fused_lstm.LSTMCell(I, H, engine="native"))()
    x, h = torch.randn(T, B, I), torch.zeros(1, B, H)
    wrong = [
        (x[:, :, 1:],), (x.double(),), (x[0, 0],), (x[:0],), (x, h), (x, (h,)), (x, (h, h[:, 1:])),
        (x, (h, h.double())), (x.to_sparse(),), (x, (None, h)), ([x],),
    ]  # fmt: skip
    if name == "cell":
        x, h = x[0], h[0]
        wrong = [(x[:, 1:],), (x.double(),), (x, h), (x, (h,)), (x, (h, h[1:])), (x, (h[:, 1:], h))]
    with torch.no_grad():
        for given in wrong:
            with pytest.raises(ValueError, match=r": got .*; expected ") as expected:
                by_operator(monkeypatch, layer, *given)
            with pytest.raises(ValueError, match=re.escape(str(expected.value))):
                layer(*given)


@pytest.mark.parametrize("name", LAYERS)
def test_results_are_let_go_and_belong_to_inference(name, taken):
    layer, x = LAYERS[name](), torch.randn(T, B, I)
    states = (torch.zeros(1, B, H), torch.zeros(1, B, H))
    with torch.inference_mode():
        y, last = layer(x, states)
        assert all(t.is_inference() for t in (y, *last))
    held = [sys.getrefcount(t) for t in (x, *states, Tensor, nn.Parameter)]
    for _ in range(50):
        with torch.no_grad():
            y, last = layer(x, states)
    assert held == [sys.getrefcount(t) for t in (x, *states, Tensor, nn.Parameter)]
    assert taken == [True] * 51
    assert not any(t.is_inference() or t.requires_grad for t in (y, *last))
    gone = [weakref.ref(t) for t in (y, *last)]
    del y, last
    assert [ref() for ref in gone] == [None] * 3


def test_a_prepared_layer_takes_it_where_gradients_are_on(taken):
    layer, x = LAYERS["prepared_lstm"](), torch.randn(T, B, I)
    y, last = layer(x)
    assert taken == [True]
    assert not any(t.requires_grad for t in (y, *last))
    assert layer(x.requires_grad_())[0].requires_grad
    assert taken == [True]


@pytest.mark.parametrize("needs_dx", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_backward_gives_the_operators_bits(kind, needs_dx, taken, monkeypatch):
    layer = fused_lstm.convert(KINDS[kind]())
    x, weights = torch.randn(T, B, I, requires_grad=needs_dx), list(layer.parameters())
    leaves = [x, *weights] if needs_dx else weights

    def gradients(part):
        y, last = layer(x)
        results = [y, *flat(last)][part]
        wanted = torch.autograd.grad(results, leaves, [torch.ones(r.shape) for r in results])
        return results, wanted

    for part in (slice(None), slice(1), slice(1, None)):
        got = gradients(part)
        assert taken == [True, True]
        assert_same(got, by_operator(monkeypatch, gradients, part))
        taken.clear()


def test_a_gradient_that_is_not_plain_is_left_to_the_operator(taken):
    layer, x = fused_lstm.LSTM(I, H), torch.randn(T, B, I)
    grads = []
    for factor in (1j, -1j):  # the gradient by the real part of conj(i y) is put off
        y, _ = layer(x)
        z = torch.complex(torch.zeros(y.shape), y).conj() * factor
        grads.append(torch.autograd.grad(z.real.square().sum(), layer.weight_ih_l0)[0])
    torch.testing.assert_close(*grads)
    y, _ = layer(x)
    taken.clear()
    expanded = torch.autograd.grad(y.sum(), layer.weight_ih_l0)[0]
    assert taken == [False]
    y, _ = layer(x)
    torch.testing.assert_close(
        torch.autograd.grad(y, layer.weight_ih_l0, torch.ones(y.shape))[0], expanded
    )


def test_a_second_derivative_and_what_is_written_over_are_right(monkeypatch):
    layer, x = fused_lstm.LSTM(I, H), torch.randn(T, B, I, requires_grad=True)

    def second():
        y, _ = layer(x)
        (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(dx.square().sum(), layer.weight_hh_l0)[0]

    def written():
        y, _ = layer(x)
        return torch.autograd.grad(y.mul_(2).square().sum(), layer.weight_hh_l0)[0]

    for gradient in (second, written):
        assert_same(gradient(), by_operator(monkeypatch, gradient))


def test_changed_weights_are_seen(taken):
    layer, other, x = fused_lstm.LSTM(I, H), fused_lstm.LSTM(I, H), torch.randn(T, B, I)
    with torch.no_grad():
        layer(x)
        for mine, theirs in zip(layer.parameters(), other.parameters(), strict=True):
            mine.data = theirs.data.clone()
        assert torch.equal(layer(x)[0], other(x)[0])
        layer.weight_ih_l0.mul_(2)
        other.weight_ih_l0 = nn.Parameter(other.weight_ih_l0 * 2)
        assert torch.equal(layer(x)[0], other(x)[0])
    assert False not in taken


def test_other_threads_of_python_run_meanwhile(taken):
    layer, x = fused_lstm.prepare(nn.LSTM(64, 256).eval()), torch.randn(3000, 4, 64)
    begun, ended, rounds = threading.Event(), threading.Event(), 0

    def call():
        begun.set()
        with torch.no_grad():
            layer(x)
        ended.set()

    thread = threading.Thread(target=call)
    thread.start()
    begun.wait()
    while not ended.is_set():
        rounds += 1
    thread.join()
    assert taken == [True]
    assert rounds > 1000


def test_without_a_door_the_operator_is_called(taken, monkeypatch):
    """PyTorch before 2.14 has no functions for it, and the library then makes none."""
    layer, x = LAYERS["prepared_lstm"](), torch.randn(T, B, I)
    with torch.no_grad():
        expected = layer(x)
        monkeypatch.setattr(door, "_DOORS", {})
        for maker in (None, lambda *_: None):
            monkeypatch.setattr(door, "_maker", lambda maker=maker: maker)
            assert_same(layer(x), expected)
    assert taken == [True, False, False]
