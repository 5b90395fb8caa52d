"""Second derivatives where a call's inputs depend on one another, against plain PyTorch.

There a path from one input through another may be counted twice; gradgradcheck, whose inputs are
leaves, cannot see it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fused_lstm
from cases import Shape, in_turn, make_state, rungs
from fused_lstm import reference
from tolerance import assert_close

SHAPE = Shape(3, 2, 4, 4, 2)  # I = H: an output can be an input
Run = Callable[[Tensor, tuple[Tensor, Tensor], list[Tensor]], tuple]


def chained(run: Run, x: Tensor, h: Tensor, c: Tensor, weights: list[Tensor]) -> Tensor:
    """Two calls, the second from where the first ended, as in truncated backpropagation."""
    y, state = run(x, (h, c), weights)
    z, (h_n, c_n) = run(y.flip(0), state, weights)
    return (z * y).sum() + (h_n * c_n).sum()


def state_of_x(run: Run, x: Tensor, h: Tensor, c: Tensor, weights: list[Tensor]) -> Tensor:
    first = x[0].tanh().expand_as(h)
    y, (_, c_n) = run(x, (h * first, first), weights)
    return y.square().sum() + c_n.sin().sum()


def one_state(run: Run, x: Tensor, h: Tensor, c: Tensor, weights: list[Tensor]) -> Tensor:
    y, (h_n, c_n) = run(x, (h, h), weights)
    return y.sin().sum() + (h_n * c_n * c).sum()


def tied_layers(run: Run, x: Tensor, h: Tensor, c: Tensor, weights: list[Tensor]) -> Tensor:
    first = weights[: len(weights) // SHAPE.L]
    y, (h_n, c_n) = run(x, (h, c), first * SHAPE.L)
    return y.square().sum() + (h_n * c_n).sum()


def weights_of_x(run: Run, x: Tensor, h: Tensor, c: Tensor, weights: list[Tensor]) -> Tensor:
    y, (_, c_n) = run(x, (h, c), [w * x.mean().exp() for w in weights])
    return y.square().sum() + c_n.sum()


def last_state_alone(run: Run, x: Tensor, h: Tensor, c: Tensor, weights: list[Tensor]) -> Tensor:
    return run(x, (h, c), weights)[1][1].square().sum()


CASES = [chained, state_of_x, one_state, tied_layers, weights_of_x, last_state_alone]


def in_plain_pytorch(x, state, weights):
    y, *state = reference.lstm(x, *state, weights)
    return y, tuple(state)


def derivatives(case: Callable, run: Run, leaves: list[Tensor]) -> dict[str, Tensor]:
    """The first and second derivatives of a case by all of its leaves, the second by a vector."""
    x, h, c, *weights = leaves
    first = torch.autograd.grad(case(run, x, h, c, weights), leaves, create_graph=True,
                                materialize_grads=True)  # fmt: skip
    mixed = sum((g * torch.linspace(-1, 1, g.numel()).cos().view_as(g)).sum() for g in first)
    second = torch.autograd.grad(mixed, leaves, materialize_grads=True)
    names = ["x", "h_0", "c_0", *(f"weights[{n}]" for n in range(len(weights)))]
    found = dict(zip(names, first, strict=True))
    return found | {f"{name}, second": g for name, g in zip(names, second, strict=True)}


@in_turn({case.__name__: case for case in CASES}, rungs("compile", "cudnn"), 2)
def test_inputs_that_depend_on_one_another(case, engine, fuse):
    def run(x, state, weights):
        return fused_lstm.lstm(x, state, weights, engine=engine, fuse=fuse)

    weights = fused_lstm.LSTM(SHAPE.I, SHAPE.H, SHAPE.L, dtype=torch.float64).parameters()
    x = torch.randn(SHAPE.T, SHAPE.B, SHAPE.I, dtype=torch.float64)
    tensors = [x, *make_state(SHAPE, torch.float64), *weights]
    leaves = [t.detach().requires_grad_() for t in tensors]
    expected = derivatives(case, in_plain_pytorch, leaves)
    for name, found in derivatives(case, run, leaves).items():
        assert_close(found, expected[name], name)


@pytest.mark.parametrize(("engine", "fuse"), rungs("compile", "cudnn"))
def test_a_first_derivative_under_create_graph_is_the_kernels(engine, fuse):
    """To the bit, that is: only what is differentiated again is plain PyTorch."""
    module = fused_lstm.LSTM(5, 7, 2, engine=engine, fuse=fuse)
    x = torch.randn(3, 2, 5, requires_grad=True)
    y, _ = module(x)
    leaves = [x, *module.parameters()]
    plain = torch.autograd.grad(y.square().sum(), leaves, retain_graph=True)
    kept = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
    assert all(map(torch.equal, plain, kept))
