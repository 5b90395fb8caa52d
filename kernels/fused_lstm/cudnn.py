"""Engine `cudnn`: PyTorch's own nn.LSTM, which is cuDNN on an NVIDIA GPU and oneDNN on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
    num_layers = len(h0)
    has_biases, train = len(weights) == 4 * num_layers, dropout > 0 or torch.is_grad_enabled()
    return torch.lstm(
        x, (h0, c0), list(weights), has_biases, num_layers, dropout, train, False, False
    )
