"""Engine `compile`: the step loop under torch.compile, as the post tried TensorFlow's under XLA."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from . import loop


def missing(device: torch.device) -> str | None:
    if device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++", "cl"))):
        return "torch.compile needs a C++ compiler on a CPU; install g++ or clang++"
    return None


def describe(device: torch.device) -> str:
    return "the step loop under torch.compile; the first call of each shape compiles"


@cache
def _compiled():
    return torch.compile(loop.unrolled, dynamic=False)


def lstm(
    x: Tensor, h0: Tensor, c0: Tensor, weights: Sequence[Tensor], dropout: float, fuse: str | None
) -> tuple[Tensor, Tensor, Tensor]:
    return _compiled()(x, h0, c0, weights, dropout, loop.cell)
