"""The native engine's own matters: instruction sets, threads, memory, accuracy, fork."""

from __future__ import annotations

import functools
import multiprocessing
import os

import pytest
import torch
from torch import nn

import fresh
from cases import Shape, native_lstm
from fused_lstm import native, reference
from tolerance import HALF, TOLERANCE, assert_close, error_norm, ulps

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"
)

SEED = torch.tensor([2**62 + 12345])

SHAPES = [
    Shape(1, 1, 1, 1, 1),
    Shape(3, 2, 5, 3, 2),
    Shape(5, 20, 17, 17, 2),
    Shape(4, 7, 63, 63, 3),
    Shape(2, 9, 130, 130, 2),
    Shape(2, 23, 1600, 40, 1),  # more inputs than a panel packs at once
    Shape(90, 20, 12, 8, 2),  # more rows, T * B, than that
    Shape(2, 3, 4, 420, 1),  # more gate columns than that
    Shape(8, 34, 17, 16, 2),  # steps that make their input products too
]


def problem(shape: Shape, dtype=torch.float32, bias=True, scale=1.0):
    T, B, I, H, L = shape
    weights = list(nn.LSTM(I, H, L, bias=bias, dtype=dtype).parameters())
    x = torch.randn(T, B, I, dtype=dtype) * scale
    h0, c0 = torch.randn(2, L, B, H, dtype=dtype)
    return [t.detach().requires_grad_() for t in (x, h0, c0, *weights)]


def results(inputs, lstm) -> dict[str, torch.Tensor]:
    x, h0, c0, *weights = inputs
    outputs = lstm(x, h0, c0, weights)
    loss = sum(
        (out * torch.linspace(-1, 1, out.numel()).reshape(out.shape)).sum() for out in outputs
    )
    names = ["x", "h0", "c0", *(f"weights[{i}]" for i in range(len(weights)))]
    grads = zip(names, torch.autograd.grad(loss, inputs), strict=True)
    return dict(zip(("y", "h_n", "c_n"), outputs, strict=True)) | {f"d{n}": g for n, g in grads}


def engine(fuse="layers", dropout=0.0):
    return lambda x, h0, c0, weights: native_lstm(x, h0, c0, weights, dropout, fuse)


def assert_threads_agree(inputs) -> None:
    """Bit by bit, and run to run."""
    torch.set_num_threads(1)
    expected = results(inputs, engine())
    for count in (1, 2, 3, 5):
        torch.set_num_threads(count)
        for name, value in results(inputs, engine()).items():
            assert torch.equal(value, expected[name]), f"{name}, {count} threads"


@functools.cache
def expected_results(shape: Shape, dtype, bias):
    """(inputs, results, results without saving): made once for all instruction sets and levels."""
    torch.manual_seed(0)
    inputs = problem(shape, dtype, bias)
    x, h0, c0, *weights = inputs
    with torch.no_grad():
        plain = reference.lstm(x, h0, c0, weights)
    return inputs, results(inputs, reference.lstm), plain


@functools.cache
def expected_without_gradients(shape: Shape):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    inputs = [t.detach() for t in problem(shape)]
    return inputs, reference.lstm(*inputs[:3], inputs[3:])


def compare(found, expected):
    for name, value in expected.items():
        assert_close(found[name], value, name)


@pytest.mark.parametrize("fuse", ["pointwise", "steps", "layers"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_the_reference(isa, shape, dtype, fuse):
    for bias in (True, False):
        inputs, expected, plain = expected_results(shape, dtype, bias)
        compare(results(inputs, engine(fuse)), expected)
        with torch.no_grad():  # a path of its own: nothing saved, one buffer for all layers
            x, h0, c0, *weights = inputs
            found = native_lstm(x, h0, c0, weights, 0.0, fuse)
        compare(dict(enumerate(found)), dict(enumerate(plain)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_float32_inside(every_isa, dtype):
    """Of one step the only rounding is the last: sums, activations and states are float32."""
    inputs = [t.to(dtype) for t in problem(Shape(1, 9, 130, 63, 1))]
    exact = reference.lstm(*(t.double() for t in inputs[:3]), [w.double() for w in inputs[3:]])
    found = engine()(*inputs[:3], inputs[3:])
    for name, value, right in zip(("y", "h_n", "c_n"), found, exact, strict=True):
        assert value.dtype == dtype, name
        assert ulps(value, right) <= HALF, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_rounded_once_a_step(every_isa, dtype):
    """h, and a backward's dgates, are kept in half precision: errors of a unit and no more."""
    inputs = [t.to(dtype).detach().requires_grad_() for t in problem(Shape(5, 3, 7, 19, 2))]
    exact = results([t.double().detach().requires_grad_() for t in inputs], reference.lstm)
    for name, value in results(inputs, engine()).items():
        assert value.dtype == dtype, name
        assert error_norm(value, exact[name]) <= torch.finfo(dtype).eps, name


@pytest.mark.parametrize(
    ("function", "lanes"),
    # c_next is tanh(g) where i is 1 and f * c is 0, and sigmoid(f) where c is 1 and i * g is 0.
    [(torch.tanh, (100.0, 0.0, None, 0.0)), (torch.sigmoid, (-100.0, None, 0.0, 0.0))],
    ids=["tanh", "sigmoid"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_activations_are_within_four_ulp(isa, dtype, function, lanes):
    x = torch.cat([torch.linspace(-20, 20, 40001), torch.logspace(-30, 1, 3000)]).to(dtype)
    gates = torch.cat([x if v is None else torch.full_like(x, v) for v in lanes])[None]
    c = torch.full_like(x, 0.0 if function is torch.tanh else 1.0)[None]
    found = native.OPS.cell(gates, c)[1][0]
    # Of float64 nothing wider is at hand: PyTorch's own function is as far off as ours.
    assert ulps(found, function(x.double())) < (4 if dtype == torch.float32 else 8)


@pytest.mark.parametrize("sign", [1, -1], ids=["positive", "negative"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_saturated_tanh_has_pytorchs_gradient(isa, dtype, sign):
    """It is 1 - tanh(x)^2, which has all errors of tanh near 1: below 0 there were three."""
    x = sign * torch.linspace(4, 8 if dtype == torch.float32 else 16, 20001, dtype=dtype)
    gates = torch.stack([torch.full_like(x, 100.0), *torch.zeros(3, *x.shape, dtype=dtype)])
    gates[2] = x  # g, and i is 1: c_next is tanh(g)
    zero, one = torch.zeros_like(x)[None], torch.ones_like(x)[None]
    gates = gates.reshape(1, -1)
    c_next = native.OPS.cell(gates, zero)[1]
    dgates, _ = native.OPS.cell_backward(gates, zero, c_next, zero, one)
    exact, shares = x.double().cosh() ** -2, torch.tensor([0.5, 0.99], dtype=torch.float64)

    def errors(slope: torch.Tensor) -> torch.Tensor:
        return ((slope - exact) / exact).abs().quantile(shares)

    ours, theirs = errors(dgates.view(4, -1)[2].double()), errors((1 - x.tanh() ** 2).double())
    assert (ours <= 1.1 * theirs).all(), f"median and p99: {ours.tolist()}, {theirs.tolist()}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_extreme_inputs_give_finite_right_results(isa, dtype):
    inputs = problem(Shape(4, 3, 5, 33, 2), dtype, scale=1e4)
    found = results(inputs, engine())
    compare(found, results(inputs, reference.lstm))
    gates = torch.tensor([1e4, -1e4, 0.0, 1e30, -1e30, float("inf"), float("-inf")], dtype=dtype)
    c = torch.ones(1, 7, dtype=dtype)
    h, c_next = native.OPS.cell(gates.repeat(4)[None], c)
    for value, expected in zip((h, c_next), reference.cell(gates.repeat(4)[None], c), strict=True):
        assert_close(value, expected, "cell")


def test_nan_goes_through(isa):
    x, h0, c0, *weights = problem(Shape(3, 2, 4, 20, 1))
    x = x.detach().clone()
    x[1, 0, 2] = float("nan")
    y, *_ = native_lstm(x, h0, c0, weights, 0.0, "layers")
    assert y[0].isfinite().all()
    assert y[1:, 0].isnan().all()
    assert y[:, 1].isfinite().all()


@pytest.mark.parametrize("hidden", [70, 210], ids=["wavefront", "in-turns"])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_threads_and_runs_agree(count, hidden):
    inputs = problem(Shape(7, 20, 50, hidden, 2))
    torch.set_num_threads(1)
    expected = results(inputs, engine())
    torch.set_num_threads(count)
    first, again = results(inputs, engine()), results(inputs, engine())
    for name, value in first.items():
        assert_close(value, expected[name], name)
        assert torch.equal(value, again[name]), f"{name}: two runs differ"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot keep to one core here")
def test_more_threads_than_cores_do_not_wait_for_each_other():
    """Eight on one core took 50 times one's time where each spun before it let others run.

    The process's time, since a neighbour on that core gets what the threads yield.
    """
    script = """
import os, time, torch
from fused_lstm import native

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
torch.set_num_threads(8)
weights = [p.detach() for p in torch.nn.LSTM(64, 64, 1).parameters()]
x, states = torch.randn(50, 20, 64), torch.zeros(2, 1, 20, 64)

def seconds(threads):
    torch.set_num_threads(threads)
    begin = time.process_time()
    native.OPS.lstm(x, *states, weights, 0.0, None, 'layers', False)
    return time.process_time() - begin

print(min(seconds(8) for _ in range(15)) / min(seconds(1) for _ in range(15)))
"""
    assert float(fresh.python(script)) < 8


@pytest.mark.parametrize("layers", [3, 4], ids=["in-turns", "wavefront"])
@pytest.mark.parametrize("fuse", ["steps", "layers"])
@pytest.mark.parametrize("dropout", [0.3, 1.0])
def test_dropout_is_the_references(isa, dropout, fuse, layers):
    torch.set_num_threads(2)
    inputs = problem(Shape(9, 5, 11, 37, layers))
    x, h0, c0, *weights = inputs

    def fused(x, h0, c0, weights):
        return native.OPS.lstm(x, h0, c0, weights, dropout, SEED, fuse, True)[:3]

    def plain(x, h0, c0, weights):
        return reference.lstm(x, h0, c0, weights, dropout, SEED)

    compare(results(inputs, fused), results(inputs, plain))
    with torch.no_grad():
        found = native.OPS.lstm(x, h0, c0, weights, dropout, SEED, fuse, False)[:3]
        compare(dict(enumerate(found)), dict(enumerate(plain(x, h0, c0, weights))))


def test_a_tensor_may_be_part_of_a_longer_mask(isa):
    x = torch.randn(5, 77)
    mask = reference.dropout_mask(SEED, (3, 5, 77), 0.4)
    for n in range(3):
        assert torch.equal(native.OPS.dropout(x, 0.4, SEED, n * x.numel()), x * mask[n])
    with pytest.raises(ValueError, match="first: got -1; expected at least 0"):
        native.OPS.dropout(x, 0.4, SEED, -1)


def test_gradcheck():
    x, h0, c0, *weights = problem(Shape(3, 2, 3, 5, 2), torch.float64)

    def run(x, h0, c0, *weights):
        return native_lstm(x, h0, c0, weights, 0.0, "layers")

    assert torch.autograd.gradcheck(run, (x, h0, c0, *weights))


def test_strided_inputs_and_a_second_backward():
    inputs = problem(Shape(6, 4, 10, 24, 2))
    expected = results(inputs, reference.lstm)
    wide = [torch.stack([t, t], -1)[..., 0].detach().requires_grad_() for t in inputs]
    assert not wide[0].is_contiguous()
    compare(results(wide, engine()), expected)
    x, h0, c0, *weights = inputs
    y = native_lstm(x, h0, c0, weights, 0.0, "layers")[0].sum()
    first = torch.autograd.grad(y, inputs, retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(y, inputs), strict=True):
        assert torch.equal(a, b)


def test_a_long_input_without_gradients_is_read_in_chunks(isa):
    shape = Shape(70, 64, 9, 256, 2)
    assert shape.T * shape.B * 4 * shape.H * 4 > 16 << 20, "one chunk would hold it"
    inputs, expected = expected_without_gradients(shape)
    with torch.no_grad():
        found = engine()(*inputs[:3], inputs[3:])
    compare(dict(enumerate(found)), dict(enumerate(expected)))


def _in_child(queue, inputs):
    torch.use_deterministic_algorithms(False)  # torch's own fill with NaN waits for lost threads
    queue.put([t.numpy() for t in engine()(*inputs[:3], inputs[3:])])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_can_run_it():
    torch.set_num_threads(2)  # also on one core: it is threads that are lost
    inputs = [t.detach() for t in problem(Shape(6, 20, 30, 64, 2))]
    expected = engine()(*inputs[:3], inputs[3:])  # the parent's threads are up
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue, inputs))
    child.start()
    try:
        found = queue.get(timeout=60)
    finally:
        child.join(5)
        child.kill()
    for value, theirs in zip(found, expected, strict=True):
        assert_close(torch.from_numpy(value), theirs, "child")


def test_another_instruction_set_may_be_chosen_during_calls():
    """In a process of its own: a call that mixed two sets' panel sizes would end it."""
    script = """
import threading, torch
from fused_lstm import native

T, B, I, H, L = 6, 8, 30, 210, 2
weights = [p.detach() for p in torch.nn.LSTM(I, H, L).parameters()]
x, states = torch.randn(T, B, I), torch.zeros(2, L, B, H)
call = lambda: native.OPS.lstm(x, *states, weights, 0.0, None, 'layers', False)[0]
expected, wrong = call(), []

def run():
    torch.set_num_threads(2)
    for _ in range(30):
        wrong.append(not torch.allclose(call(), expected, *{tolerance}))

threads = [threading.Thread(target=run) for _ in range(2)]
for thread in threads:
    thread.start()
while any(thread.is_alive() for thread in threads):
    for name in native.OPS.isa_names():
        native.OPS.use_isa(name)
print(len(wrong), sum(wrong))
""".replace("{tolerance}", str(TOLERANCE[torch.float32]))
    assert fresh.python(script) == "60 0\n"


def test_errors_name_the_argument():
    x, h0, c0, *weights = (t.detach() for t in problem(Shape(3, 2, 4, 5, 1)))
    ops = native.OPS

    def call(x=x, h0=h0, c0=c0, weights=weights, dropout=0.0, seed=None, fuse="steps"):
        return ops.lstm(x, h0, c0, weights, dropout, seed, fuse, False)

    for message, change in {
        r"x: got shape \[3, 2\]; expected \[T, B, I\]": {"x": x[..., 0]},
        r"x: got no time steps": {"x": x[:0]},
        r"c0: got shape \[1, 2, 4\]; expected \[1, 2, 5\]": {"c0": c0[..., 1:]},
        r"weights\[0\]: got shape \[20, 4\]; expected \[20, 3\]": {"x": x[..., 1:]},
        r"weights\[1\]: got dtype Double; expected Float": {
            "weights": [weights[0], weights[1].double(), *weights[2:]]
        },
        r"weights: got 1 tensors": {"weights": weights[:1]},
        r"dropout: got 2": {"dropout": 2.0},
        r"seed: got None": {"dropout": 0.5},
        r"fuse: got 'all'; expected 'steps' or 'layers'": {"fuse": "all"},
    }.items():
        with pytest.raises(ValueError, match=message):
            call(**change)


def test_unknown_instruction_set_is_a_reason():
    script = "from fused_lstm import available_engines; print(available_engines('cpu')['native'])"
    said = fresh.python(script, FUSED_LSTM_ISA="mmx")
    assert "FUSED_LSTM_ISA: got 'mmx'; expected one of" in said
