"""The LSTM's cell: gates i, f, g, o, and the state c; with peepholes, a mask on g and c's zoneout.

options: (peepholes of i, f and o, the multiplier of g, the part of c that is kept), each where HAS
(launch.Has) it. `fused_lstm.pointwise` is the same in plain PyTorch.
"""

from __future__ import annotations

import triton.language as tl

from ..helper import helper
from . import Cell
from .activation import sigmoid, tanh


@helper
def combine(by_x, by_h, h_bias):
    i, f, g, o = by_x
    return i + by_h[0], f + by_h[1], g + by_h[2], o + by_h[3]


@helper
def forward(gates, c, options, HAS: tl.constexpr):
    """Return the activated gates, the new c before zoneout, and c_next.

    gates: before activation. c: before the step.
    """
    i, f, g, o = gates
    peepholes, multiplier, kept = options
    if HAS.PEEPHOLES:
        i, f = i + peepholes[0] * c, f + peepholes[1] * c
    i, f, g = sigmoid(i), sigmoid(f), tanh(g)
    made = f * c + i * (g * multiplier if HAS.CANDIDATE else g)
    if HAS.PEEPHOLES:
        o += peepholes[2] * made
    c_next = made
    if HAS.ZONE_C:
        c_next = kept * c + (1.0 - kept) * made
    return (i, f, g, sigmoid(o)), made, c_next


@helper
def made(gates, c, c_next, options, HAS: tl.constexpr):
    """Return the new c of a step before zoneout.

    gates: the step's activated gates. c: before the step. c_next: after it, with zoneout.
    """
    if HAS.ZONE_C:
        i, f, g, _ = gates
        c_next = f * c + i * (g * options[1] if HAS.CANDIDATE else g)
    return c_next


@helper
def output(gates, seen):
    """Return h, of the activated gates and the c that h sees."""
    return gates[3] * tanh(seen)


@helper
def output_backward(gates, seen, dh):
    """Return the gradients by the output gate before activation and by the c that h sees."""
    o, tanh_c = gates[3], tanh(seen)
    return dh * tanh_c * o * (1.0 - o), dh * o * (1.0 - tanh_c * tanh_c)


@helper
def backward(gates, c, dc_next, do, dmade, options, HAS: tl.constexpr):
    """Return the gradients by the gates before activation, twice, and by c.

    They are computed from the activated gates, c, and the gradients by c_next, by the output gate
    and by the c that h saw.
    """
    i, f, g, _ = gates
    peepholes, multiplier, kept = options
    i_by, g_by = i, g
    if HAS.CANDIDATE:
        i_by, g_by = i * multiplier, g * multiplier
    dc_kept = dc_next
    if HAS.ZONE_C:
        dc_kept = dc_next * kept
        dc_next -= dc_kept
    dc_next += dmade
    if HAS.PEEPHOLES:
        dc_next += do * peepholes[2]
    di = dc_next * g_by * i * (1.0 - i)
    df = dc_next * c * f * (1.0 - f)
    dg = dc_next * i_by * (1.0 - g * g)
    dc = dc_next * f
    if HAS.PEEPHOLES:
        dc += di * peepholes[0] + df * peepholes[1]
    if HAS.ZONE_C:
        dc += dc_kept
    return (di, df, dg, do), (di, df, dg, do), dc


LSTM = Cell("lstm", 4, 4, False, combine, forward, made, output, output_backward, backward)
