"""What torch.autocast does to the inputs of a product, for operators that it does not know."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from .engines import constant_while_tracing


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for this kind of device."""
    return _has_autocast(device.type) and torch.is_autocast_enabled(device.type)


@constant_while_tracing  # torch.compile of torch 2.11 cannot look into it
def _has_autocast(kind: str) -> bool:
    return torch.amp.is_autocast_available(kind)


def autocast(*tensors: Tensor) -> list[Tensor]:
    """All but float64 in autocast's dtype where it is on, as they are where it is off.

    Args:
        tensors: of floating point; the first says on which device.
    """
    if not autocasts(tensors[0].device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(tensors[0].device.type)
    return [t if t.dtype == torch.float64 else t.to(dtype) for t in tensors]


def autocast_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype that `autocast` gives a tensor; its own, where it is not of floating point."""
    kept = tensor.dtype == torch.float64 or not tensor.is_floating_point()
    if kept or not autocasts(tensor.device):
        return tensor.dtype
    return torch.get_autocast_dtype(tensor.device.type)


def without_autocast(device: torch.device) -> AbstractContextManager:
    """A context in which autocast leaves a device's tensors as they are."""
    return torch.autocast(device.type, enabled=False) if autocasts(device) else nullcontext()
