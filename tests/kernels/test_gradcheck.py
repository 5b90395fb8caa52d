"""torch.autograd.gradcheck in float64: the reference, the Triton kernels, and every engine."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import fused_lstm
from cases import Shape, make_state, rungs
from fused_lstm import reference

# Every input element costs two forward passes; with fast_mode, which compares random projections
# of a derivative, all of them together do.
SHAPE = Shape(2, 2, 2, 3, 2)
every_rung = pytest.mark.parametrize(("engine", "fuse"), rungs("compile"))


def leaves(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]


@pytest.fixture
def inputs() -> list[torch.Tensor]:
    """x, h0, c0 and the weights of a two-layer LSTM, all wanting gradients."""
    weights = fused_lstm.LSTM(SHAPE.I, SHAPE.H, SHAPE.L, dtype=torch.float64).parameters()
    x = torch.randn(SHAPE.T, SHAPE.B, SHAPE.I, dtype=torch.float64)
    tensors = [x, *make_state(SHAPE, torch.float64), *weights]
    return [t.detach().requires_grad_() for t in tensors]


def test_reference_cell():
    assert gradcheck(reference.cell, leaves((2, 12), (2, 3)))


def test_reference_sequence(inputs):
    assert gradcheck(lambda x, h, c, *w: reference.lstm(x, h, c, w), inputs)


def test_reference_sequence_with_dropout(inputs):
    seed = torch.tensor([11])
    assert gradcheck(lambda x, h, c, *w: reference.lstm(x, h, c, w, 0.4, seed), inputs)


def test_reference_backward_is_differentiable():
    """The hand-derived backward is plain PyTorch: its own gradient is the second derivative."""
    assert gradcheck(reference.cell_backward, leaves((2, 12), (2, 3), (2, 3), (2, 3), (2, 3)))


# Of a chain of layers `test_module` has a stack.
@pytest.mark.parametrize(
    ("engine", "fuse"), rungs("compile", slow=("triton-hoisted", "triton-steps", "triton-layers"))
)
def test_engine(engine, fuse, inputs):
    def run(x, h0, c0, *weights):
        y, state = fused_lstm.lstm(x, (h0, c0), weights, engine=engine, fuse=fuse)
        return y, *state

    assert gradcheck(run, inputs, fast_mode=True)


# Triton's is the plain form's, as native's; test_triton_layers.py has one in every run.
@pytest.mark.parametrize(
    ("engine", "fuse"),
    rungs("compile", "cudnn", slow=("triton",)),
)
def test_second_derivative(engine, fuse, inputs):
    def run(x, h0, c0, *weights):
        y, state = fused_lstm.lstm(x, (h0, c0), weights, engine=engine, fuse=fuse)
        return y, *state

    assert gradgradcheck(run, inputs, fast_mode=True)


@every_rung
def test_module(engine, fuse):
    module = fused_lstm.LSTM(3, 4, 2, dtype=torch.float64, engine=engine, fuse=fuse)
    fast = engine == "triton"  # whose interpreter takes minutes
    assert gradcheck(lambda x: module(x)[0], leaves((2, 3, 3)), fast_mode=fast)
