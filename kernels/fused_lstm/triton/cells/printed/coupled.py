"""Printed by fused_lstm.cells.generate from cells/coupled.py. Do not edit."""

import triton.language as tl

from fused_lstm.triton.cells import KernelCell
from fused_lstm.triton.cells.activation import sigmoid, tanh
from fused_lstm.triton.helper import helper


@helper
def step(by_x, by_h, h_bias, states, options, HAS: tl.constexpr):
    gate_i = by_x[0] + by_h[0]
    gate_g = by_x[1] + by_h[1]
    gate_o = by_x[2] + by_h[2]
    state_c = states[0]
    v10 = sigmoid(gate_i)
    v11 = tanh(gate_g)
    v12 = sigmoid(gate_o)
    v13 = 1.0 - v10
    v14 = state_c * v13
    v15 = v10 * v11
    v16 = v14 + v15
    v17 = tanh(v16)
    v18 = v12 * v17
    return v18, (v16,), (v10, v11, v12)


@helper
def backward(saved, states, after, dh, dafter, options, HAS: tl.constexpr):
    state_c = states[0]
    dstate_c = dafter[0]
    v10 = saved[0]
    v11 = saved[1]
    v12 = saved[2]
    v13 = 1.0 - v10
    v16 = after[0]
    v17 = tanh(v16)
    v19 = dh * v12
    v20 = dh * v17
    v21 = v17 * v17
    v22 = 1.0 - v21
    v23 = v19 * v22
    v24 = dstate_c + v23
    v25 = v10 * v24
    v26 = v11 * v24
    v27 = v13 * v24
    v28 = state_c * v24
    v30 = v26 - v28
    v31 = 1.0 - v12
    v32 = v12 * v31
    v33 = v20 * v32
    v34 = v11 * v11
    v35 = 1.0 - v34
    v36 = v25 * v35
    v37 = v10 * v13
    v38 = v30 * v37
    return (v38, v36, v33), (v38, v36, v33), (v27,), ()


CELL = KernelCell("coupled", step, backward, sums=3, of_x=0, of_h=0, saved=3, states=1)
