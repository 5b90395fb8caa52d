"""PyTorch's switches that let float32 be sums of bfloat16, and what they move in the engine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fused_lstm
from bench import kernels
from fused_lstm import native
from lm.device import set_precision
from lm.settings import PRECISIONS
from lm_cases import train
from terms import ISAS, MATMUL, RNN, UNITS, by_fma, of_terms, set_switches
from test_native import SHAPES, expected_results

pytestmark = of_terms


def answers(x: Tensor, target: Tensor, lstm, decoder) -> list[Tensor]:
    y, state = lstm(x)
    loss = fused_lstm.linear_cross_entropy(y, decoder.weight, target, linear_bias=decoder.bias)
    grads = torch.autograd.grad(loss, [*lstm.parameters(), *decoder.parameters()])
    return [y, *state, loss, *grads]


def a_model():
    # 17 rows: of fewer than 16 "tf32" is float32, which is faster there.
    x, target = torch.randn(7, 17, 20), torch.randint(50, (7, 17))
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
    state, options = (h0, c0), {"engine": "native", "fuse": "layers"}
    assert torch.equal(fused_lstm.lstm(x, state, weights, **options)[0], told)
    assert torch.equal(native.OPS.lstm(*given, precision="none")[0], plain)
    assert not torch.equal(told, plain)
    message = "precision: got 'fp8'; expected 'ieee', 'tf32', 'bf16' or 'none'"
    with pytest.raises((RuntimeError, ValueError), match=message):
        native.OPS.lstm(*given, precision="fp8")


def test_the_plan_says_who_multiplies(terms):
    precision = RNN.fp32_precision
    plan = kernels.ops().plan(20, 20, 200, 200, 2, "layers", True, threads=2, precision=precision)
    assert plan.splitlines()[0].startswith(tuple(f"{unit}, " for unit in UNITS))
    assert f", {terms} term" in plan.splitlines()[0]
    short = kernels.ops().plan(1, 1, 20, 20, 2, "layers", False, precision=precision)
    assert "term" not in short.splitlines()[0]


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


def test_a_stream_is_as_exact_as_the_switch_when_it_was_made(terms):
    """As many rows as a product by tiles has: a short call is float32 in any case."""
    lstm, x = fused_lstm.LSTM(64, 64), torch.randn(40, 64)
    with torch.no_grad():
        expected, plain = lstm(x[None])[0][0], by_fma(lambda: lstm(x[None])[0][0])
    assert not torch.equal(expected, plain)
    stream = fused_lstm.Streaming(lstm, 40)
    assert torch.equal(by_fma(lambda: stream(x)), expected)
    assert torch.equal(by_fma(lambda: fused_lstm.Streaming(lstm, 40)(x)), plain)
