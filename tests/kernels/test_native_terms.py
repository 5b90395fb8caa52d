"""float32 in the native engine as sums of bfloat16, where PyTorch's switches ask for it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fused_lstm
from bench.topics.products import products_of
from cases import Shape
from fused_lstm import native, ops
from lm.machine import PRECISIONS, set_precision
from lm_cases import train
from test_cross_entropy import losses_and_gradients, problem, stock
from test_native import SHAPES, assert_threads_agree, engine, expected_results, results
from test_native_bf16 import (
    MORE_SHAPES,
    assert_nan_goes_through_its_own_row,
    by_the_manual,
    error,
    hard_factors,
)
from test_native_lanes import CASES, both, forward, solved
from test_native_tiles import SHAPES as PRODUCTS
from test_native_tiles import SIZES

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"
)

ISAS = native.OPS.isa_names() if native.missing(CPU) is None else []
UNITS = [isa for isa in ISAS if isa in ("amx", "emulated")]
TERMS = {"tf32": 2, "bf16": 1}  # what a switch reads -> bfloat16 terms of a factor
# Of a product, and of an LSTM's results, by the root of the mean square: 2^-16 and 2^-8, with room
# for what a recurrence makes of them.
PRODUCT_ERROR = {2: 2e-5, 1: 4e-3}
ERROR = {2: 1e-4, 1: 2e-2}
RNN, MATMUL = torch.backends.mkldnn.rnn, torch.backends.mkldnn.matmul


@pytest.fixture(autouse=True)
def _restore():
    before = RNN.fp32_precision, MATMUL.fp32_precision
    word = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(word)
    RNN.fp32_precision, MATMUL.fp32_precision = before
    native.OPS.use_isa("")


def set_switches(switch: str) -> None:
    RNN.fp32_precision = MATMUL.fp32_precision = switch


@pytest.fixture(params=UNITS)
def unit(request) -> str:
    native.OPS.use_isa(request.param)
    return request.param


@pytest.fixture(params=TERMS)
def terms(request, unit) -> int:
    """How many; both switches ask for them."""
    set_switches(request.param)
    return TERMS[request.param]


def by_fma(function: Callable):
    """What it gives with both switches at "ieee"; they stay as they are."""
    before = RNN.fp32_precision
    set_switches("ieee")
    found = function()
    set_switches(before)
    return found


def check(found: dict[str, Tensor], exact: dict[str, Tensor], most: float) -> None:
    """Each result within `most`, of 1 where the right values are smaller."""
    assert found.keys() == exact.keys()
    for name, value in exact.items():
        assert found[name].shape == value.shape
        size = max(value.double().norm().item(), value.numel() ** 0.5)
        wrong = (found[name].double() - value).norm().item()
        assert wrong <= most * size, f"{name}: {wrong / size:.1e}"


# --- products ---


@pytest.mark.parametrize(("shape", "classes"), SIZES)
def test_each_product_has_so_many_bits(terms, shape, classes):
    torch.set_num_threads(3)  # of one: test_threads_and_runs_agree_bit_by_bit
    for product in products_of(shape, classes):
        found, _ = product.run(rounds=2)
        exact = product._replace(left=product.left.double(), right=product.right.double())
        scale = product.left.shape[0 if product.form == "tn" else 1] ** 0.5
        check({product.name: found / scale}, {product.name: exact.expected() / scale},
              PRODUCT_ERROR[terms])  # fmt: skip


def test_a_product_is_not_the_fmas(terms):
    for product in products_of(*PRODUCTS[2]):
        found, plain = product.run()[0], by_fma(lambda p=product: p.run()[0])
        wrong = ((found - plain).norm() / plain.norm()).item()
        assert PRODUCT_ERROR[terms] / 20 < wrong < PRODUCT_ERROR[terms], product.name


def split(values: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second term."""
    first = values.bfloat16()
    return first, (values - first.float()).bfloat16()


@pytest.mark.parametrize("scale", [1.0, 1e15, 1e-14], ids=str)
@pytest.mark.parametrize("columns", [1, 32, 77])
def test_the_emulation_is_the_manuals(columns, scale):
    native.OPS.use_isa("emulated")
    left, right = (t.float() for t in hard_factors(columns, scale))
    left, right = left * (1 + torch.rand_like(left)), right * (1 + torch.rand_like(right))
    a, b = split(left), split(right)
    sums = {1: [(a[0], b[0])], 2: [(a[0], b[0]), (a[1], b[0]), (a[0], b[1])]}
    for switch, count in TERMS.items():
        set_switches(switch)
        found = product_of(left, right)[0]
        assert torch.equal(found, by_the_manual(*sums[count]))


@pytest.mark.parametrize("switch", TERMS)
@pytest.mark.parametrize(("shape", "classes"), SIZES)
def test_the_emulation_is_the_unit_bit_by_bit(shape, classes, switch):
    if "amx" not in native.OPS.isa_names():
        pytest.skip("this CPU has no AMX")
    set_switches(switch)
    for product in products_of(shape, classes):
        found = {}
        for isa in ("amx", "emulated"):
            native.OPS.use_isa(isa)
            found[isa] = product.run()[0]
        assert torch.equal(found["amx"], found["emulated"]), product.name


def product_of(left: Tensor, right: Tensor) -> tuple[Tensor, list[float]]:
    return native.OPS.product("input", left, right, 1, 1, RNN.fp32_precision)


def one_sum(a: list[float], b: list[float]) -> float:
    left, right = torch.tensor([a]), torch.tensor(b).repeat(4 * len(b), 1)
    return product_of(left, right)[0][0, 0].item()


MOST, LARGEST = 3.4028235e38, 255 * 2.0**120  # of float32, and of bfloat16


@pytest.mark.parametrize(
    ("a", "b", "two", "one"),
    [
        ([1 + 2.0**-12], [1.0], 1 + 2.0**-12, 1.0),
        ([1 + 2.0**-10 + 2.0**-19], [1.0], 1 + 2.0**-10, 1.0),
        ([LARGEST], [1.0], LARGEST, LARGEST),
        ([3.4e38], [0.5], 1.7e38, LARGEST / 2),
        ([MOST], [1.0], math.inf, LARGEST),  # the second term is rounded up
        ([3.4e38, 3.4e38], [1.0, 1.0], math.inf, math.inf),
        ([math.inf, 1.0], [0.3, 1.0], math.inf, math.inf),
        ([-math.inf, 1.0], [0.3, 1.0], -math.inf, -math.inf),
        ([math.inf, 1.0], [0.0, 1.0], math.nan, math.nan),
        ([math.inf, -math.inf], [1.0, 1.0], math.nan, math.nan),
        ([math.inf], [math.inf], math.nan, math.inf),
        ([math.nan, 1.0], [1.0, 1.0], math.nan, math.nan),
        ([2.0**-126], [1.0], 2.0**-126, 2.0**-126),
        ([2.0**-127], [2.0], 0.0, 0.0),  # a denormal term is 0
        ([2.0**-120 * (1 + 2.0**-9)], [1.0], 2.0**-120, 2.0**-120),  # and so is a second one
        ([2.0**-80], [2.0**-80], 0.0, 0.0),
    ],
)
def test_what_is_not_a_usual_number(terms, a, b, two, one):
    found, expected = one_sum(a, b), two if terms == 2 else one
    if expected == 1.7e38:
        assert found == pytest.approx(expected, rel=2.0**-16)
        return
    assert found == expected or (math.isnan(found) and math.isnan(expected))


def test_what_is_behind_a_row_is_not_read(terms):
    for depth in (1, 3, 31, 33):
        left, right = torch.ones(5, depth), torch.ones(8, depth)
        left[1::2] = torch.nan
        out = product_of(left, right)[0]
        assert (out[::2] == depth).all()
        assert out[1::2].isnan().all()


# --- the whole LSTM ---


@pytest.mark.parametrize("fuse", ["steps", "layers"])
@pytest.mark.parametrize("shape", SHAPES + MORE_SHAPES, ids=str)
def test_agrees_with_the_reference(terms, shape, fuse):
    inputs, exact, plain = expected_results(shape, torch.float64, True)
    inputs = [t.detach().float().requires_grad_() for t in inputs]
    check(results(inputs, engine(fuse)), exact, ERROR[terms])
    with torch.no_grad():
        found = engine(fuse)(*inputs[:3], inputs[3:])
    check(dict(enumerate(found)), dict(enumerate(plain)), ERROR[terms])


@pytest.mark.parametrize(("fuse", "threads"), [("steps", 1), ("layers", 2)])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_lanes_agree_with_the_reference(terms, case, fuse, threads):
    torch.set_num_threads(threads)
    given, exact = solved(case, torch.float32)
    check(both(case, given, fuse), exact, ERROR[terms])
    inference = forward(case, given, fuse, False)[:3]
    check(dict(enumerate(inference)), dict(enumerate(list(exact.values())[:3])), ERROR[terms])


@pytest.mark.parametrize("hidden", [110, 211], ids=["wavefront", "in-turns"])
def test_threads_and_runs_agree_bit_by_bit(terms, hidden):
    shape = Shape(4, 19, 51, hidden, 2)
    inputs = [t.detach().requires_grad_() for t in expected_results(shape, torch.float32, True)[0]]
    assert_threads_agree(inputs)


def test_two_terms_are_nearer_than_one(unit):
    inputs, exact, _ = expected_results(Shape(20, 20, 64, 64, 2), torch.float64, True)
    inputs = [t.detach().float().requires_grad_() for t in inputs]
    errors = []
    for switch in ("bf16", "tf32", "ieee"):
        set_switches(switch)
        errors.append(error(results(inputs, engine()), exact))
    for name, (one, two, fma) in {n: [e[n] for e in errors] for n in errors[0]}.items():
        assert one > 50 * two > 50 * fma, name


def test_nan_goes_through_its_own_row(terms):
    assert_nan_goes_through_its_own_row(expected_results(SHAPES[2], torch.float32, True)[0])


def test_a_short_call_is_float32s(terms):
    lstm, x = fused_lstm.LSTM(20, 30, 2, engine="native"), torch.randn(1, 1, 20)
    assert torch.equal(lstm(x)[0], by_fma(lambda: lstm(x)[0]))


# --- the softmax layer ---


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize(
    ("N", "H", "V"),
    [(1, 1, 1), (3, 5, 7), (35, 17, 101), (33, 3200, 31), (40, 6, 3333), (450, 9, 5003)],
)
def test_the_softmax_layer_has_so_many_bits(terms, N, H, V, bias):
    inputs, target = problem(N, H, V, bias)
    target[1 : N // 2 : 3] = -100
    found = losses_and_gradients(fused_lstm.linear_cross_entropy, inputs, target, reduction="none")
    wide = [t.detach().double().requires_grad_() for t in inputs]
    exact = losses_and_gradients(stock, wide, target, reduction="none")
    check(found, exact, ERROR[terms])


# --- the switches ---


def answers(x: Tensor, target: Tensor, lstm, decoder) -> list[Tensor]:
    y, state = lstm(x)
    loss = fused_lstm.linear_cross_entropy(y, decoder.weight, target, linear_bias=decoder.bias)
    grads = torch.autograd.grad(loss, [*lstm.parameters(), *decoder.parameters()])
    return [y, *state, loss, *grads]


def a_model():
    x, target = torch.randn(7, 3, 20), torch.randint(50, (7, 3))
    return x, target, fused_lstm.LSTM(20, 20, 2, engine="native"), torch.nn.Linear(20, 50)


@pytest.mark.parametrize("isa", [isa for isa in ISAS if isa not in UNITS])
def test_without_amx_no_switch_moves_a_bit(isa):
    native.OPS.use_isa(isa)
    model = a_model()
    expected = answers(*model)
    for word in PRECISIONS:
        set_precision(word)
        for found, value in zip(answers(*model), expected, strict=True):
            assert torch.equal(found, value), word


def test_each_switch_moves_its_own(unit):
    model = a_model()
    y, *_, expected = by_fma(lambda: answers(*model)[:4])
    MATMUL.fp32_precision = "bf16"
    found = answers(*model)
    assert torch.equal(found[0], y)
    assert not torch.equal(found[3], expected)
    MATMUL.fp32_precision, RNN.fp32_precision = "ieee", "bf16"
    assert not torch.equal(answers(*model)[0], y)


@pytest.mark.parametrize("half", [torch.float16, torch.float64], ids=str)
def test_other_dtypes_ask_no_switch(unit, half):
    x, _, lstm, _ = a_model()
    x, lstm = x.to(half), lstm.to(half)
    y = by_fma(lambda: lstm(x)[0])
    set_switches("bf16")
    assert torch.equal(lstm(x)[0], y)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_backward_is_as_exact_as_its_forward(terms, reduction):
    """Whatever the switches say by then."""
    x, target, lstm, decoder = a_model()
    parameters = [*lstm.parameters(), *decoder.parameters()]

    def gradients(between: Callable = lambda: None) -> list[Tensor]:
        loss = fused_lstm.linear_cross_entropy(
            lstm(x)[0], decoder.weight, target, linear_bias=decoder.bias, reduction=reduction
        )
        between()
        return torch.autograd.grad(loss.sum(), parameters)

    expected, plain = gradients(), by_fma(gradients)
    found = gradients(lambda: set_switches("ieee"))
    later = by_fma(lambda: gradients(lambda: set_switches("bf16")))
    for a, b, c, d in zip(found, expected, later, plain, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(c, d)
        assert not torch.equal(a, c)


def test_a_graph_is_as_exact_as_the_switch_when_it_was_made(terms):
    x, _, lstm, _ = a_model()
    x.requires_grad_()

    def both_ways() -> tuple[Tensor, Tensor]:
        torch._dynamo.reset()
        y = torch.compile(lambda x: lstm(x)[0], backend="aot_eager", fullgraph=True)(x)
        return y.detach(), torch.autograd.grad(y.sum(), x)[0]

    expected = lstm(x)[0]
    expected = expected.detach(), torch.autograd.grad(expected.sum(), x)[0]
    plain = by_fma(both_ways)
    for found, value, other in zip(both_ways(), expected, plain, strict=True):
        assert torch.equal(found, value)
        assert not torch.equal(found, other)


def test_an_operator_can_be_told(unit):
    x, h0, c0, *weights = (t.detach() for t in expected_results(SHAPES[2], torch.float32, True)[0])
    given = x, h0, c0, weights, 0.0, None, "layers", False
    set_switches("ieee")
    told = native.OPS.lstm(*given, precision="tf32")[0]
    plain = native.OPS.lstm(*given)[0]
    set_switches("tf32")
    assert torch.equal(ops.run(native.OPS, *given[:5], "layers")[0], told)
    assert torch.equal(native.OPS.lstm(*given, precision="none")[0], plain)
    assert not torch.equal(told, plain)
    message = "precision: got 'fp8', should be 'ieee', 'tf32', 'bf16' or 'none'"
    with pytest.raises((RuntimeError, ValueError), match=message):
        native.OPS.lstm(*given, precision="fp8")


def test_the_plan_says_who_multiplies(terms):
    precision = RNN.fp32_precision
    plan = native.OPS.plan(20, 20, 200, 200, 2, "layers", True, threads=2, precision=precision)
    assert plan.splitlines()[0].startswith("emulated, " if "emulated" in plan else "amx, ")
    assert f", {terms} term" in plan.splitlines()[0]
    assert (
        "term"
        not in native.OPS.plan(1, 1, 20, 20, 2, "layers", False, precision=precision).splitlines()[
            0
        ]
    )


@pytest.mark.parametrize("word", ["high", "medium"])
def test_training_without_amx_is_float32_at_any_precision(corpus_dir, tmp_path, word):
    """To the last bit: only AMX is faster for being less exact."""
    native.OPS.use_isa(next(isa for isa in ISAS if isa not in UNITS))
    options = "--lstm=native", "--max-steps=9", "--no-eval"
    curves = [
        train(tmp_path, corpus_dir, *options, f"--precision={precision}")["train_perplexity"]
        for precision in ("highest", word)
    ]
    assert curves[0] == curves[1]
