"""Printed by fused_lstm.cells.generate from cells/gru.py. Do not edit."""

import triton.language as tl

from fused_lstm.triton.cells import KernelCell
from fused_lstm.triton.cells.activation import sigmoid, tanh
from fused_lstm.triton.helper import helper


@helper
def step(by_x, by_h, h_bias, states, options, HAS: tl.constexpr):
    gate_n_by_h = by_h[2] + h_bias[0]
    gate_r = by_x[0] + by_h[0]
    gate_z = by_x[1] + by_h[1]
    gate_n_by_x = by_x[2]
    state_h = states[0]
    v11 = sigmoid(gate_r)
    v12 = gate_n_by_h * v11
    v13 = gate_n_by_x + v12
    v14 = tanh(v13)
    v15 = sigmoid(gate_z)
    v16 = state_h - v14
    v17 = v15 * v16
    v18 = v14 + v17
    return v18, (v18,), (gate_n_by_h, v11, v14, v15)


@helper
def backward(saved, states, after, dh, dafter, options, HAS: tl.constexpr):
    gate_n_by_h = saved[0]
    state_h = states[0]
    dstate_h = dafter[0]
    v11 = saved[1]
    v14 = saved[2]
    v15 = saved[3]
    v16 = state_h - v14
    v19 = dh + dstate_h
    v20 = v15 * v19
    v21 = v16 * v19
    v23 = v19 - v20
    v24 = 1.0 - v15
    v25 = v15 * v24
    v26 = v21 * v25
    v27 = v14 * v14
    v28 = 1.0 - v27
    v29 = v23 * v28
    v30 = v11 * v29
    v31 = gate_n_by_h * v29
    v32 = 1.0 - v11
    v33 = v11 * v32
    v34 = v31 * v33
    return (v34, v26, v29), (v34, v26, v30), (v20,), ()


CELL = KernelCell("gru", step, backward, sums=2, of_x=1, of_h=1, saved=4, states=1)
