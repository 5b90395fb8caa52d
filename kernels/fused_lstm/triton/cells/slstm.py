"""The sLSTM's cell: gates i, f, z, o and the states c, n and m, c and n divided by exp(m).

What is saved of a step are five columns: the derivative of log f by f's sum, then i, f, z and o.
`fused_lstm.pointwise` is the same in plain PyTorch.
"""

from __future__ import annotations

import triton.language as tl

from ..helper import helper
from . import Cell
from .activation import exp, sigmoid, tanh


@helper
def log_one_plus(y):
    """Return log(1 + y) for 0 <= y <= 1: twice the inverse hyperbolic tangent of y / (2 + y)."""
    s = y / (2.0 + y)
    square = s * s
    if y.dtype == tl.float64:
        total = 1.0 / 31 + square * 0.0
        for k in tl.static_range(15):
            total = total * square + 1.0 / (29 - 2 * k)
    else:
        total = 1.0 / 13 + square * 0.0
        for k in tl.static_range(6):
            total = total * square + 1.0 / (11 - 2 * k)
    return 2.0 * s * total


@helper
def log_sigmoid(x):
    return tl.minimum(x, 0.0) - log_one_plus(exp(-tl.abs(x)))


@helper
def step(by_x, by_h, h_bias, states, options, HAS: tl.constexpr):
    i, f, z, o = by_x[0] + by_h[0], by_x[1] + by_h[1], by_x[2] + by_h[2], by_x[3] + by_h[3]
    c, n, m = states
    if HAS.EXPONENTIAL:
        slope, log_f = tl.full(f.shape, 1.0, f.dtype), f + m
    else:
        slope, log_f = sigmoid(-f), log_sigmoid(f) + m
    m_next = tl.where((n == 0.0) | (i >= log_f), i, log_f)
    i, f = exp(i - m_next), exp(tl.minimum(log_f - m_next, 0.0))
    z, o = tanh(z), sigmoid(o)
    c_next, n_next = f * c + i * z, f * n + i
    return o * c_next / n_next, (c_next, n_next, m_next), (slope, i, f, z, o)


@helper
def backward(saved, states, after, dh, dafter, edges, options, HAS: tl.constexpr):
    """Return a step's gradients.

    The gradient by m is not summed up from the gradients by i and f, which cancel. The rest of it
    comes from a loss that reads a state: its gradient by m, less m's part in c and n. The
    rest goes on to i, or by way of f to the m before. dafter has by m only the rest.
    """
    slope, i, f, z, o = saved
    ends, begins_here = edges
    c, n = states[0], states[1]
    n_next = tl.where(after[1] == 0.0, 1.0, after[1])  # where no unit is
    mean = after[0] / n_next
    seen = dh * o / n_next
    dm = dafter[2]
    dm = tl.where(ends, dm - dafter[0] * after[0] - dafter[1] * n_next, dm)
    dc, dn = dafter[0] + seen, dafter[1] - seen * mean
    di = (dc * z + dn) * i
    begins = n == 0.0
    df = tl.where(begins & (f == 1.0), 0.0, (dc * c + dn * n) * f)
    of_i = begins | (i >= f)
    left = tl.where(of_i, 0.0, dm)
    di, df = di + tl.where(of_i, dm, 0.0), df + left
    dgates = di, df * slope, dc * i * (1.0 - z * z), dh * mean * o * (1.0 - o)
    return dgates, dgates, (dc * f, dn * f, tl.where(begins_here, df, left)), ()


SLSTM = Cell("slstm", step, backward, sums=4, saved=5, states=3)
