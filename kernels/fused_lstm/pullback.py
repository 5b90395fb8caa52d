"""Derivatives of a function in plain PyTorch, and the tests for when they replace a kernel's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .errors import meant


def is_transformed() -> bool:
    """Return whether torch.func or forward mode is active, whose derivatives no kernel has."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_differentiated(*tensors: Tensor | None) -> bool:
    """Return whether autograd records a gradient by one of the tensors."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def kernel(operator: Callable, *arguments: Any, **options: Any) -> Any:
    """Call an operator below autograd; a C++ error becomes the exception that it names."""
    with torch._C._AutoDispatchBelowAutograd():
        try:
            return operator(*arguments, **options)
        except RuntimeError as error:
            raise meant(error) from None


def filled(grads: Sequence[Tensor | None], like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return gradients with each None replaced by zeros like its tensor."""
    pairs = zip(grads, like, strict=True)
    return tuple(torch.zeros_like(t) if g is None else g.to(t.dtype) for g, t in pairs)


def pulled_back(
    function: Callable, inputs: Sequence[Tensor | None], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Return the gradients by `inputs` of function(*inputs), a tuple, in plain PyTorch.

    grads: the gradients by the function's results. An input that is None has no gradient. The
    result can be differentiated again.
    """
    places = [n for n, t in enumerate(inputs) if t is not None]

    def of_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
        full = list(inputs)
        for n, tensor in zip(places, tensors, strict=True):
            full[n] = tensor
        return function(*full)

    outputs, pullback, *_ = torch.func.vjp(of_tensors, *(inputs[n] for n in places))
    by_place = dict(zip(places, pullback(filled(grads[: len(outputs)], outputs)), strict=True))
    return [by_place.get(n) for n in range(len(inputs))]
