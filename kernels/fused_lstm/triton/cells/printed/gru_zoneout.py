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
    zoneout = options[1]
    v12 = sigmoid(gate_r)
    v13 = gate_n_by_h * v12
    v14 = gate_n_by_x + v13
    v15 = tanh(v14)
    v16 = sigmoid(gate_z)
    v17 = state_h - v15
    v18 = v16 * v17
    v19 = v15 + v18
    v20 = state_h - v19
    v21 = zoneout * v20
    v22 = v19 + v21
    return v22, (v22,), (gate_n_by_h, v12, v15, v16)


@helper
def backward(saved, states, after, dh, dafter, options, HAS: tl.constexpr):
    dstate_h, dh = dafter[0] + dh, tl.zeros_like(dh)
    gate_n_by_h = saved[0]
    state_h = states[0]
    zoneout = options[1]
    v12 = saved[1]
    v15 = saved[2]
    v16 = saved[3]
    v17 = state_h - v15
    v23 = dh + dstate_h
    v24 = zoneout * dstate_h
    v27 = v23 - v24
    v28 = v16 * v27
    v29 = v17 * v27
    v31 = v24 + v28
    v32 = v27 - v28
    v33 = 1.0 - v16
    v34 = v16 * v33
    v35 = v29 * v34
    v36 = v15 * v15
    v37 = 1.0 - v36
    v38 = v32 * v37
    v39 = v12 * v38
    v40 = gate_n_by_h * v38
    v41 = 1.0 - v12
    v42 = v12 * v41
    v43 = v40 * v42
    return (v43, v35, v38), (v43, v35, v39), (v31,), ()


CELL = KernelCell("gru_zoneout", step, backward, sums=2, of_x=1, of_h=1, saved=4, states=1)
