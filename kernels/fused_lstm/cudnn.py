"""Engine `cudnn`: PyTorch's own nn.LSTM, which is cuDNN on an NVIDIA GPU and oneDNN on a CPU.

And its nn.GRU and nn.RNN, which on a CPU are PyTorch's loop.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from . import loop, pointwise


def missing(device: torch.device) -> str | None:
    return None


def describe(device: torch.device) -> str:
    if device.type == "cuda" and torch.backends.cudnn.is_available():
        return f"nn.LSTM: cuDNN {torch.backends.cudnn.version()}"
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        return "nn.LSTM: oneDNN for float32 and bfloat16, PyTorch's own loop for float64"
    return "nn.LSTM: PyTorch's own loop"


RUN = {"gru": torch.gru, "rnn_tanh": torch.rnn_tanh, "rnn_relu": torch.rnn_relu}


def run(spec, x, h0, c0, weights, seed=None, batch_sizes=None, not_reset=None, states=False):
    """Run a call, as in fused_lstm.engines; it has no resets and no states of every step."""
    if batch_sizes is not None and torch.compiler.is_compiling():
        raise ValueError(
            "input: got packed rows, or lengths, in a graph with engine 'cudnn', where PyTorch"
            " takes nn.LSTM apart by their numbers; expected engine 'loop', 'triton' or 'native'"
        )
    if spec.coupled:
        names = spec.weight_names * len(h0)  # weight_hr alone has no gates
        pairs = zip(names, weights, strict=True)
        weights = [w if name == "weight_hr" else pointwise.four_gates(w) for name, w in pairs]
        spec = replace(spec, coupled=False)
    if _is_differentiated_in_a_graph(x, h0, c0, *weights):
        return loop.run(spec, x, h0, c0, weights, seed)
    torchs, state = (torch.lstm, (h0, c0)) if spec.has_c else (RUN[spec.cell], h0)
    # What torch.jit.trace sees once may be trained and not.
    train = spec.dropout > 0 or torch.is_grad_enabled() or torch.jit.is_tracing()
    options = spec.bias, spec.layers, spec.dropout, train, spec.directions == 2
    if batch_sizes is None:
        y, *last = torchs(x, state, list(weights), *options, False)
    else:
        rows, batch_sizes = int(batch_sizes.sum()), batch_sizes[batch_sizes > 0]
        y, *last = torchs(x[:rows], batch_sizes, state, list(weights), *options)
        y = F.pad(y, (0, 0, 0, len(x) - rows))
    return y, last[0], last[-1]  # of a GRU and an RNN one


def _is_differentiated_in_a_graph(*tensors: Tensor) -> bool:
    """Whether torch.compile would take apart an LSTM that needs a backward. The loop is then ours.

    PyTorch makes a loop over steps of it, so ours costs no more; but on a CPU, where x needs no
    gradient, oneDNN's inference, which has none for the others either; and once a model has been
    exported to ONNX with dynamic shapes, a while_loop whose gradients are wrong (torch 2.15).
    """
    traced = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
    return traced and torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
