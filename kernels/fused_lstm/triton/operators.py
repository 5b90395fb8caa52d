"""Registers this package's kernels as torch.ops.fused_lstm_triton; imported once, for that."""

from __future__ import annotations

from ..operator import ops
from . import heads, interpreter, op, philox, pointwise
from .launch import on_their_device

if interpreter.is_interpreted():
    interpreter.announce()

KERNELS = {
    "cell": pointwise.cell,
    "cell_backward": pointwise.cell_backward,
    "lstm": op.lstm,
    "lstm_backward": op.lstm_backward,
    "recurrence": heads.recurrence,
    "recurrence_backward": heads.recurrence_backward,
    "dropout": philox.dropout,
}
GUARDED = {name: on_their_device(kernel) for name, kernel in KERNELS.items()}
ops.implement("triton", GUARDED)
