"""nn.GRU's cell: gates r, z, n; the state c is h, not yet rounded.

h's part of n is a column of its own, since r comes between it and x's part: it is m, the first of
the columns m, r, z, n. Zoneout keeps the same part of h and of c. `fused_lstm.pointwise` is the
same in plain PyTorch.
"""

from __future__ import annotations

import triton.language as tl

from ..helper import helper
from . import Cell
from .activation import sigmoid, tanh


@helper
def combine(by_x, by_h, h_bias):
    r, z, n = by_x
    return by_h[2] + h_bias, r + by_h[0], z + by_h[1], n


@helper
def forward(gates, c, options, HAS: tl.constexpr):
    """Return the activated columns, c_next as the state that h sees, and c_next.

    gates: the columns before activation. c: before the step.
    """
    m, r, z, n = gates
    r, z = sigmoid(r), sigmoid(z)
    n = tanh(n + r * m)
    c_next = n + z * (c - n)
    if HAS.ZONE_C:
        c_next = options[2] * c + (1.0 - options[2]) * c_next
    return (m, r, z, n), c_next, c_next


@helper
def made(gates, c, c_next, options, HAS: tl.constexpr):
    return c_next


@helper
def output(gates, seen):
    return seen


@helper
def output_backward(gates, seen, dh):
    """Return zero for the output gate, which a GRU lacks, and all of dh for c_next."""
    return tl.zeros_like(dh), dh


@helper
def backward(gates, c, dc_next, do, dmade, options, HAS: tl.constexpr):
    """Return the gradients by the gates' parts by x, by their parts by h, and by c.

    They are computed from the activated columns, c, and the gradients by c_next and by h.
    """
    m, r, z, n = gates
    dc_next += dmade
    dc_kept = dc_next
    if HAS.ZONE_C:
        dc_kept = dc_next * options[2]
        dc_next -= dc_kept
    dz = dc_next * (c - n) * z * (1.0 - z)
    dn = dc_next * (1.0 - z) * (1.0 - n * n)
    dr = dn * m * r * (1.0 - r)
    dc = dc_next * z
    if HAS.ZONE_C:
        dc += dc_kept
    return (dr, dz, dn), (dr, dz, dn * r), dc


GRU = Cell("gru", 3, 4, True, combine, forward, made, output, output_backward, backward)
