"""The PTX machine's floating point: arithmetic, comparisons, conversions, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptx import build
from ptx.by_hand import N, each, integers, signed, torch_of, words
from tolerance import APPROXIMATE, near

pytestmark = pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))

# --- floating point ---


def floats(seed: int = 0) -> np.ndarray:
    """Any bit patterns, and special values."""
    made = words(32, seed).view(np.float32).copy()
    made[::3] = np.random.default_rng(seed).standard_normal(len(made[::3]))
    made[:8] = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, 65504.0, 1e-40]
    return np.random.default_rng(seed).permutation(made)


def f32(code: str, *inputs: np.ndarray) -> np.ndarray:
    pairs = [("f32", torch.from_numpy(values)) for values in inputs]
    return each(code, ("f32", torch.float32), *pairs).numpy()


@np.errstate(all="ignore")
def test_arithmetic_rounds_to_nearest():
    a, b = floats(), floats(3)
    for name, wanted in {"add": a + b, "sub": a - b, "mul": a * b, "div.rn": a / b}.items():
        np.testing.assert_array_equal(f32(f"{name}.f32 {{0}}, {{1}}, {{2}}", a, b), wanted, name)
    np.testing.assert_array_equal(f32("min.f32 {0}, {1}, {2}", a, b), np.fmin(a, b))
    np.testing.assert_array_equal(f32("max.f32 {0}, {1}, {2}", a, b), np.fmax(a, b))
    np.testing.assert_array_equal(f32("min.NaN.f32 {0}, {1}, {2}", a, b), np.minimum(a, b))
    np.testing.assert_array_equal(f32("max.NaN.f32 {0}, {1}, {2}", a, b), np.maximum(a, b))
    wide = [torch.from_numpy(x.astype(np.float64)) for x in (a, b)]
    found = each("add.f64 {0}, {1}, {2}", ("f64", torch.float64), *(("f64", x) for x in wide))
    np.testing.assert_array_equal(found.numpy(), a.astype(np.float64) + b)


def test_fma_rounds_once():
    a, b = (np.random.default_rng(s).standard_normal(N).astype(np.float32) for s in (0, 1))
    c = -(a * b)  # what is left is the product's rounding
    exact = a.astype(np.float64) * b + c
    assert (exact != 0).any()
    np.testing.assert_array_equal(f32("fma.rn.f32 {0}, {1}, {2}, {3}", a, b, c), exact)


def test_approximate_functions_are_close():
    x = np.linspace(-20, 20, N, dtype=np.float32)
    y = np.abs(x) + 1e-3
    for name, of, wanted in (
        ("ex2.approx.ftz.f32", x, np.exp2(x)),
        ("lg2.approx.f32", y, np.log2(y)),
        ("rcp.approx.f32", y, 1 / y),
        ("sqrt.approx.f32", y, np.sqrt(y)),
        ("sqrt.approx.ftz.f32", y, np.sqrt(y)),
        ("rsqrt.approx.f32", y, 1 / np.sqrt(y)),
        ("tanh.approx.f32", x, np.tanh(x)),
    ):
        found = f32(f"{name} {{0}}, {{1}}", of)
        np.testing.assert_allclose(found, wanted, **near(APPROXIMATE), err_msg=name)


def test_a_doubles_reciprocal_is_its_upper_half():
    """A logarithm in float64 begins with it."""
    x = np.random.default_rng(0).uniform(0.5, 2, N)
    found = each(
        "rcp.approx.ftz.f64 {0}, {1}", ("f64", torch.float64), ("f64", torch.from_numpy(x))
    )
    np.testing.assert_allclose(found.numpy(), 1 / x, rtol=2.0**-19)
    assert (found.view(torch.int64) % 2**32 == 0).all()


COMPARISONS = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
               "gt": np.greater, "ge": np.greater_equal}  # fmt: skip


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons(name):
    a, b = floats(), floats(3)
    b[::5] = a[::5]
    nan, holds = np.isnan(a) | np.isnan(b), COMPARISONS[name](a, b)
    pairs = [("f32", torch.from_numpy(x)) for x in (a, b)]
    result = ("pred", torch.int32)
    for suffix, wanted in (("", holds & ~nan), ("u", holds | nan)):
        found = each(f"setp.{name}{suffix}.f32 {{0}}, {{1}}, {{2}}", result, *pairs)
        np.testing.assert_array_equal(found.numpy().astype(bool), wanted)
    i, j = words(32), words(32, 5)
    pairs = [("b32", torch_of(x)) for x in (i, j)]
    for kind, left, right in (("u32", i, j), ("s32", signed(i), signed(j))):
        found = each(f"setp.{name}.{kind} {{0}}, {{1}}, {{2}}", result, *pairs)
        np.testing.assert_array_equal(found.numpy().astype(bool), COMPARISONS[name](left, right))


def test_a_comparison_of_pairs_has_a_predicate_for_each():
    """The low half gives the first."""
    a, b = (torch.randn(N, 2).bfloat16() for _ in range(2))
    a[::7] = torch.nan
    pairs = [("b32", t.view(torch.int32)[:, 0]) for t in (a, b)]
    # Both predicates, as bits of one result.
    code = (
        "setp.lt.bf16x2 %q0|%q1, {1}, {2}; selp.b32 %r9, 1, 0, %q0;"
        " selp.b32 {0}, 2, 0, %q1; or.b32 {0}, {0}, %r9"
    )
    found = each(code, ("b32", torch.int32), *pairs)
    wanted = (a < b).int() @ torch.tensor([1, 2], dtype=torch.int32)
    np.testing.assert_array_equal(found, wanted)


def test_a_comparison_is_combined_with_a_predicate():
    a, b = torch_of(words(32)), torch_of(words(32, 5))
    third = (torch.arange(N) % 2).int()
    inputs = ("b32", a), ("b32", b), ("pred", third)
    for name, combine in (("and", np.logical_and), ("or", np.logical_or), ("xor", np.logical_xor)):
        code = f"setp.lt.{name}.s32 {{0}}, {{1}}, {{2}}, {{3}}"
        found = each(code, ("pred", torch.int32), *inputs)
        wanted = combine((a < b).numpy(), third.numpy())
        np.testing.assert_array_equal(found.numpy().astype(bool), wanted)
    found = each("selp.b32 {0}, {1}, {2}, {3}", ("b32", torch.int32), *inputs)
    np.testing.assert_array_equal(found, torch.where(third.bool(), a, b))


# --- conversions ---


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_half_precision_both_ways(kind, whole):
    """Every seventh value and all powers of two, infinities among them; --slow has every value."""
    dtype = {"f16": torch.float16, "bf16": torch.bfloat16}[kind]
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32)
    if not whole:
        every = every[(every % 7 == 0) | (every % (1024 if kind == "f16" else 128) == 0)]
        every = torch.cat([every, every[: -len(every) % 128]])  # whole blocks
    every = every.to(torch.int16)
    wide = each(f"cvt.f32.{kind} {{0}}, {{1}}", ("f32", torch.float32), (kind.replace("f16", "b16")
                if kind == "f16" else "b16", every))  # fmt: skip
    assert torch.equal(wide.nan_to_num(7), every.view(dtype).float().nan_to_num(7))
    # Every value, the middle between it and the next, and just beside the middle.
    finite = wide[wide.isfinite()]
    step = torch.cat([finite * (1 + part) for part in (2**-12, 2**-9, 3 * 2**-11, 2**-13)])
    step = step[: len(step) // 128 * 128].contiguous()
    found = each(f"cvt.rn.{kind}.f32 {{0}}, {{1}}", ("b16", torch.int16), ("f32", step))
    assert torch.equal(found.view(dtype), step.to(dtype))
    pair, step = f"cvt.rn.{kind}x2.f32 {{0}}, {{1}}, {{2}}", step[: len(step) // 512 * 128]
    found = each(pair, ("b32", torch.int32), ("f32", step), ("f32", -step))
    high, low = found.view(torch.int16).view(dtype).reshape(-1, 2).unbind(1)[::-1]
    assert torch.equal(high, step.to(dtype))
    assert torch.equal(low, -step.to(dtype))


def test_half_precision_ties_go_to_the_even_one():
    ties = torch.tensor([1 + 2**-11, 1 + 3 * 2**-11, -1 - 2**-11, 2**-25, 3 * 2**-25, 65520.0])
    found = each("cvt.rn.f16.f32 {0}, {1}", ("b16", torch.int16), ("f32", ties.repeat(64)))
    wanted = torch.tensor([1, 1 + 2**-9, -1, 0, 2**-23, torch.inf], dtype=torch.float16)
    assert torch.equal(found.view(torch.float16)[:6], wanted)
    ties = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, -1 - 3 * 2**-8])
    found = each("cvt.rn.bf16.f32 {0}, {1}", ("b16", torch.int16), ("f32", ties.repeat(64)))
    wanted = torch.tensor([1, 1 + 2**-6, -1, -1 - 2**-6], dtype=torch.bfloat16)
    assert torch.equal(found.view(torch.bfloat16)[:4], wanted)


@np.errstate(all="ignore")
def test_float_to_integer_rounds_clamps_and_has_no_nan():
    x = floats()
    x[::7] = np.random.default_rng(2).uniform(-9, 9, len(x[::7]))
    for name, fold in {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}.items():
        found = each(
            f"cvt.{name}.s32.f32 {{0}}, {{1}}", ("b32", torch.int32), ("f32", torch.from_numpy(x))
        )
        wanted = np.clip(np.nan_to_num(fold(x.astype(np.float64)), nan=0.0), -(2**31), 2**31 - 1)
        np.testing.assert_array_equal(found.numpy(), wanted.astype(np.int32), name)


def test_integer_conversions():
    a, wide = words(32), words(64)
    for kind, view in (("s32", np.int32), ("u32", np.uint32)):
        found = each(
            f"cvt.rn.f32.{kind} {{0}}, {{1}}", ("f32", torch.float32), ("b32", torch_of(a))
        )
        np.testing.assert_array_equal(found.numpy(), a.view(view).astype(np.float32))
        found = integers(f"cvt.{kind[0]}64.{kind} {{0}}, {{1}}", "b64", ("b32", a))
        np.testing.assert_array_equal(found, a.view(view).astype(np.int64).view(np.uint64))
    found = integers("cvt.u32.u64 {0}, {1}", "b32", ("b64", wide))
    np.testing.assert_array_equal(found, (wide & 0xFFFFFFFF).astype(np.uint32))
    found = integers("cvt.s32.s16 {0}, {1}", "b32", ("b16", words(16)))
    np.testing.assert_array_equal(signed(found), signed(words(16)).astype(np.int32))
    double = torch.from_numpy(np.random.default_rng(0).standard_normal(N))
    found = each("cvt.rn.f32.f64 {0}, {1}", ("f32", torch.float32), ("f64", double))
    assert torch.equal(found, double.float())
