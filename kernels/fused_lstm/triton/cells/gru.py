"""nn.GRU's cell: gates m, r, z, n, where m is what h makes of n; the state c is h, not yet rounded.

Its functions are those of cells/lstm.py, with nothing added. `fused_lstm.pointwise` is the same in
plain PyTorch.
"""

from __future__ import annotations

import triton.language as tl

from ..helper import helper
from . import Cell
from .activation import sigmoid, tanh


@helper
def forward(gates, c, added, HAS: tl.constexpr):
    """Gates before activation and c -> the activated gates, what is made of c, and c_next."""
    m, r, z, n = gates
    r, z = sigmoid(r), sigmoid(z)
    n = tanh(n + r * m)
    c_next = n + z * (c - n)
    return (m, r, z, n), c_next, c_next


@helper
def made(gates, c, c_next, added, HAS: tl.constexpr):
    return c_next


@helper
def output(gates, seen):
    return seen


@helper
def output_backward(gates, seen, dh):
    """There is no output gate: all of dh goes to c_next."""
    return tl.zeros_like(dh), dh


@helper
def backward(gates, c, dc_next, do, dmade, added, HAS: tl.constexpr):
    """Activated gates, c, the gradients by c_next and by h -> those by the gates before activation,
    and by c.
    """
    m, r, z, n = gates
    dc_next += dmade
    dz = dc_next * (c - n) * z * (1.0 - z)
    dn = dc_next * (1.0 - z) * (1.0 - n * n)
    dr = dn * m * r * (1.0 - r)
    return (dn * r, dr, dz, dn), dc_next * z


GRU = Cell("gru", forward, made, output, output_backward, backward)
