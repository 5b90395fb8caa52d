"""Masks drawn by counter: a kernel draws any element at any time, and stores none.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") in plain PyTorch.
The kernels draw the same masks, in the forward pass and again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def dropout_mask(seed: Tensor, shape: Sequence[int], dropout: float, first: int = 0) -> Tensor:
    """Return a mask of `shape` in float32: 0 where dropped, else 1 / (1 - dropout).

    Its elements have the numbers `first`, `first` + 1, ... Between layers l and l + 1 of a stack,
    `first` is l times the elements of a layer. Element n is decided by the first word of
    Philox4x32-10 with the seed as key and n as counter.
    """
    n = torch.arange(torch.Size(shape).numel(), dtype=torch.int64, device=seed.device) + first
    word = first_word(seed, n).reshape(shape)
    # As triton's uint_to_uniform_float: fold the sign bit away, then scale to [0, 1).
    signed = torch.where(word >= 2**31, 2**32 - 1 - word, word)
    uniform = signed.to(torch.float32) * 4.6566127342e-10
    scale = 1 / (1 - dropout) if dropout < 1 else 0.0
    return torch.where(uniform >= dropout, scale, 0.0).to(torch.float32)


def first_word(seed: Tensor, n: Tensor) -> Tensor:
    """Return the first word of Philox4x32-10 in int64; counter (n low, n high, 0, 0), key seed."""
    word = 0xFFFFFFFF
    k0, k1 = seed & word, (seed >> 32) & word
    c0, c1, c2, c3 = n & word, (n >> 32) & word, torch.zeros_like(n), torch.zeros_like(n)
    for _ in range(10):
        high0, low0 = _multiply(c0, 0xD2511F53)
        high1, low1 = _multiply(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & word, (k1 + 0xBB67AE85) & word
    return c0


def _multiply(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """Return the high and low 32-bit words of a 32 x 32 bit product, within int64."""
    low = a * (b & 0xFFFF)
    high = a * (b >> 16) + (low >> 16)
    return high >> 16, ((high << 16) | (low & 0xFFFF)) & 0xFFFFFFFF
