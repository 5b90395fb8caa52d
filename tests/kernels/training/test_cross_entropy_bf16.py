"""The softmax layer of bfloat16 tensors in C++, where the CPU multiplies pairs of them."""

from __future__ import annotations

import pytest
import torch

from fused_lstm import native
from loss_cases import problem, stock
from tolerance import SAME_TERMS, assert_close, near

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"
)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize(
    ("N", "H", "V"),
    # One of each, odd ones, two parts of k (inputs, classes), several chunks.
    [(1, 1, 1), (3, 5, 7), (35, 17, 101), (33, 3200, 31), (40, 6, 3333), (450, 9, 20001)],
)
def test_it_is_exact_but_for_its_factors(bf16_isa, N, H, V, bias):
    """Losses have float32's error; gradients that of exponentials, rounded to 8 bits, and sums."""
    inputs, target = problem(N, H, V, bias)
    hidden, weight, *rest = inputs = [t.detach().bfloat16() for t in inputs]
    target[1 : N // 2 : 3] = -100
    row_grad = torch.linspace(0.5, -1.5, N)
    found = native.OPS.linear_cross_entropy(
        hidden, weight, rest[0] if bias else None, target, row_grad, -100
    )
    wide = [t.double().requires_grad_() for t in inputs]
    expected = stock(*wide[:2], target, linear_bias=wide[2] if bias else None, reduction="none")
    assert_close(found[0], expected.detach().float(), "loss")
    grads = torch.autograd.grad(expected, wide, row_grad.double())
    for name, a, e in zip(("dhidden", "dweight", "dbias"), found[1:], grads, strict=False):
        assert a.dtype == torch.float32
        # An exponential's rounding, of a row's largest, and as much again of what is summed.
        unit = torch.finfo(torch.bfloat16).eps / 2
        assert ((a.double() - e).abs() <= unit * (e.abs() + e.abs().max())).all(), name


def test_threads_share_it(bf16_isa):
    """More of them than there are blocks of rows: the sums of a row are in another order."""
    inputs, target = problem(21, 24, 70)
    inputs = [t.detach().bfloat16() for t in inputs]
    answers = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        row_grad = torch.full((21,), 1 / 21)
        answers.append(native.OPS.linear_cross_entropy(*inputs, target, row_grad, -100))
    for found in answers[1:]:
        for a, b in zip(found, answers[0], strict=True):
            torch.testing.assert_close(a, b, **near(SAME_TERMS))


@pytest.mark.parametrize(
    "value",
    [2.0**-127, 3.38e38, float("inf"), float("nan")],
    ids=["denormal", "most", "inf", "nan"],
)
def test_what_is_no_usual_number(bf16_isa, value):
    """A denormal factor is 0; what is not finite stays in its row, and spoils every class's sum."""
    inputs, target = problem(20, 8, 40, bias=False)
    hidden, weight = (t.detach().bfloat16() for t in inputs)
    hidden[3] = 0
    hidden[3, 2] = value
    weight[:, 2] = weight[:, 2].abs() + 1
    row_grad = torch.ones(20)
    loss, dhidden, *_ = native.OPS.linear_cross_entropy(
        hidden, weight, None, target, row_grad, -100
    )
    finite = value == 2.0**-127
    if finite:
        assert loss[3] == torch.tensor(40.0).log()  # of logits that are all 0
    assert loss[3].isfinite() == dhidden[3].isfinite().all() == finite
    others = torch.arange(20) != 3
    assert loss[others].isfinite().all()
    assert dhidden[others].isfinite().all()
