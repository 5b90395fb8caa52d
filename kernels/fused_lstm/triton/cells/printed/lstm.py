"""Printed by fused_lstm.cells.generate from cells/lstm.py. Do not edit."""

import triton.language as tl

from fused_lstm.triton.cells import KernelCell
from fused_lstm.triton.cells.activation import sigmoid, tanh
from fused_lstm.triton.helper import helper


@helper
def step(by_x, by_h, h_bias, states, options, HAS: tl.constexpr):
    gate_i = by_x[0] + by_h[0]
    gate_f = by_x[1] + by_h[1]
    gate_g = by_x[2] + by_h[2]
    gate_o = by_x[3] + by_h[3]
    state_c = states[0]
    v11 = sigmoid(gate_i)
    v12 = sigmoid(gate_f)
    v13 = tanh(gate_g)
    v14 = sigmoid(gate_o)
    v15 = state_c * v12
    v16 = v11 * v13
    v17 = v15 + v16
    v18 = tanh(v17)
    v19 = v14 * v18
    return v19, (v17,), (v11, v12, v13, v14)


@helper
def backward(saved, states, after, dh, dafter, options, HAS: tl.constexpr):
    state_c = states[0]
    dstate_c = dafter[0]
    v11 = saved[0]
    v12 = saved[1]
    v13 = saved[2]
    v14 = saved[3]
    v17 = after[0]
    v18 = tanh(v17)
    v20 = dh * v14
    v21 = dh * v18
    v22 = v18 * v18
    v23 = 1.0 - v22
    v24 = v20 * v23
    v25 = dstate_c + v24
    v26 = v11 * v25
    v27 = v13 * v25
    v28 = v12 * v25
    v29 = state_c * v25
    v30 = 1.0 - v14
    v31 = v14 * v30
    v32 = v21 * v31
    v33 = v13 * v13
    v34 = 1.0 - v33
    v35 = v26 * v34
    v36 = 1.0 - v12
    v37 = v12 * v36
    v38 = v29 * v37
    v39 = 1.0 - v11
    v40 = v11 * v39
    v41 = v27 * v40
    return (v41, v38, v35, v32), (v41, v38, v35, v32), (v28,), ()


CELL = KernelCell("lstm", step, backward, sums=4, of_x=0, of_h=0, saved=4, states=1)
