"""linear_cross_entropy against F.cross_entropy(F.linear(...)), in C++ and in chunks of torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fused_lstm import cross_entropy, native
from fused_lstm.cross_entropy import linear_cross_entropy
from tolerance import assert_close

CPU = torch.device("cpu")
WHY_NOT = native.missing(CPU)
PATHS = [
    pytest.param(isa, marks=[pytest.mark.skipif(WHY_NOT is not None, reason=f"native: {WHY_NOT}")])
    for isa in (native.OPS.isa_names() if WHY_NOT is None else ["native"])
]


@pytest.fixture(params=[*PATHS, "torch"])
def path(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(cross_entropy, "missing", lambda device: "not in this test")
        monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", 5000)
        yield "torch"
    else:
        native.OPS.use_isa(request.param)
        yield request.param
        native.OPS.use_isa("")


def problem(N, H, V, bias=True, dtype=torch.float32):
    inputs = [torch.randn(N, H, dtype=dtype), torch.randn(V, H, dtype=dtype) / H**0.5]
    inputs += [torch.randn(V, dtype=dtype)] if bias else []
    return [t.requires_grad_() for t in inputs], torch.randint(V, (N,))


def stock(hidden, weight, bias, target, reduction="mean"):
    return F.cross_entropy(F.linear(hidden, weight, bias), target, reduction=reduction)


def compare(inputs, target, reduction, grad_output=1.0):
    hidden, weight, bias = (*inputs, None)[:3]
    found = linear_cross_entropy(hidden, weight, bias, target, reduction)
    expected = stock(hidden, weight, bias, target, reduction)
    assert_close(found, expected, "loss")
    grad = torch.linspace(0.5, 1.5, found.numel(), dtype=found.dtype).reshape(found.shape)
    pairs = zip(
        ("hidden", "weight", "bias"),
        torch.autograd.grad(found, inputs, grad * grad_output),
        torch.autograd.grad(expected, inputs, grad * grad_output),
        strict=False,
    )
    for name, value, theirs in pairs:
        assert_close(value, theirs, f"d{name}")


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("N", "H", "V", "bias"),
    [(1, 1, 1, True), (3, 5, 7, False), (35, 17, 101, True), (64, 1700, 130, True)],
)
def test_agrees_with_torch(path, N, H, V, bias, dtype, reduction):
    inputs, target = problem(N, H, V, bias, dtype)
    compare(inputs, target, reduction)
    target[:: max(2, N // 3)] = -100
    if (target != -100).any():
        compare(inputs, target, reduction, grad_output=-3.0)


def test_several_chunks(path):
    inputs, target = problem(450, 9, 20000)  # 36 MB of logits in float32
    compare(inputs, target, "mean")


def test_no_grad_and_frozen_inputs(path):
    (hidden, weight, bias), target = problem(20, 8, 50)
    with torch.no_grad():
        found = linear_cross_entropy(hidden, weight, bias, target)
    assert not found.requires_grad
    assert_close(found, stock(hidden, weight, bias, target), "loss")
    frozen = linear_cross_entropy(hidden, weight.detach(), bias.detach(), target)
    expected = torch.autograd.grad(stock(hidden, weight, bias, target), hidden)[0]
    assert_close(torch.autograd.grad(frozen, hidden)[0], expected, "dhidden")


def test_all_ignored_and_no_rows(path):
    (hidden, weight, bias), target = problem(4, 3, 5)
    target.fill_(-100)
    assert linear_cross_entropy(hidden, weight, bias, target).isnan()
    assert linear_cross_entropy(hidden, weight, bias, target, "sum") == 0
    nothing = linear_cross_entropy(hidden[:0], weight, bias, target[:0], "sum")
    assert nothing == 0
    assert not torch.autograd.grad(nothing, weight)[0].any()


def test_large_logits_do_not_overflow(path):
    (hidden, weight, bias), target = problem(30, 8, 40)
    inputs = [(hidden * 1e3).detach().requires_grad_(), weight, bias]
    compare(inputs, target, "sum")


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradcheck(path, reduction):
    inputs, target = problem(5, 3, 7, dtype=torch.float64)
    target[1] = -100

    def run(*inputs):
        return linear_cross_entropy(*inputs, target, reduction)

    assert torch.autograd.gradcheck(run, inputs)


def test_half_precision(path):
    inputs, target = problem(20, 16, 50)
    half = [t.detach().to(torch.bfloat16).requires_grad_() for t in inputs]
    expected = stock(*(t.float() for t in half), target)
    found = linear_cross_entropy(*half, target)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=1e-2)
    theirs = torch.autograd.grad(expected, half)
    for name, a, b in zip("hwb", torch.autograd.grad(found, half), theirs, strict=True):
        assert_close(a, b, f"d{name}")


def test_two_runs_give_the_same_bits(path):
    inputs, target = problem(100, 20, 300)
    runs = []
    for _ in range(2):
        loss = linear_cross_entropy(*inputs, target)
        runs.append([loss, *torch.autograd.grad(loss, inputs)])
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)


def test_errors_name_the_argument(path):
    (hidden, weight, bias), target = problem(4, 3, 5)
    for message, arguments in {
        r"reduction: got 'avg', should be one of": (hidden, weight, bias, target, "avg"),
        r"hidden: got shape \[2, 2, 3\]": (hidden.reshape(2, 2, 3), weight, bias, target),
        r"weight: got shape \[5, 2\], should be \[5, 3\]": (hidden, weight[:, 1:], bias, target),
        r"bias: got shape \[4\], should be \[5\]": (hidden, weight, bias[1:], target),
        r"target: got shape \[3\], should be \[4\]": (hidden, weight, bias, target[1:]),
        r"target: got dtype torch.int32": (hidden, weight, bias, target.int()),
    }.items():
        with pytest.raises(ValueError, match=message):
            linear_cross_entropy(*arguments)


def test_a_target_that_is_no_class(path):
    (hidden, weight, bias), target = problem(4, 3, 5)
    target[2] = 5
    with pytest.raises((IndexError, RuntimeError), match=r"target: got 5|out of bounds"):
        linear_cross_entropy(hidden, weight, bias, target)
