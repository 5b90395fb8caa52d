"""Printed by fused_lstm.cells.generate from cells/slstm.py. Do not edit."""

import triton.language as tl

from fused_lstm.triton.cells import Cell
from fused_lstm.triton.cells.activation import sigmoid, tanh
from fused_lstm.triton.cells.functions import log_sigmoid
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
    v15 = log_sigmoid(gate_f)
    v16 = state_m + v15
    v17 = state_n == 0.0
    v19 = tl.where(v17, float("-inf"), v16)
    v20 = v19 - gate_i
    v21 = v20 > 0.0
    v22 = tl.where(v21, v19, gate_i)
    v24 = tl.where(v21, -1.0, 1.0)
    v25 = v20 * v24
    v26 = tl.exp(v25)
    v27 = tl.where(v21, v26, 1.0)
    v28 = tl.where(v21, 1.0, v26)
    v29 = state_c * v28
    v30 = tanh(gate_z)
    v31 = v27 * v30
    v32 = v29 + v31
    v33 = state_n * v28
    v34 = v27 + v33
    v35 = sigmoid(gate_o)
    v36 = v32 / v34
    v37 = v35 * v36
    v72 = -gate_f
    v73 = sigmoid(v72)
    return v37, (v32, v34, v22), (v20, v26, v30, v35, v73)


@helper
def backward(saved, states, after, dh, dafter, options, HAS: tl.constexpr):
    state_c = states[0]
    state_n = states[1]
    dstate_c = dafter[0]
    dstate_n = dafter[1]
    dstate_m = dafter[2]
    v17 = state_n == 0.0
    v20 = saved[0]
    v21 = v20 > 0.0
    v24 = tl.where(v21, -1.0, 1.0)
    v26 = saved[1]
    v27 = tl.where(v21, v26, 1.0)
    v28 = tl.where(v21, 1.0, v26)
    v30 = saved[2]
    v32 = after[0]
    v34 = after[1]
    v35 = saved[3]
    v36 = v32 / v34
    v38 = dh * v35
    v39 = dh * v36
    v40 = v36 / v34
    v42 = v38 * v40
    v44 = v38 / v34
    v45 = dstate_c + v44
    v46 = dstate_n - v42
    v47 = 1.0 - v35
    v48 = v35 * v47
    v49 = v39 * v48
    v50 = v28 * v46
    v51 = state_n * v46
    v52 = v27 * v45
    v53 = v30 * v45
    v54 = v46 + v53
    v55 = v30 * v30
    v56 = 1.0 - v55
    v57 = v52 * v56
    v58 = v28 * v45
    v59 = state_c * v45
    v60 = v51 + v59
    v61 = tl.where(v21, 0.0, v60)
    v62 = tl.where(v21, v54, 0.0)
    v63 = v61 + v62
    v64 = v26 * v63
    v65 = v24 * v64
    v66 = tl.where(v21, 0.0, dstate_m)
    v67 = tl.where(v21, dstate_m, 0.0)
    v69 = v65 + v67
    v70 = v66 - v65
    v71 = tl.where(v17, 0.0, v69)
    v73 = saved[4]
    v74 = v71 * v73
    return (v70, v74, v57, v49), (v70, v74, v57, v49), (v58, v50, v71), ()


CELL = Cell("slstm", step, backward, sums=4, of_x=0, of_h=0, saved=5, states=3)
