"""Registers this package's kernels as torch.ops.fused_lstm_triton; imported once, for that."""

from __future__ import annotations

from .. import ops
from . import interpreter, philox, pointwise, spread

if interpreter.is_interpreted():
    interpreter.announce()

ops.implement(
    "triton",
    {
        "cell": pointwise.cell,
        "cell_backward": pointwise.cell_backward,
        "lstm": spread.lstm,
        "lstm_backward": spread.lstm_backward,
        "dropout": philox.dropout,
    },
)
