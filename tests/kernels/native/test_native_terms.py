"""The native engine's products of float32 as sums of bfloat16: their bits, and unusual numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bench import kernels
from fused_lstm import native
from products import products_of
from terms import RNN, TERMS, UNITS, by_fma, check, of_terms, set_switches
from test_native_bf16 import by_the_manual, hard_factors
from test_native_tiles import SHAPES, SIZES, skip_what_takes_seconds

pytestmark = of_terms

# By the root of the mean square: 2^-16 and 2^-8.
PRODUCT_ERROR = {2: 2e-5, 1: 4e-3}


@pytest.mark.parametrize(("shape", "classes"), SIZES)
def test_each_product_has_so_many_bits(terms, unit, shape, classes, whole):
    skip_what_takes_seconds(unit, shape, whole)
    if unit == "emulated" and terms == 1 and shape.tokens * shape.H > 30_000 and not whole:
        pytest.skip("two terms are the same product three times: --slow")
    torch.set_num_threads(3)  # that one gives the same bits: test_native_terms_lstm.py
    for product in products_of(shape, classes):
        found, _ = product.run(rounds=2)
        exact = product._replace(left=product.left.double(), right=product.right.double())
        scale = product.left.shape[0 if product.form == "tn" else 1] ** 0.5
        check({product.name: found / scale}, {product.name: exact.expected() / scale},
              PRODUCT_ERROR[terms])  # fmt: skip


def test_a_product_is_not_the_fmas(terms):
    for product in products_of(*SHAPES[2]):
        found, plain = product.run()[0], by_fma(lambda p=product: p.run()[0])
        wrong = ((found - plain).norm() / plain.norm()).item()
        assert PRODUCT_ERROR[terms] / 20 < wrong < PRODUCT_ERROR[terms], product.name


def split(values: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second term."""
    first = values.bfloat16()
    return first, (values - first.float()).bfloat16()


@pytest.mark.parametrize("scale", [1.0, 1e15, 1e-14], ids=str)
@pytest.mark.parametrize("columns", [1, 32, 77])
def test_the_unit_is_the_manuals(columns, scale):
    left, right = (t.float() for t in hard_factors(columns, scale))
    left, right = left * (1 + torch.rand_like(left)), right * (1 + torch.rand_like(right))
    a, b = split(left), split(right)
    sums = {1: [(a[0], b[0])], 2: [(a[0], b[0]), (a[1], b[0]), (a[0], b[1])]}
    for isa in UNITS:
        native.OPS.use_isa(isa)
        for switch, count in TERMS.items():
            set_switches(switch)
            found = product_of(left, right)[0]
            assert torch.equal(found, by_the_manual(*sums[count])), isa


@pytest.mark.parametrize("switch", TERMS)
@pytest.mark.parametrize(("shape", "classes"), SIZES)
def test_the_emulation_is_the_unit_bit_by_bit(shape, classes, switch):
    if UNITS != ["amx", "emulated"]:
        pytest.skip("needs AMX, and its emulation beside it: make emulator")
    set_switches(switch)
    for product in products_of(shape, classes):
        found = {}
        for isa in ("amx", "emulated"):
            native.OPS.use_isa(isa)
            found[isa] = product.run()[0]
        assert torch.equal(found["amx"], found["emulated"]), product.name


def product_of(left: Tensor, right: Tensor) -> tuple[Tensor, list[float]]:
    return kernels.ops().product("input", left, right, 1, 1, RNN.fp32_precision)


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
