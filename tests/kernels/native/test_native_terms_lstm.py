"""The native engine's LSTM and softmax layer whose products are sums of bfloat16 ones."""

from __future__ import annotations

import pytest
import torch

import fused_lstm
from cases import Shape
from loss_cases import losses_and_gradients, problem, stock
from terms import by_fma, check, of_terms, set_switches
from test_native import SHAPES, assert_threads_agree, engine, expected_results, results
from test_native_bf16 import MORE_SHAPES, assert_nan_goes_through_its_own_row, error
from test_native_lanes import CASES, both, forward, solved

pytestmark = of_terms

# By the root of the mean square: 2^-16 and 2^-8, with room for what a recurrence makes of them.
ERROR = {2: 1e-4, 1: 2e-2}


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
    if terms == 2 and hidden == 110:
        pytest.skip("a wavefront's backward is float32's, whose bits depend on the threads")
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


def test_two_terms_are_not_slower_than_float32(unit):
    """Check that few rows, and backwards, where two terms are slower, keep float32's bits."""
    set_switches("tf32")
    for rows, same in ((15, True), (16, False)):
        inputs, *_ = expected_results(Shape(5, rows, 20, 30, 2), torch.float32, True)
        inputs = [t.detach() for t in inputs]
        call = lambda given=inputs: engine()(*given[:3], given[3:])[0]  # noqa: E731
        with torch.no_grad():
            assert torch.equal(call(), by_fma(call)) == same


def test_nan_goes_through_its_own_row(terms):
    assert_nan_goes_through_its_own_row(expected_results(SHAPES[2], torch.float32, True)[0])


def test_a_short_call_is_float32s(terms):
    lstm, x = fused_lstm.LSTM(20, 30, 2, engine="native"), torch.randn(1, 1, 20)
    assert torch.equal(lstm(x)[0], by_fma(lambda: lstm(x)[0]))


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
