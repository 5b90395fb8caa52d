"""fused_lstm.dropout: the mask of fused_lstm.reference, in C++ or as torch draws it."""

from __future__ import annotations

import sys

import pytest
import torch

import fused_lstm
from fused_lstm import native
from fused_lstm.reference import dropout_mask

CPU = torch.device("cpu")
WHY_NOT = native.missing(CPU)
built = pytest.mark.skipif(WHY_NOT is not None, reason=f"native: {WHY_NOT}")
SEED = torch.tensor([2**62 + 12345])


@pytest.fixture(params=["native", "torch"])
def path(request, monkeypatch):
    if request.param == "torch":
        module = sys.modules[fused_lstm.dropout.__module__]  # the function has the module's name
        monkeypatch.setattr(module, "can_run", lambda engine, device: False)
    elif WHY_NOT is not None:
        pytest.skip(f"native: {WHY_NOT}")
    return request.param


@built
@pytest.mark.parametrize("shape", [(), (0,), (1,), (63,), (64,), (3, 5, 43), (100, 1001)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_mask_is_the_references(isa, dtype, shape):
    x = torch.randn(shape).to(dtype)
    for p in (0.1, 0.65, 1.0):
        expected = (x * dropout_mask(SEED, shape, p)).to(dtype)
        torch.testing.assert_close(native.OPS.dropout(x, p, SEED), expected, rtol=0, atol=0)


@built
@pytest.mark.parametrize("first", [1, 64, 2**32 - 3])
def test_mask_may_be_a_part_of_a_longer_one(isa, first):
    x = torch.ones(131)
    expected = dropout_mask(SEED, x.shape, 0.4, first)
    assert torch.equal(native.OPS.dropout(x, 0.4, SEED, first), expected)
    if first < len(x):
        whole = dropout_mask(SEED, (first + len(x),), 0.4)
        assert torch.equal(expected, whole[first:])


@built
def test_first_that_is_no_place():
    with pytest.raises(ValueError, match="first: got -1; expected at least 0"):
        native.OPS.dropout(torch.ones(3), 0.5, SEED, -1)


@built
def test_mask_does_not_depend_on_the_threads():
    x, masks = torch.randn(1000), []
    for count in (1, 2, 3, 5):
        torch.set_num_threads(count)
        masks.append(native.OPS.dropout(x, 0.5, SEED))
    for mask in masks[1:]:
        assert torch.equal(mask, masks[0])


@built
def test_strided_input():
    x = torch.randn(40, 30).T
    expected = x * dropout_mask(SEED, x.shape, 0.3)
    assert torch.equal(native.OPS.dropout(x, 0.3, SEED), expected)


@built
def test_operator_is_a_good_citizen():
    x = torch.randn(3, 4, requires_grad=True)
    torch.library.opcheck(native.OPS.dropout, (x, 0.5, SEED, 7))


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("layout", ["contiguous", "strided", "empty"])
def test_triton_draws_the_references_mask(layout, p):
    if (why := fused_lstm.available_engines("cpu")["triton"]) is not None:
        pytest.skip(f"triton: {why}")
    ops = torch.ops.fused_lstm_triton
    x = torch.randn(5, 130)[:, ::2] if layout == "strided" else torch.randn(5, 65)
    x = (x[:0] if layout == "empty" else x).requires_grad_()
    y, mask = ops.dropout(x, p, SEED, 11), dropout_mask(SEED, x.shape, p, 11)
    torch.testing.assert_close(y, x * mask, rtol=0, atol=0)
    (dx,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(dx, mask, rtol=0, atol=0)
    torch.library.opcheck(ops.dropout, (x, p, SEED, 11))


def test_keeps_as_many_as_it_should_and_their_mean(path):
    y = fused_lstm.dropout(torch.ones(100_000), 0.35)
    kept = y != 0
    assert kept.float().mean().item() == pytest.approx(0.65, abs=0.01)
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / 0.65))


def test_each_call_draws_anew_and_a_seed_repeats_it(path):
    x = torch.ones(1000)
    torch.manual_seed(7)
    first, second = fused_lstm.dropout(x), fused_lstm.dropout(x)
    torch.manual_seed(7)
    assert torch.equal(fused_lstm.dropout(x), first)
    assert not torch.equal(first, second)


def test_gradient_has_the_same_mask(path):
    x = torch.randn(50, 7, requires_grad=True)
    y = fused_lstm.dropout(x, 0.4)
    grad = torch.randn_like(x)
    (dx,) = torch.autograd.grad(y, x, grad)
    torch.testing.assert_close(dx, torch.where(y == 0, 0, grad / 0.6))


def test_gradcheck(path):
    def dropped(x):
        torch.manual_seed(1)
        return fused_lstm.dropout(x, 0.5)

    x = torch.randn(9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(dropped, x)
    assert torch.autograd.gradgradcheck(dropped, x)


def test_compiles_without_a_graph_break(path):
    compiled = torch.compile(
        lambda x: fused_lstm.dropout(x, 0.5) + 1, backend="aot_eager", fullgraph=True
    )
    x = torch.ones(1000, requires_grad=True)
    y = compiled(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach() - 1)


@pytest.mark.parametrize("arguments", [{"p": 0.0}, {"p": 0.5, "training": False}])
def test_nothing_to_drop_is_x_itself(arguments):
    x = torch.randn(3)
    assert fused_lstm.dropout(x, **arguments) is x


def test_module_drops_in_training_alone(path):
    drop, x = fused_lstm.Dropout(0.5), torch.ones(100)
    assert (drop(x) == 0).any()
    assert drop.eval()(x) is x
    assert isinstance(drop, torch.nn.Dropout)


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_p_that_is_no_probability(p):
    with pytest.raises(ValueError, match=r"p: got .*; expected a number in \[0, 1\]"):
        fused_lstm.dropout(torch.ones(3), p)


@built
def test_dtype_that_cannot_be_dropped():
    with pytest.raises(ValueError, match="x: got dtype Long"):
        fused_lstm.dropout(torch.ones(3, dtype=torch.int64), 0.5)
