"""Engine `cudnn`: PyTorch's own nn.LSTM, which is cuDNN on an NVIDIA GPU and oneDNN on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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


def lstm(x, h0, c0, weights, dropout, fuse, directions=1, batch_sizes=None, keep=None):
    if keep is not None:
        raise ValueError(
            "resets: engine 'cudnn' has none; engine='loop' does, triton and native do"
        )
    if batch_sizes is not None and torch.compiler.is_compiling():
        raise ValueError(
            "input: engine 'cudnn' cannot take packed rows, or lengths, in a graph: PyTorch takes"
            " nn.LSTM apart there by their numbers; engine='loop' can, triton and native do"
        )
    if _would_lose_gradients(x, h0, c0, *weights):
        return loop.lstm(x, h0, c0, weights, dropout, fuse, directions)
    layers, has_biases = len(h0) // directions, len(weights) >= 4 * len(h0)
    # What torch.jit.trace sees once may be trained and not.
    train = dropout > 0 or torch.is_grad_enabled() or torch.jit.is_tracing()
    options = list(weights), has_biases, layers, dropout, train, directions == 2
    if batch_sizes is None:
        return torch.lstm(x, (h0, c0), *options, False)
    rows, batch_sizes = int(batch_sizes.sum()), batch_sizes[batch_sizes > 0]
    y, h_n, c_n = torch.lstm(x[:rows], batch_sizes, (h0, c0), *options)
    return F.pad(y, (0, 0, 0, len(x) - rows)), h_n, c_n


def _would_lose_gradients(x: Tensor, *others: Tensor) -> bool:
    """Whether torch.compile would make an LSTM that has no backward out of one that needs it.

    PyTorch takes an LSTM apart there: into a loop over steps, but on a CPU into oneDNN's inference
    where x needs no gradient, whatever else does (torch 2.15). The loop is then ours.
    """
    traced = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
    lost = x.device.type == "cpu" and not x.requires_grad and any(t.requires_grad for t in others)
    return traced and torch.is_grad_enabled() and lost
