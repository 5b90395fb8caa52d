"""torch.autograd.gradcheck of the reference's cell and its backward by hand, in float64."""

from __future__ import annotations

import torch
from torch.autograd import gradcheck

from fused_lstm import reference


def leaves(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]


def test_reference_cell():
    assert gradcheck(reference.cell, leaves((2, 12), (2, 3)))


def test_reference_backward_is_differentiable():
    """The hand-derived backward is plain PyTorch: its own gradient is the second derivative."""
    assert gradcheck(reference.cell_backward, leaves((2, 12), (2, 3), (2, 3), (2, 3), (2, 3)))
