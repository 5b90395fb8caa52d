"""Engine `cudnn`: PyTorch's own nn.LSTM, which is cuDNN on an NVIDIA GPU and oneDNN on a CPU.

And its nn.GRU, which on a CPU is PyTorch's own loop.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import loop
from .cell import PLAIN


def missing(device: torch.device) -> str | None:
    return None


def describe(device: torch.device) -> str:
    if device.type == "cuda" and torch.backends.cudnn.is_available():
        return f"nn.LSTM: cuDNN {torch.backends.cudnn.version()}"
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        return "nn.LSTM: oneDNN for float32 and bfloat16, PyTorch's own loop for float64"
    return "nn.LSTM: PyTorch's own loop"


def lstm(
    x, h0, c0, weights, dropout, fuse,
    directions=1, batch_sizes=None, keep=None, cell=PLAIN, seed=None,
):  # fmt: skip
    if keep is not None:
        raise ValueError(
            "resets: engine 'cudnn' has none; engine='loop' does, triton and native do"
        )
    if batch_sizes is not None and torch.compiler.is_compiling():
        raise ValueError(
            "input: engine 'cudnn' cannot take packed rows, or lengths, in a graph: PyTorch takes"
            " nn.LSTM apart there by their numbers; engine='loop' can, triton and native do"
        )
    if not cell.gru:
        cell, weights = cell.four_gates(weights, c0.shape[-1], len(c0))
    if _is_differentiated_in_a_graph(x, h0, c0, *weights):
        return loop.lstm(x, h0, c0, weights, dropout, fuse, directions, None, None, cell, seed)
    run, state = (torch.gru, h0) if cell.gru else (torch.lstm, (h0, c0))
    layers, has_biases = len(h0) // directions, len(weights) >= 4 * len(h0)
    # What torch.jit.trace sees once may be trained and not.
    train = dropout > 0 or torch.is_grad_enabled() or torch.jit.is_tracing()
    options = list(weights), has_biases, layers, dropout, train, directions == 2
    if batch_sizes is None:
        y, *states = run(x, state, *options, False)
    else:
        rows, batch_sizes = int(batch_sizes.sum()), batch_sizes[batch_sizes > 0]
        y, *states = run(x[:rows], batch_sizes, state, *options)
        y = F.pad(y, (0, 0, 0, len(x) - rows))
    return y, states[0], states[-1]  # a GRU's are one


def _is_differentiated_in_a_graph(*tensors: Tensor) -> bool:
    """Whether torch.compile would take apart an LSTM that needs a backward. The loop is then ours.

    PyTorch makes a loop over steps of it, so ours costs no more; but on a CPU, where x needs no
    gradient, oneDNN's inference, which has none for the others either; and once a model has been
    exported to ONNX with dynamic shapes, a while_loop whose gradients are wrong (torch 2.15).
    """
    traced = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
    return traced and torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
