"""Weights rounded to TF32 before a launch, so that no step rounds those that it reads anew.

A launch rounds resident weights when it loads them. Weights that stream would be rounded at every
step, by instructions that keep them out of an asynchronous copy to shared memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tile
from .interpreter import is_interpreted

# From so many steps on, rounding all weights first takes less than rounding some at every step: by
# arithmetic at H=1500, on an A100, an H100 and an RTX 5090.
STEPS = 16

# --- kernel ---


@triton.jit
def round_kernel(
    x_ptrs,  # of each tensor [size]
    y_ptrs,  # of each tensor [size] out
    sizes,
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    for i in tl.static_range(COUNT):
        if tl.program_id(1) == i:
            mask = n < sizes[i]
            x = tl.load(x_ptrs[i] + n, mask=mask, other=0.0)
            tl.store(y_ptrs[i] + n, tile.rounded(x, True), mask=mask)


# --- launcher ---


def rounded(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return contiguous float32 tensors rounded to TF32, by one launch."""
    found, sizes = [torch.empty_like(t) for t in tensors], [t.numel() for t in tensors]
    block = 4096 if is_interpreted() else 1024
    grid = triton.cdiv(max(sizes), block), len(sizes)
    constants: dict[str, Any] = {"COUNT": len(sizes), "BLOCK": block}
    round_kernel[grid](tuple(tensors), tuple(found), tuple(sizes), **constants)
    return found
