"""Printed by fused_lstm.cells.generate from cells/rnn.py. Do not edit."""

import triton.language as tl

from fused_lstm.triton.cells import KernelCell
from fused_lstm.triton.cells.functions import relu
from fused_lstm.triton.helper import helper


@helper
def step(by_x, by_h, h_bias, states, options, HAS: tl.constexpr):
    gate_a = by_x[0] + by_h[0]
    v6 = relu(gate_a)
    return v6, (v6,), ()


@helper
def backward(saved, states, after, dh, dafter, options, HAS: tl.constexpr):
    dh = dh + dafter[0]
    v6 = after[0]
    v7 = v6 <= 0.0
    v8 = tl.where(v7, 0.0, dh)
    return (v8,), (v8,), (tl.zeros_like(dh),), ()


CELL = KernelCell("rnn_relu", step, backward, sums=1, of_x=0, of_h=0, saved=0, states=1)
