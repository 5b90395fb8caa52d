"""Engine `cudnn`: PyTorch's own layers.

nn.LSTM is cuDNN on an NVIDIA GPU and oneDNN on a CPU. nn.GRU and nn.RNN are cuDNN and, on a CPU,
a loop in PyTorch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..call.record import Call
from ..reference import pointwise


def missing(device: torch.device) -> str | None:
    return None


def describe(device: torch.device) -> str:
    if device.type == "cuda" and torch.backends.cudnn.is_available():
        return f"nn.LSTM: cuDNN {torch.backends.cudnn.version()}"
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        return "nn.LSTM: oneDNN for float32 and bfloat16, PyTorch's own loop for float64"
    return "nn.LSTM: PyTorch's own loop"


RUN = {"gru": torch.gru, "rnn_tanh": torch.rnn_tanh, "rnn_relu": torch.rnn_relu}


def run(call: Call) -> tuple[Tensor, ...]:
    """Run a call, as in fused_lstm.call.choose, without resets or the states of every step."""
    spec, x, h0, weights, batch_sizes = call.spec, call.x, call.h0, call.weights, call.batch_sizes
    if batch_sizes is not None and torch.compiler.is_compiling():
        raise ValueError(
            "input: got packed rows, or lengths, in a graph with engine='cudnn', which PyTorch"
            " cannot trace; expected engine 'loop', 'triton' or 'native'"
        )
    if spec.coupled:
        names = spec.weight_names * len(h0)  # only weight_hr has no gates
        pairs = zip(names, weights, strict=True)
        weights = [w if name == "weight_hr" else pointwise.four_gates(w) for name, w in pairs]
        spec = replace(spec, coupled=False)
    torchs: Any = torch.lstm if spec.has_c else RUN[spec.cell]
    state = (h0, call.c0) if spec.has_c else h0
    # torch.jit.trace sees a call once, which may be trained later.
    train = spec.dropout > 0 or torch.is_grad_enabled() or torch.jit.is_tracing()
    options = spec.bias, spec.layers, spec.dropout, train, spec.directions == 2
    if batch_sizes is None:
        y, *last = torchs(x, state, list(weights), *options, False)
    else:
        rows, batch_sizes = int(batch_sizes.sum()), batch_sizes[batch_sizes > 0]
        y, *last = torchs(x[:rows], batch_sizes, state, list(weights), *options)
        y = F.pad(y, (0, 0, 0, len(x) - rows))
    return y, last[0], last[-1]  # a GRU and an RNN return h_n alone
