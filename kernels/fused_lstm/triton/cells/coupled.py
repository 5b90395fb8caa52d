"""The LSTM's cell with coupled gates: i, g, o, and the forget gate is 1 - i.

options as in cells/lstm.py; of its peepholes there are two, of i and o.
"""

from __future__ import annotations

import triton.language as tl

from ..helper import helper
from . import Cell
from .activation import sigmoid, tanh


@helper
def combine(by_x, by_h, h_bias):
    i, g, o = by_x
    return i + by_h[0], g + by_h[1], o + by_h[2]


@helper
def forward(gates, c, options, HAS: tl.constexpr):
    """Return the activated gates, the new c before zoneout, and c_next.

    gates: before activation. c: before the step.
    """
    i, g, o = gates
    peepholes, multiplier, kept = options
    if HAS.PEEPHOLES:
        i += peepholes[0] * c
    i, g = sigmoid(i), tanh(g)
    made = (1.0 - i) * c + i * (g * multiplier if HAS.CANDIDATE else g)
    if HAS.PEEPHOLES:
        o += peepholes[1] * made
    c_next = made
    if HAS.ZONE_C:
        c_next = kept * c + (1.0 - kept) * made
    return (i, g, sigmoid(o)), made, c_next


@helper
def made(gates, c, c_next, options, HAS: tl.constexpr):
    """Return the new c of a step before zoneout.

    gates: the step's activated gates. c: before the step. c_next: after it, with zoneout.
    """
    if HAS.ZONE_C:
        i, g, _ = gates
        c_next = (1.0 - i) * c + i * (g * options[1] if HAS.CANDIDATE else g)
    return c_next


@helper
def output(gates, seen):
    """Return h, of the activated gates and the c that h sees."""
    return gates[2] * tanh(seen)


@helper
def output_backward(gates, seen, dh):
    """Return the gradients by the output gate before activation and by the c that h sees."""
    o, tanh_c = gates[2], tanh(seen)
    return dh * tanh_c * o * (1.0 - o), dh * o * (1.0 - tanh_c * tanh_c)


@helper
def backward(gates, c, dc_next, do, dmade, options, HAS: tl.constexpr):
    """Return the gradients that cells/lstm.py's backward returns, for coupled gates.

    di is the gradient that reaches i through g, less the gradient through its share 1 - i of c.
    """
    i, g, _ = gates
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
        dc_next += do * peepholes[1]
    di = dc_next * (g_by - c) * i * (1.0 - i)
    dg = dc_next * i_by * (1.0 - g * g)
    dc = dc_next * (1.0 - i)
    if HAS.PEEPHOLES:
        dc += di * peepholes[0]
    if HAS.ZONE_C:
        dc += dc_kept
    return (di, dg, do), (di, dg, do), dc


COUPLED = Cell("coupled", 3, 3, False, combine, forward, made, output, output_backward, backward)
