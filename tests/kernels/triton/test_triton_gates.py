"""The gates' functions keep small values: errors are relative, and at most twice PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor, nn

import fused_lstm
from bench import zoo
from fused_lstm.triton import interpreter
from fused_lstm.triton.cells import activation

DEVICE = "cpu" if interpreter.is_interpreted() else "cuda"
ROUNDINGS = 5  # exp2 (its last bit: two), what corrects it, sum, quotient: where PyTorch has luck
FUNCTIONS = {"sigmoid": torch.sigmoid, "tanh": torch.tanh}
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


@triton.jit
def both_kernel(x_ptr, sigmoid_ptr, tanh_ptr, size, BLOCK: tl.constexpr):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + n, mask=n < size, other=0.0)
    tl.store(sigmoid_ptr + n, activation.sigmoid(x), mask=n < size)
    tl.store(tanh_ptr + n, activation.tanh(x), mask=n < size)


def both(x: Tensor) -> dict[str, Tensor]:
    x = x.to(DEVICE)
    found = {name: torch.empty_like(x) for name in FUNCTIONS}
    both_kernel[(triton.cdiv(len(x), 4096),)](x, *found.values(), len(x), BLOCK=4096)
    return {name: value.cpu() for name, value in found.items()}


def worst(found: Tensor, exact: Tensor) -> float:
    """The largest relative error; of an exact 0 the absolute one."""
    exact = exact.double()
    scale = torch.where(exact == 0, torch.ones_like(exact), exact.abs())
    return ((found.double() - exact).abs() / scale).max().item()


@dtypes
@pytest.mark.parametrize(
    ("low", "high"), [(-30, -8), (-8, -1), (-1, 0), (0, 1.2)], ids=lambda v: f"1e{v}"
)
def test_errors_are_at_most_twice_pytorchs(low, high, dtype):
    x = torch.logspace(low, high, 40_001, dtype=torch.float64).to(dtype)
    x = torch.cat([-x, x])
    found = both(x)
    for name, function in FUNCTIONS.items():
        exact = function(x.double())
        allowed = max(2 * worst(function(x), exact), ROUNDINGS * torch.finfo(dtype).eps / 2)
        assert worst(found[name], exact) <= allowed, name


@dtypes
def test_far_out_and_what_is_no_number(dtype):
    top = torch.finfo(dtype).max
    x = torch.tensor([0.0, 45, 89, 720, top, torch.inf], dtype=dtype)
    found = both(torch.cat([-x, x, torch.tensor([torch.nan], dtype=dtype)]))
    for name, value in found.items():
        assert value[:-1].isfinite().all(), name
        assert value[-1].isnan(), name
    assert found["tanh"][[0, 5, 6, 11]].tolist() == [0, -1, 0, 1]
    assert found["sigmoid"][[0, 5, 6, 11]].tolist() == [0.5, 0, 0.5, 1]


def everything(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    x = x.detach().requires_grad_()
    y, (h_n, c_n) = module(x)
    module.zero_grad()
    torch.autograd.backward([y, h_n, c_n], [torch.full_like(t, 1e-3) for t in (y, h_n, c_n)])
    found = {"y": y, "h_n": h_n, "c_n": c_n, "x.grad": x.grad}
    found |= {f"{name}.grad": p.grad for name, p in module.named_parameters()}
    return {name: value.detach().cpu() for name, value in found.items()}


@pytest.mark.parametrize("fuse", ["pointwise", "steps", "layers"])
def test_an_lstm_of_small_values_is_as_exact_as_the_step_loop(fuse):
    """x of 1e-9: c and h are as small, and their gradients' parts by g and c hang on them."""
    ours, loop, exact = (
        fused_lstm.LSTM(5, 7, 2, bias=False, engine=engine, fuse=level, device=device, dtype=dtype)
        for engine, level, device, dtype in [
            ("triton", fuse, DEVICE, torch.float32),
            ("loop", None, DEVICE, torch.float32),
            ("cudnn", None, "cpu", torch.float64),
        ]
    )
    with torch.no_grad():
        for weight in ours.parameters():
            weight.abs_()  # no sum cancels: then every element has a relative error
    loop.load_state_dict(ours.state_dict())
    exact.load_state_dict(ours.state_dict())
    x = torch.rand(3, 4, 5, device=DEVICE) * 1e-9
    found, plain, expected = (
        everything(ours, x),
        everything(loop, x),
        everything(exact, x.double().cpu()),
    )
    for name, value in expected.items():
        assert value.ne(0).all(), name
        assert worst(found[name], value) <= 2 * worst(plain[name], value), name


@pytest.mark.parametrize(
    ("cell", "options", "where"),
    [
        (zoo.multiplicative_lstm, {"proj_size": 3}, "beside a projected h"),
        (zoo.low_rank_rnn, {"units": {"low": 5}}, "of more units than h"),
    ],
)
def test_where_triton_has_no_products_inside_a_step(cell, options, where):
    module = fused_lstm.Recurrent(cell, 3, 4, engine="triton", device=DEVICE, **options)
    with pytest.raises(RuntimeError, match=f"has no products or sums inside a step {where}"):
        module(torch.randn(2, 1, 3, device=DEVICE))
