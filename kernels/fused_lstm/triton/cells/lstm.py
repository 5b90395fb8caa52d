"""The LSTM's cell: gates i, f, g, o, and the state c; with peepholes, a mask on g and c's zoneout.

added: (peepholes of i, f and o, what g is multiplied by, how much of c is kept), each where HAS
(launch.Has) it. `fused_lstm.pointwise` is the same in plain PyTorch.
"""

from __future__ import annotations

import triton.language as tl

from ..helper import helper
from . import Cell
from .activation import sigmoid, tanh


@helper
def forward(gates, c, added, HAS: tl.constexpr):
    """Gates before activation and c -> the activated gates, h and c_next."""
    i, f, g, o = gates
    peepholes, multiplier, kept = added
    if HAS.PEEPHOLE:
        i, f = i + peepholes[0] * c, f + peepholes[1] * c
    i, f, g = sigmoid(i), sigmoid(f), tanh(g)
    c_next = f * c + i * (g * multiplier if HAS.CANDIDATE else g)
    if HAS.PEEPHOLE:
        o += peepholes[2] * c_next
    o = sigmoid(o)
    h = o * tanh(c_next)
    if HAS.ZONE_C:
        c_next = kept * c + (1.0 - kept) * c_next
    return (i, f, g, o), h, c_next


@helper
def backward(gates, c, c_next, dh, dc_next, added, HAS: tl.constexpr):
    """Activated gates, c, c_next, dh and dc_next -> gradients by the gates before it, and dc."""
    i, f, g, o = gates
    peepholes, multiplier, kept = added
    i_by, g_by = i, g
    if HAS.CANDIDATE:
        i_by, g_by = i * multiplier, g * multiplier
    if HAS.ZONE_C:  # c_next has become another one since: what the step proposed is made again
        c_next = f * c + i * g_by
        dc_kept = dc_next * kept
        dc_next -= dc_kept
    tanh_c = tanh(c_next)
    do = dh * tanh_c * o * (1.0 - o)
    dc_next += dh * o * (1.0 - tanh_c * tanh_c)
    if HAS.PEEPHOLE:
        dc_next += do * peepholes[2]
    di = dc_next * g_by * i * (1.0 - i)
    df = dc_next * c * f * (1.0 - f)
    dg = dc_next * i_by * (1.0 - g * g)
    dc = dc_next * f
    if HAS.PEEPHOLE:
        dc += di * peepholes[0] + df * peepholes[1]
    if HAS.ZONE_C:
        dc += dc_kept
    return (di, df, dg, do), dc


LSTM = Cell("lstm", forward, backward)
