"""linear_cross_entropy against F.cross_entropy(F.linear(...)), in C++ and in chunks of torch."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as F

from fused_lstm import native
from fused_lstm.training import cross_entropy
from fused_lstm.training.cross_entropy import linear_cross_entropy
from loss_cases import losses_and_gradients, problem, stock
from tolerance import assert_close, error_norm

CPU = torch.device("cpu")
WHY_NOT = native.missing(CPU)


def _isa_names(dtype=None):
    return native.OPS.isa_names(dtype) if WHY_NOT is None else []


def _take(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(cross_entropy, "can_run", lambda engine, device: False)
        monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", 50_000)
        yield "torch"
    else:
        native.OPS.use_isa(request.param)
        yield request.param
        native.OPS.use_isa("")


# The C++ engine on each instruction set with kernels of its own for float32, or at all, and
# torch's operators.
path = pytest.fixture(_take, params=[*_isa_names(torch.float32), "torch"], name="path")
every_path = pytest.fixture(_take, params=[*_isa_names(), "torch"], name="every_path")


def compare(inputs, target, **options):
    found = losses_and_gradients(linear_cross_entropy, inputs, target, **options)
    expected = losses_and_gradients(stock, inputs, target, **options)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(found[name], value, name)


REDUCTIONS = "mean", "sum", "none"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("N", "H", "V", "bias"),
    [(1, 1, 1, True), (3, 5, 7, False), (35, 17, 101, True), (64, 1700, 130, True)],
)
def test_agrees_with_torch(path, N, H, V, bias, dtype):
    inputs, target = problem(N, H, V, bias, dtype)
    some_ignored = target.clone()
    some_ignored[:: max(2, N // 3)] = -100
    for reduction in REDUCTIONS:
        compare(inputs, target, reduction=reduction)
        if (some_ignored != -100).any():
            compare(inputs, some_ignored, reduction=reduction)


def test_several_chunks(path, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", 16 << 20)  # as the C++ engine has it
    inputs, target = problem(450, 9, 20000)  # 36 MB of logits in float32
    compare(inputs, target)


def test_no_grad_and_frozen_inputs(path):
    (hidden, weight, bias), target = problem(20, 8, 50)
    with torch.no_grad():
        found = linear_cross_entropy(hidden, weight, target, linear_bias=bias)
    assert not found.requires_grad
    assert_close(found, stock(hidden, weight, target, linear_bias=bias), "loss")
    frozen = linear_cross_entropy(hidden, weight.detach(), target, linear_bias=bias.detach())
    expected = torch.autograd.grad(stock(hidden, weight, target, linear_bias=bias), hidden)[0]
    assert_close(torch.autograd.grad(frozen, hidden)[0], expected, "dhidden")


OPTIONS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1},
    "all-smooth": {"label_smoothing": 1.0},
    "weighted": {"weight": torch.linspace(0, 2, 13)},
    "weighted-smoothed": {"weight": torch.linspace(0, 2, 13), "label_smoothing": 0.3},
    "ignored": {"ignore_index": 3},
    "all-options": {
        "weight": torch.linspace(2, 1, 13),
        "label_smoothing": 0.2,
        "ignore_index": 0,
    },
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_on_a_batch_of_sequences(path, options):
    inputs, target = problem(35, 6, 13)
    hidden, *rest = inputs
    inputs, target = [hidden.detach().reshape(5, 7, 6).requires_grad_(), *rest], target.view(5, 7)
    target[1, :3] = options.get("ignore_index", 3)
    for reduction in REDUCTIONS:
        compare(inputs, target, reduction=reduction, **options)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("options", [{}, OPTIONS["weighted-smoothed"]], ids=["plain", "weighted"])
def test_targets_of_probabilities(options, reduction):
    inputs, _ = problem(12, 6, 13)
    hidden, *rest = inputs
    inputs = [hidden.detach().reshape(4, 3, 6).requires_grad_(), *rest]
    compare(inputs, torch.randn(4, 3, 13).softmax(-1), reduction=reduction, **options)


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="torch 2.13 brought it")
def test_arguments_are_those_of_torch():
    theirs, ours = (
        inspect.signature(function).parameters
        for function in (F.linear_cross_entropy, linear_cross_entropy)
    )
    assert [*ours, "options"] == list(theirs)
    for name, parameter in ours.items():
        assert parameter.kind == theirs[name].kind
        assert parameter.default == theirs[name].default
    (hidden, weight, bias), target = problem(5, 3, 7)
    options = {"linear_bias": bias, "weight": torch.rand(7), "label_smoothing": 0.1}
    for x, t in ((hidden, target), (hidden[0], target[0])):  # [N, H] and [H]
        for reduction in ("mean", "none"):
            found = linear_cross_entropy(x, weight, t, reduction=reduction, **options)
            expected = F.linear_cross_entropy(x, weight, t, reduction=reduction, **options)
            assert found.shape == expected.shape
            assert_close(found, expected, "loss")


EMPTY = {"no-rows": (0, 3, 5), "no-inputs": (4, 0, 5), "neither": (0, 0, 5)}


@pytest.mark.parametrize("smoothing", [0.0, 0.1], ids=["plain", "smoothed"])
@pytest.mark.parametrize(("N", "H", "V"), EMPTY.values(), ids=EMPTY)
def test_no_rows_or_no_inputs_give_what_torch_gives(path, N, H, V, smoothing):
    inputs = [torch.randn(size, requires_grad=True) for size in ((N, H), (V, H), (V,))]
    target = torch.randint(V, (N,))
    for reduction in REDUCTIONS:
        options = {"reduction": reduction, "label_smoothing": smoothing}
        found = losses_and_gradients(linear_cross_entropy, inputs, target, **options)
        expected = losses_and_gradients(stock, inputs, target, **options)
        for name, value in expected.items():  # NaN, where there is nothing to take the mean of
            torch.testing.assert_close(found[name], value, equal_nan=True, msg=name)


@pytest.mark.parametrize("smoothing", [0.0, 0.1], ids=["plain", "smoothed"])
def test_all_ignored(path, smoothing):
    inputs, target = problem(4, 3, 5)
    target.fill_(-100)
    for reduction in REDUCTIONS:
        options = {"reduction": reduction, "label_smoothing": smoothing}
        found = losses_and_gradients(linear_cross_entropy, inputs, target, **options)
        loss = found.pop("loss")
        assert loss.isnan() if reduction == "mean" else not loss.any()
        for name, value in found.items():
            assert not value.any(), name


AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.mark.parametrize("options", [{}, OPTIONS["weighted-smoothed"]], ids=["plain", "weighted"])
@pytest.mark.parametrize("dtype", AUTOCAST.values(), ids=AUTOCAST)
def test_autocast(every_path, dtype, options):
    """Both round the inputs to `dtype`; gradients come in the parameters' float32."""
    inputs, target = problem(30, 16, 13)
    with torch.autocast("cpu", dtype):
        found = losses_and_gradients(linear_cross_entropy, inputs, target, **options)
        expected = losses_and_gradients(stock, inputs, target, **options)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype == torch.float32
        assert_close(found[name], value, name, dtype)


@pytest.mark.parametrize(
    ("dtype", "scale", "most"),
    [
        # Gradients of a mean are too small for float16 until GradScaler's factor is applied.
        pytest.param(torch.float16, 2.0**16, 2, id="float16-scaled"),
        pytest.param(torch.bfloat16, 1.0, 1, id="bfloat16"),
    ],
)
def test_as_exact_as_torch_under_autocast(every_path, dtype, scale, most):
    """The error of each gradient is at most `most` times that of PyTorch's own."""
    (hidden, weight, bias), target = problem(300, 32, 3000)
    inputs = [hidden, (weight * 0.1).detach().requires_grad_(), bias]
    rounded = [t.detach().to(dtype).double().requires_grad_() for t in inputs]

    def gradients(function, inputs):
        loss = function(*inputs[:2], target, linear_bias=inputs[2])
        return torch.autograd.grad(loss * scale, inputs)

    exact = gradients(stock, rounded)
    with torch.autocast("cpu", dtype):
        ours, theirs = gradients(linear_cross_entropy, inputs), gradients(stock, inputs)
    for name, e, a, b in zip(("dhidden", "dweight", "dbias"), exact, ours, theirs, strict=True):
        error, allowed = ((x.double() - e).abs().sum() for x in (a, b))
        assert error <= most * allowed, f"{name}: {error} where PyTorch has {allowed}"


def test_weights_gradients_are_not_rounded_under_autocast(every_path):
    """The products' factors are: what they make is the float32 parameters' own."""
    inputs, target = problem(30, 16, 13)
    with torch.autocast("cpu", torch.bfloat16):
        found = losses_and_gradients(linear_cross_entropy, inputs, target)
    for name in ("dweight", "dbias"):
        assert not torch.equal(found[name], found[name].bfloat16().float()), name


def test_no_graph_break(path, whole):
    """Under torch.compile the whole of it is one graph, for each of two batches."""
    if path not in (*_isa_names(torch.float32)[:1], "torch") and not whole:
        pytest.skip("the graph is the best instruction set's: --slow")
    torch.compiler.reset()
    compiled = torch.compile(linear_cross_entropy, fullgraph=True, backend="aot_eager")
    for rows in (6, 9):
        inputs, target = problem(rows, 5, 13)
        for options in ({}, OPTIONS["weighted-smoothed"], {"reduction": "none"}):
            found = losses_and_gradients(compiled, inputs, target, **options)
            expected = losses_and_gradients(linear_cross_entropy, inputs, target, **options)
            for name, value in expected.items():
                assert_close(found[name], value, name)


@pytest.mark.skipif(WHY_NOT is not None, reason=f"native: {WHY_NOT}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("row_grad", [None, torch.rand(4)], ids=["losses", "gradients"])
def test_the_operator_on_transposed_inputs(row_grad, dtype):
    inputs = torch.randn(5, 4).t(), torch.randn(5, 7).t(), torch.rand(7)
    torch.library.opcheck(
        native.OPS.linear_cross_entropy.default,
        (*(t.to(dtype) for t in inputs), torch.randint(7, (4,)), row_grad, -100),
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"),
    )


def test_large_logits_do_not_overflow(path):
    (hidden, weight, bias), target = problem(30, 8, 40)
    inputs = [(hidden * 1e3).detach().requires_grad_(), weight, bias]
    compare(inputs, target, reduction="sum")


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradcheck(path, reduction):
    inputs, target = problem(5, 3, 7, dtype=torch.float64)
    target[1] = -100

    def run(*inputs):
        hidden, weight, bias = inputs
        return linear_cross_entropy(
            hidden, weight, target, linear_bias=bias, reduction=reduction, label_smoothing=0.1
        )

    assert torch.autograd.gradcheck(run, inputs)


def test_half_precision(every_path):
    inputs, target = problem(20, 16, 50)
    half = [t.detach().to(torch.bfloat16).requires_grad_() for t in inputs]
    hidden, weight, bias = half
    expected = stock(hidden.float(), weight.float(), target, linear_bias=bias.float())
    found = linear_cross_entropy(hidden, weight, target, linear_bias=bias)
    assert found.dtype == torch.float32
    assert error_norm(found, expected) <= torch.finfo(torch.bfloat16).eps
    theirs = torch.autograd.grad(expected, half)
    for name, a, b in zip("hwb", torch.autograd.grad(found, half), theirs, strict=True):
        assert_close(a, b, f"d{name}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_two_runs_give_the_same_bits(every_path, dtype):
    inputs, target = problem(100, 20, 300)
    hidden, weight, bias = inputs = [t.detach().to(dtype).requires_grad_() for t in inputs]
    runs = []
    for _ in range(2):
        loss = linear_cross_entropy(hidden, weight, target, linear_bias=bias, label_smoothing=0.1)
        runs.append([loss, *torch.autograd.grad(loss, inputs)])
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)


def test_errors_name_the_argument():
    (x, w, b), t = problem(4, 3, 5)
    for message, arguments, options in [
        (r"reduction: got 'avg'; expected one of", (x, w, t), {"reduction": "avg"}),
        (r"label_smoothing: got 1.5; expected in", (x, w, t), {"label_smoothing": 1.5}),
        (r"input: got shape \[\] and torch.float32; expected", (x[0, 0], w, t), {}),
        (r"input: got shape \[4, 3\] and torch.int64; expected", (x.long(), w, t), {}),
        (r"linear_weight: got shape \[5, 2\]; expected \[5, 3\]", (x, w[:, 1:], t), {}),
        (r"linear_weight: got shape \[0, 3\]; expected \[V, H\]", (x, w[:0], t), {}),
        (r"linear_weight: got dtype torch.float64", (x, w.double(), t), {}),
        (r"linear_bias: got shape \[4\]; expected \[5\]", (x, w, t), {"linear_bias": b[1:]}),
        (r"weight: got shape \[4\]; expected \[5\]", (x, w, t), {"weight": torch.ones(4)}),
        (r"weight: got a tensor that requires a gradient", (x, w, t), {"weight": b}),
        (r"target: got shape \[3\]; expected \[4\]", (x, w, t[1:]), {}),
        (r"target: got shape \[4\]; expected \[4, 5\]", (x, w, t.float()), {}),
        (r"target: got dtype torch.int32", (x, w, t.int()), {}),
        (r"ignore_index: got 1; expected None", (x, w, torch.rand(4, 5)), {"ignore_index": 1}),
    ]:
        with pytest.raises(ValueError, match=message):
            linear_cross_entropy(*arguments, **options)


def test_a_target_that_is_no_class(path):
    (hidden, weight, bias), target = problem(4, 3, 5)
    target[2] = 5
    with pytest.raises((IndexError, RuntimeError), match=r"target: got 5|out of bounds"):
        linear_cross_entropy(hidden, weight, target, linear_bias=bias)
