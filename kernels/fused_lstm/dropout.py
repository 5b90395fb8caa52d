"""Dropout without a mask in memory: drawn by counter, in C++ on a CPU that has it built.

PyTorch draws a CPU's masks one number after another, on one core: in the blog post's model of 650
units two of them take 6 percent of a training step. Here all cores draw, in vectors, and the
backward draws again instead of keeping what the forward drew.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from . import autograd
from .engines import can_run
from .ops import NATIVE


def dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """F.dropout(x, p, training); the seed of the mask comes from PyTorch's generator.

    Args:
        x: of any shape; float32, float64, bfloat16 or float16.
        p: probability of zeroing an element. Others are multiplied by 1 / (1 - p).
        training: False returns x itself.

    In C++ the mask is `fused_lstm.reference.dropout_mask(seed, x.shape, p)`, whatever the number of
    threads, and p is taken in float32.

    Raises:
        ValueError: p outside [0, 1], or a dtype that is none of these.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p: got {p}; expected a number in [0, 1]")
    if not training or p == 0:
        return x
    if not can_run("native", x.device):
        return F.dropout(x, p)
    return autograd.dropout(NATIVE, x, p, None)


class Dropout(nn.Dropout):
    """nn.Dropout through `dropout`; `inplace` is ignored."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)
