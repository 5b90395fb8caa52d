"""Engine `cudnn`: PyTorch's own nn.LSTM, which is cuDNN on an NVIDIA GPU and oneDNN on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import loop


def missing(device: torch.device) -> str | None:
    return None


def describe(device: torch.device) -> str:
    if device.type == "cuda" and torch.backends.cudnn.is_available():
        return f"nn.LSTM: cuDNN {torch.backends.cudnn.version()}"
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        return "nn.LSTM: oneDNN for float32 and bfloat16, PyTorch's own loop for float64"
    return "nn.LSTM: PyTorch's own loop"


def lstm(
    x: Tensor, h0: Tensor, c0: Tensor, weights: Sequence[Tensor], dropout: float, fuse: str | None
) -> tuple[Tensor, Tensor, Tensor]:
    if _would_lose_gradients(x, h0, c0, *weights):
        return loop.lstm(x, h0, c0, weights, dropout, fuse)
    num_layers = len(h0)
    has_biases = len(weights) == 4 * num_layers
    # What torch.jit.trace sees once may be trained and not.
    train = dropout > 0 or torch.is_grad_enabled() or torch.jit.is_tracing()
    return torch.lstm(
        x, (h0, c0), list(weights), has_biases, num_layers, dropout, train, False, False
    )


def _would_lose_gradients(x: Tensor, *others: Tensor) -> bool:
    """Whether torch.compile would make an LSTM that has no backward out of one that needs it.

    PyTorch takes an LSTM apart there: into a loop over steps, but on a CPU into oneDNN's inference
    where x needs no gradient, whatever else does (torch 2.15). The loop is then ours.
    """
    traced = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
    lost = x.device.type == "cpu" and not x.requires_grad and any(t.requires_grad for t in others)
    return traced and torch.is_grad_enabled() and lost
