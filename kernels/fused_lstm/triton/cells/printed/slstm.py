"""Printed by fused_lstm.cells.generate from cells/slstm.py. Do not edit."""

import triton.language as tl

from fused_lstm.triton.cells import KernelCell
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
    v17 = v16 - gate_i
    v18 = v17 > 0.0
    v19 = state_n != 0.0
    v20 = v18 & v19
    v21 = tl.where(v20, v16, gate_i)
    v23 = tl.where(v18, tl.zeros_like(v17) + -1.0, 1.0)
    v24 = v17 * v23
    v25 = tl.exp(v24)
    v26 = tl.where(v20, v25, 1.0)
    v27 = tl.where(v18, 1.0, v25)
    v28 = state_c * v27
    v29 = tanh(gate_z)
    v30 = v26 * v29
    v31 = v28 + v30
    v32 = state_n * v27
    v33 = v26 + v32
    v34 = sigmoid(gate_o)
    v35 = v31 / v33
    v36 = v34 * v35
    v70 = -gate_f
    v71 = sigmoid(v70)
    return v36, (v31, v33, v21), (v17, v25, v29, v34, v71)


@helper
def backward(saved, states, after, dh, dafter, options, HAS: tl.constexpr):
    state_c = states[0]
    state_n = states[1]
    dstate_c = dafter[0]
    dstate_n = dafter[1]
    dstate_m = dafter[2]
    v17 = saved[0]
    v18 = v17 > 0.0
    v19 = state_n != 0.0
    v20 = v18 & v19
    v23 = tl.where(v18, tl.zeros_like(v17) + -1.0, 1.0)
    v25 = saved[1]
    v26 = tl.where(v20, v25, 1.0)
    v27 = tl.where(v18, 1.0, v25)
    v29 = saved[2]
    v31 = after[0]
    v33 = after[1]
    v34 = saved[3]
    v35 = v31 / v33
    v37 = dh * v34
    v38 = dh * v35
    v39 = v35 / v33
    v41 = v37 * v39
    v43 = v37 / v33
    v44 = dstate_c + v43
    v45 = dstate_n - v41
    v46 = 1.0 - v34
    v47 = v34 * v46
    v48 = v38 * v47
    v49 = v27 * v45
    v50 = state_n * v45
    v51 = v26 * v44
    v52 = v29 * v44
    v53 = v45 + v52
    v54 = v29 * v29
    v55 = 1.0 - v54
    v56 = v51 * v55
    v57 = v27 * v44
    v58 = state_c * v44
    v59 = v50 + v58
    v60 = tl.where(v18, 0.0, v59)
    v61 = tl.where(v20, v53, 0.0)
    v62 = v60 + v61
    v63 = v25 * v62
    v64 = v23 * v63
    v65 = tl.where(v20, 0.0, dstate_m)
    v66 = tl.where(v20, dstate_m, 0.0)
    v68 = v64 + v66
    v69 = v65 - v64
    v71 = saved[4]
    v72 = v68 * v71
    return (v69, v72, v56, v48), (v69, v72, v56, v48), (v57, v49, v68), ()


CELL = KernelCell("slstm", step, backward, sums=4, of_x=0, of_h=0, saved=5, states=3)
