"""Printed by fused_lstm.cells.generate from cells/gru_dreamer.py. Do not edit."""

import triton.language as tl

from fused_lstm.triton.cells import KernelCell
from fused_lstm.triton.cells.activation import sigmoid, tanh
from fused_lstm.triton.helper import helper


@helper
def step(by_x, by_h, h_bias, states, options, HAS: tl.constexpr):
    gate_r = by_x[0] + by_h[0]
    gate_a = by_x[1] + by_h[1]
    gate_u = by_x[2] + by_h[2]
    state_h = states[0]
    v10 = sigmoid(gate_r)
    v11 = gate_a * v10
    v12 = tanh(v11)
    v13 = gate_u - 1.0
    v14 = sigmoid(v13)
    v15 = v12 - state_h
    v16 = v14 * v15
    v17 = state_h + v16
    return v17, (v17,), (gate_a, v10, v12, v14)


@helper
def backward(saved, states, after, dh, dafter, options, HAS: tl.constexpr):
    gate_a = saved[0]
    state_h = states[0]
    dstate_h = dafter[0]
    v10 = saved[1]
    v12 = saved[2]
    v14 = saved[3]
    v15 = v12 - state_h
    v18 = dh + dstate_h
    v19 = v14 * v18
    v20 = v15 * v18
    v22 = v18 - v19
    v23 = 1.0 - v14
    v24 = v14 * v23
    v25 = v20 * v24
    v26 = v12 * v12
    v27 = 1.0 - v26
    v28 = v19 * v27
    v29 = v10 * v28
    v30 = gate_a * v28
    v31 = 1.0 - v10
    v32 = v10 * v31
    v33 = v30 * v32
    return (v33, v29, v25), (v33, v29, v25), (v22,), ()


CELL = KernelCell("gru_dreamer", step, backward, sums=3, of_x=0, of_h=0, saved=4, states=1)
