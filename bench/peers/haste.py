"""Haste (LMNT, 2020). It has no initial state: problems begin at zero, as a text does."""

from __future__ import annotations

import haste_pytorch
import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from .gates import PYTORCH, TENSORFLOW
from .torch_stack import TorchStack


class Haste(TorchStack):
    """Gates i, g, f, o and transposed kernels, as BasicLSTMCell has them."""

    def __init__(self, problem: dict[str, np.ndarray]) -> None:
        super().__init__(problem)
        if self.h0.any() or self.c0.any():
            raise ValueError("haste cannot begin with a state other than zero")
        H = self.h0.shape[2]
        self.stack = [
            haste_pytorch.LSTM(self.weight("weight_ih", l).shape[1], H) for l in range(len(self.h0))
        ]

    def layer(self, index: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bias = self.weight("bias_ih", index) + self.weight("bias_hh", index)
        own = {
            "kernel": _reordered(self.weight("weight_ih", index)).t(),
            "recurrent_kernel": _reordered(self.weight("weight_hh", index)).t(),
            "bias": _reordered(bias),
        }
        y, (h, c) = functional_call(self.stack[index], own, (x,))
        return y, h[0], c[0]


def _reordered(weight: Tensor) -> Tensor:
    blocks = dict(zip(PYTORCH, weight.chunk(4), strict=True))
    return torch.cat([blocks[gate] for gate in TENSORFLOW])


def build(problem: dict[str, np.ndarray], threads: int) -> Haste:
    return Haste(problem)
