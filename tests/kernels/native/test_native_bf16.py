"""bfloat16 tensors in the native engine, where the CPU multiplies pairs of them: float32 sums."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fused_lstm
from bench import kernels
from bench.cases import Case
from bench.cases import Shape as Sizes
from bench.contenders import Contender
from bench.core import relative_error
from bench.layers import local, make_problem
from cases import Shape, native_lstm
from fused_lstm import native, reference
from products import products_of
from terms import UNITS
from test_native import assert_threads_agree, engine, results
from test_native_tiles import SIZES, skip_what_takes_seconds
from tolerance import assert_close

CPU, BF16 = torch.device("cpu"), torch.bfloat16
pytestmark = pytest.mark.skipif(
    native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"
)


def rounded(tensors: list[Tensor]) -> list[Tensor]:
    return [t.detach().to(BF16).requires_grad_() for t in tensors]


def problem(shape: Shape, scale: float = 1.0) -> list[Tensor]:
    T, B, I, H, L = shape
    h0, c0 = torch.randn(2, L, B, H)
    return rounded([torch.randn(T, B, I) * scale, h0, c0, *nn.LSTM(I, H, L).parameters()])


def compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """By the table of a value of order 1: a weight's gradient is a sum of many terms."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(value.float().square().mean().sqrt().item(), 1.0) if value.numel() else 1.0
        assert found[name].dtype == BF16, name
        assert_close(found[name] / scale, value.to(BF16) / scale, name)


def test_gradients_at_1024_units_are_float64s():
    """nn.LSTM's own are wrong there, where oneDNN has AMX."""
    problem = make_problem(Case("", Sizes(4, 8, 32, 1024, 1)), dtype=BF16)
    right = problem.in_dtype(torch.float64).expected()
    answer = local(Contender("native", "native", "layers"), problem).answer()
    grads = [name for name in right if name.endswith(".grad")]
    assert max(relative_error(answer[name], right[name]) for name in grads) < 0.01


# --- products ---


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("shape", "classes"), SIZES)
def test_each_product_is_float64s(bf16_isa, shape, classes, threads, whole):
    """Factors are exact and sums float32, so the tolerance is float32's."""
    skip_what_takes_seconds(bf16_isa, shape, whole)
    torch.set_num_threads(threads)
    for product in products_of(shape, classes):
        product = product._replace(left=product.left.to(BF16), right=product.right.to(BF16))
        found, _ = product.run(rounds=2)
        wide = product._replace(left=product.left.double(), right=product.right.double())
        scale = product.left.shape[0 if product.form == "tn" else 1] ** 0.5
        assert_close(found / scale, (wide.expected() / scale).float(), product.name)


def one_sum(a: list[float], b: list[float]) -> float:
    """Of products, in one step of one row."""
    left, right = torch.tensor([a], dtype=BF16), torch.tensor(b, dtype=BF16).repeat(4 * len(b), 1)
    return kernels.ops().product("input", left, right, 1, 1)[0][0, 0].item()


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([2.0**-126], [1.0], 2.0**-126),
        ([2.0**-127], [1.0], 0.0),  # a denormal factor is 0
        ([2.0**-80], [2.0**-80], 0.0),  # and so is a denormal product,
        ([2.0**-126, -(2.0**-133)], [1.0, 1.0], 2.0**-126),  # whatever it is added to
        ([3.38e38], [1.0], float(torch.tensor(3.38e38, dtype=BF16))),
        ([3.38e38, 3.38e38], [1.0, 1.0], math.inf),
        ([3.38e38, 3.38e38, 3.38e38], [2.0, 0.0, 0.0], math.inf),
        ([math.inf, 1.0], [1.0, 1.0], math.inf),
        ([-math.inf, 1.0], [1.0, 1.0], -math.inf),
        ([math.inf, 1.0], [0.0, 1.0], math.nan),
        ([math.inf, 0.0, -math.inf], [1.0, 0.0, 1.0], math.nan),
        ([math.nan, 1.0], [1.0, 1.0], math.nan),
        ([1.0, 2.0**-24], [1.0, 1.0], 1.0),  # a tie, to even
        ([1.0, 2.0**-24], [1.0, 1.0 + 2.0**-7], 1.0 + 2.0**-23),  # more than a tie
    ],
)
def test_what_is_not_a_normal_number(bf16_isa, a, b, expected):
    found = one_sum(a, b)
    assert found == expected or (math.isnan(found) and math.isnan(expected))


def test_what_is_behind_a_row_is_not_read(bf16_isa):
    """An odd depth ends in half a pair: its other half is the next row's, or nobody's."""
    for depth in (1, 3, 31, 33):
        left, right = torch.ones(5, depth, dtype=BF16), torch.ones(8, depth, dtype=BF16)
        left[1::2] = torch.nan
        out = kernels.ops().product("input", left, right, 1, 1)[0]
        assert (out[::2] == depth).all()
        assert out[1::2].isnan().all()


# --- a matrix unit, and its emulation ---


def flushed(t: Tensor) -> Tensor:
    return torch.where(t.abs() < 2.0**-126, t * 0, t)


def by_the_manual(*products: tuple[Tensor, Tensor]) -> Tensor:
    """The sum of left right' for each pair, in steps of TDPBF16PS that pairs take in turn: see
    kernels/fused_lstm/native/product/unit.h."""

    def wide(t: Tensor) -> Tensor:
        return flushed(F.pad(t.float(), (0, -t.shape[1] % 32))).double()

    products = [(wide(left), wide(right)) for left, right in products]
    total = torch.zeros(len(products[0][0]), len(products[0][1]))
    for begin in range(0, products[0][0].shape[1], 32):
        for left, right in products:
            chains = [torch.zeros_like(total) for _ in range(2)]
            for k in range(begin, begin + 32):
                # Products are exact in float64, and sums near enough: see `fused` there.
                product = left[:, None, k] * right[None, :, k]
                chains[k % 2] = flushed((chains[k % 2].double() + product).float())
            total = flushed(total + flushed(chains[0] + chains[1]))
    return total


def hard_factors(columns: int, scale: float) -> tuple[Tensor, Tensor]:
    """[5, columns] and [4, columns] of sizes far apart."""
    spread = torch.randint(-12, 12, (9, columns)).float().exp2()
    both = (torch.randn(9, columns) * spread * scale).to(BF16)
    return both[:5], both[5:]


@pytest.mark.parametrize("scale", [1.0, 1e15, 1e-19], ids=str)
@pytest.mark.parametrize("columns", [1, 32, 77])
def test_the_unit_is_the_manuals(columns, scale):
    left, right = hard_factors(columns, scale)
    for isa in UNITS:
        native.OPS.use_isa(isa)
        try:
            found = kernels.ops().product("input", left, right, 1, 1)[0]
        finally:
            native.OPS.use_isa("")
        assert torch.equal(found, by_the_manual((left, right)))


@pytest.mark.parametrize("scale", [1.0, 1e15, 1e-19], ids=str)
@pytest.mark.parametrize(("shape", "classes"), SIZES)
def test_the_emulation_is_the_unit_bit_by_bit(shape, classes, scale):
    if UNITS != ["amx", "emulated"]:
        pytest.skip("needs AMX, and its emulation beside it: make emulator")
    for product in products_of(shape, classes, BF16):
        product = product._replace(left=product.left * scale)
        found = {}
        for isa in ("amx", "emulated"):
            native.OPS.use_isa(isa)
            found[isa] = product.run()[0]
        native.OPS.use_isa("")
        torch.testing.assert_close(found["amx"], found["emulated"], rtol=0, atol=0, equal_nan=True)


# --- the whole LSTM ---


MORE_SHAPES = [
    Shape(163, 19, 3, 9, 1),  # more rows than a part of a weight's gradient has
    Shape(2, 3, 3101, 5, 1),  # more inputs than a panel packs at once
]


@pytest.mark.parametrize(
    "hidden", [70, 150, 211], ids=["wavefront", "wavefront-in-parts", "in-turns"]
)
def test_threads_and_runs_agree_bit_by_bit(bf16_isa, hidden):
    inputs = problem(Shape(7, 19, 51, hidden, 2))
    assert_threads_agree(inputs)


def error(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """Of each result, by the root of the mean square."""
    return {
        name: ((found[name].double() - value).norm() / value.norm()).item()
        for name, value in exact.items()
    }


def torchs(inputs: list[Tensor], shape: Shape) -> dict[str, Tensor]:
    """nn.LSTM's results and gradients of the same inputs and weights."""
    lstm = nn.LSTM(*shape[2:], dtype=inputs[0].dtype)
    x, h0, c0, *weights = inputs
    for parameter, weight in zip(lstm.parameters(), weights, strict=True):
        parameter.data.copy_(weight)

    def run(x, h0, c0, _):
        y, (h_n, c_n) = lstm(x, (h0, c0))
        return y, h_n, c_n

    return results([x, h0, c0, *lstm.parameters()], run)


def test_errors_are_no_larger_than_pytorchs(bf16_isa):
    shape = Shape(20, 20, 200, 200, 2)
    inputs = problem(shape)
    exact = results([t.detach().double().requires_grad_() for t in inputs], reference.lstm)
    theirs = error(torchs(inputs, shape), exact)
    for name, value in error(results(inputs, engine()), exact).items():
        assert value < 1.2 * theirs[name], name


def test_autocast_is_bfloat16(bf16_isa):
    lstm = fused_lstm.LSTM(30, 41, 2, engine="native")
    x = torch.randn(6, 5, 30)
    with torch.autocast("cpu", BF16):
        y, (h_n, c_n) = lstm(x)
    states = torch.zeros(2, 2, 5, 41, dtype=BF16)
    weights = [p.to(BF16) for p in lstm.parameters()]
    expected = native.OPS.lstm(x.to(BF16), *states, weights, 0.0, None, "layers", False)
    for value, theirs in zip((y, h_n, c_n), expected, strict=False):
        assert value.dtype == BF16
        assert torch.equal(value, theirs)
    y.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in lstm.parameters())


def assert_nan_goes_through_its_own_row(inputs: list[Tensor]) -> None:
    x, h0, c0, *weights = (t.detach().clone() for t in inputs)
    x[1, 0, 4] = torch.nan
    y, *_ = native_lstm(x, h0, c0, weights, 0.0, "layers")
    assert y[0].isfinite().all()
    assert y[1:, 0].isnan().all()
    assert y[:, 1:].isfinite().all()


def test_nan_goes_through_its_own_row(bf16_isa):
    assert_nan_goes_through_its_own_row(problem(Shape(3, 4, 5, 21, 1)))


def test_large_inputs_give_finite_right_results(bf16_isa):
    inputs = problem(Shape(4, 3, 5, 33, 2), scale=1e4)
    wide = [t.detach().float().requires_grad_() for t in inputs]
    compare(results(inputs, engine()), results(wide, reference.lstm))
