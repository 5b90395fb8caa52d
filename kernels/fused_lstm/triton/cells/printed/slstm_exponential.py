"""Printed by fused_lstm.cells.generate from cells/slstm.py. Do not edit."""

import triton.language as tl

from fused_lstm.triton.cells import KernelCell
from fused_lstm.triton.cells.activation import sigmoid, tanh
from fused_lstm.triton.helper import helper


@helper
def step(by_x, by_h, h_bias, states, options, HAS: tl.constexpr):
    gate_i = by_x[0] + by_h[0]
    gate_f = by_x[1] + by_h[1]
    gate_z = by_x[2] + by_h[2]
    gate_o = by_x[3] + by_h[3]
    state_c = states[0]
    state_n = states[1]
    state_m = states[2]
    v15 = gate_f + state_m
    v16 = v15 - gate_i
    v17 = v16 > 0.0
    v18 = state_n != 0.0
    v19 = v17 & v18
    v20 = tl.where(v19, v15, gate_i)
    v22 = tl.where(v17, tl.zeros_like(v16) + -1.0, 1.0)
    v23 = v16 * v22
    v24 = tl.exp(v23)
    v25 = tl.where(v19, v24, 1.0)
    v26 = tl.where(v17, 1.0, v24)
    v27 = state_c * v26
    v28 = tanh(gate_z)
    v29 = v25 * v28
    v30 = v27 + v29
    v31 = state_n * v26
    v32 = v25 + v31
    v33 = sigmoid(gate_o)
    v34 = v30 / v32
    v35 = v33 * v34
    return v35, (v30, v32, v20), (v16, v24, v28, v33)


@helper
def backward(saved, states, after, dh, dafter, options, HAS: tl.constexpr):
    state_c = states[0]
    state_n = states[1]
    dstate_c = dafter[0]
    dstate_n = dafter[1]
    dstate_m = dafter[2]
    v16 = saved[0]
    v17 = v16 > 0.0
    v18 = state_n != 0.0
    v19 = v17 & v18
    v22 = tl.where(v17, tl.zeros_like(v16) + -1.0, 1.0)
    v24 = saved[1]
    v25 = tl.where(v19, v24, 1.0)
    v26 = tl.where(v17, 1.0, v24)
    v28 = saved[2]
    v30 = after[0]
    v32 = after[1]
    v33 = saved[3]
    v34 = v30 / v32
    v36 = dh * v33
    v37 = dh * v34
    v38 = v34 / v32
    v40 = v36 * v38
    v42 = v36 / v32
    v43 = dstate_c + v42
    v44 = dstate_n - v40
    v45 = 1.0 - v33
    v46 = v33 * v45
    v47 = v37 * v46
    v48 = v26 * v44
    v49 = state_n * v44
    v50 = v25 * v43
    v51 = v28 * v43
    v52 = v44 + v51
    v53 = v28 * v28
    v54 = 1.0 - v53
    v55 = v50 * v54
    v56 = v26 * v43
    v57 = state_c * v43
    v58 = v49 + v57
    v59 = tl.where(v17, 0.0, v58)
    v60 = tl.where(v19, v52, 0.0)
    v61 = v59 + v60
    v62 = v24 * v61
    v63 = v22 * v62
    v64 = tl.where(v19, 0.0, dstate_m)
    v65 = tl.where(v19, dstate_m, 0.0)
    v67 = v63 + v65
    v68 = v64 - v63
    return (v68, v67, v55, v47), (v68, v67, v55, v47), (v56, v48, v67), ()


CELL = KernelCell("slstm_exponential", step, backward, sums=4, of_x=0, of_h=0, saved=4, states=3)
