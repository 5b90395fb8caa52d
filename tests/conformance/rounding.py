"""Matrix products with factors that are as exact as bfloat16's, in plain PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

PRODUCTS = Tensor.__matmul__, Tensor.matmul, torch.matmul


class Noise(TorchFunctionMode):
    """A mode in which each factor of a matrix product is off by up to a rounding to bfloat16.

    So are those of the products that make gradients. By seed 0 a factor is rounded, by others it is
    off by a random part of what a rounding may be, which is 2^-9 of it.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed) if seed else None

    def inexact(self, x: Tensor) -> Tensor:
        """Return a factor as a product has it."""
        if self._generator is None:
            return x.bfloat16().to(x.dtype)
        noise = torch.rand(x.shape, generator=self._generator, dtype=x.dtype)
        return x * (1 + 2**-9 * (2 * noise - 1))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return Product.apply(self, *args) if func in PRODUCTS else func(*args, **(kwargs or {}))


class Product(torch.autograd.Function):
    """The product of two matrices."""

    @staticmethod
    def forward(ctx, mode, a, b):
        ctx.mode, (a, b) = mode, map(mode.inexact, (a, b))
        ctx.save_for_backward(a, b)
        return torch.mm(a, b)

    @staticmethod
    def backward(ctx, d):
        (a, b), d = ctx.saved_tensors, ctx.mode.inexact(d)
        return None, torch.mm(d, b.T), torch.mm(a.T, d)
