"""nn.RNN's cells: one gate, h = tanh(a) or max(a, 0); the state c is h, not yet rounded.

`fused_lstm.pointwise` is the same in plain PyTorch.
"""

from __future__ import annotations

import triton.language as tl

from ..helper import helper
from . import Cell
from .activation import tanh


@helper
def combine(by_x, by_h, h_bias):
    return (by_x[0] + by_h[0],)


@helper
def forward_tanh(gates, c, options, HAS: tl.constexpr):
    """Return the activated gate, h, and h again as the state, of the gate before activation."""
    h = tanh(gates[0])
    return (h,), h, h


@helper
def forward_relu(gates, c, options, HAS: tl.constexpr):
    h = tl.maximum(gates[0], 0.0, propagate_nan=tl.PropagateNan.ALL)
    return (h,), h, h


@helper
def made(gates, c, c_next, options, HAS: tl.constexpr):
    return gates[0]


@helper
def output(gates, seen):
    return gates[0]


@helper
def output_backward(gates, seen, dh):
    """Return zero for the output gate, which an RNN lacks, and all of dh for the state."""
    return tl.zeros_like(dh), dh


@helper
def backward_tanh(gates, c, dc_next, do, dmade, options, HAS: tl.constexpr):
    """Return the gradient by the gate, twice, and zero for the state before.

    The state before the step enters only through the product with w_hh.
    """
    da = (dc_next + dmade) * (1.0 - gates[0] * gates[0])
    return (da,), (da,), tl.zeros_like(da)


@helper
def backward_relu(gates, c, dc_next, do, dmade, options, HAS: tl.constexpr):
    da = tl.where(gates[0] > 0, dc_next + dmade, 0.0)
    return (da,), (da,), tl.zeros_like(da)


RNN_TANH = Cell(
    "rnn_tanh", 1, 1, False, combine, forward_tanh, made, output, output_backward, backward_tanh
)
RNN_RELU = Cell(
    "rnn_relu", 1, 1, False, combine, forward_relu, made, output, output_backward, backward_relu
)
