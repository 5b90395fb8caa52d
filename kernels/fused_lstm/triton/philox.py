"""Dropout between layers, drawn by counter: any element, at any time, and the same again.

The rule is fused_lstm.reference.dropout_mask's: element n of [L-1, T, B, H] is kept where the first
word of Philox4x32-10 (key: the seed, counter: n), as a number in [0, 1), is at least p.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .helper import helper
from .interpreter import is_interpreted

# --- kernels ---


@helper
def philox(seed, n):
    """Return the first word of Philox4x32-10: seed int64, n [...] int64 -> [...] uint32."""
    k0, k1 = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    c0, c1 = n.to(tl.uint32), (n >> 32).to(tl.uint32)
    c2, c3 = c0 & 0, c0 & 0
    for _ in tl.static_range(10):
        high0, high1 = tl.umulhi(c0, 0xD2511F53), tl.umulhi(c2, 0xCD9E8D57)
        low0, low1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return c0


@helper
def multiplier(seed_ptr, n, p, scale):
    """Return 0 where element n is dropped, else `scale`, in float32."""
    word = philox(tl.load(seed_ptr), n).to(tl.int32, bitcast=True)
    uniform = tl.where(word < 0, -word - 1, word).to(tl.float32) * 4.6566127342e-10
    return tl.where(uniform >= p, scale, 0.0)


@triton.jit(do_not_specialize=["first", "size", "p", "scale"])
def dropout_kernel(
    x_ptr,  # [size]
    y_ptr,  # [size] out
    seed_ptr,  # [1] int64
    first,  # x's first element's place in [L-1, T, B, H]
    size,
    p,
    scale,  # 1 / (1 - p)
    BLOCK: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + n, mask=n < size, other=0.0)
    y = x * multiplier(seed_ptr, first + n, p, scale)
    tl.store(y_ptr + n, y.to(y_ptr.dtype.element_ty), mask=n < size)


# --- host launchers ---


def scale_of(p: float) -> float:
    """Return the multiplier of an element that dropout keeps."""
    return 1 / (1 - p) if p < 1 else 0.0


def dropout(x: Tensor, p: float, seed: Tensor, first: int = 0) -> Tensor:
    """Run the operator `dropout` of fused_lstm.operator.ops."""
    x = x.contiguous()
    y = torch.empty_like(x)
    block = 4096 if is_interpreted() else 1024
    grid = (triton.cdiv(x.numel(), block),)
    dropout_kernel[grid](x, y, seed, first, x.numel(), p, scale_of(p), BLOCK=block)
    return y


def apply(p: float, seed: Tensor, size: int, y: Tensor, layer: int) -> Tensor:
    """Apply the seed's mask to `layer`'s output, or to the gradient by it.

    size: a layer's elements, of which y may have the first.
    """
    return dropout(y, p, seed, layer * size)
