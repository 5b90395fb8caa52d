"""Printed by fused_lstm.cells.generate from cells/slstm.py. Do not edit."""

import triton.language as tl

from fused_lstm.triton.cells import Cell
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
    v21 = -v16
    v22 = tl.where(v17, v21, v16)
    v23 = tl.exp(v22)
    v24 = tl.where(v19, v23, 1.0)
    v25 = tl.where(v17, 1.0, v23)
    v26 = state_c * v25
    v27 = tanh(gate_z)
    v28 = v24 * v27
    v29 = v26 + v28
    v30 = state_n * v25
    v31 = v24 + v30
    v32 = sigmoid(gate_o)
    v33 = v29 / v31
    v34 = v32 * v33
    return v34, (v29, v31, v20), (v16, v23, v27, v32)


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
    v23 = saved[1]
    v24 = tl.where(v19, v23, 1.0)
    v25 = tl.where(v17, 1.0, v23)
    v27 = saved[2]
    v29 = after[0]
    v31 = after[1]
    v32 = saved[3]
    v33 = v29 / v31
    v35 = dh * v32
    v36 = dh * v33
    v37 = v33 / v31
    v39 = v35 * v37
    v41 = v35 / v31
    v42 = dstate_c + v41
    v43 = dstate_n - v39
    v44 = 1.0 - v32
    v45 = v32 * v44
    v46 = v36 * v45
    v47 = v25 * v43
    v48 = state_n * v43
    v49 = v24 * v42
    v50 = v27 * v42
    v51 = v43 + v50
    v52 = v27 * v27
    v53 = 1.0 - v52
    v54 = v49 * v53
    v55 = v25 * v42
    v56 = state_c * v42
    v57 = v48 + v56
    v58 = tl.where(v17, 0.0, v57)
    v59 = tl.where(v19, v51, 0.0)
    v60 = v58 + v59
    v61 = v23 * v60
    v62 = tl.where(v17, 0.0, v61)
    v63 = tl.where(v17, v61, 0.0)
    v65 = v62 - v63
    v66 = tl.where(v19, 0.0, dstate_m)
    v67 = tl.where(v19, dstate_m, 0.0)
    v69 = v65 + v67
    v70 = v66 - v65
    return (v70, v69, v54, v46), (v70, v69, v54, v46), (v55, v47, v69), ()


CELL = Cell("slstm_exponential", step, backward, sums=4, of_x=0, of_h=0, saved=4, states=3)
