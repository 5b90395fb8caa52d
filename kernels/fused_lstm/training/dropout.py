"""Dropout without a mask in memory, in C++ on a CPU.

PyTorch draws a CPU's masks one number after another on one core: the two masks of the medium model
take 6% of a training step. This dropout draws masks by counter: all cores draw in vectors, and the
backward pass draws the same mask again instead of storing it.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..call.choose import can_run
from ..operator import autograd
from ..operator.ops import NATIVE


def dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Return F.dropout(x, p, training), with a mask whose seed PyTorch's generator draws.

    Args:
        x: of any shape; float32, float64, bfloat16 or float16.
        p: probability of zeroing an element. The other elements are multiplied by 1 / (1 - p).
        training: False returns x itself.

    In C++ the mask is `fused_lstm.reference.dropout_mask(seed, x.shape, p)`, whatever the number of
    threads. p is rounded to float32. Without the C++ engine it is PyTorch's F.dropout.

    Raises:
        ValueError: p is outside [0, 1], or the dtype is none of these.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p: got {p}; expected a number in [0, 1]")
    if not training or p == 0:
        return x
    if not can_run("native", x.device):
        return F.dropout(x, p)
    return autograd.dropout(NATIVE, x, p, None)


class Dropout(nn.Dropout):
    """A drop-in for nn.Dropout that calls `dropout`; `inplace` is ignored."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)
