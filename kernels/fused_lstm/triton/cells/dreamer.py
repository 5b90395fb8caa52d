"""DreamerV3's GRU: gates r, a, u; the state c is h, not yet rounded.

The reset gate multiplies all of a, x's part too, so that gates are plain sums. What is saved of a
step are four columns: r, a before activation, u and n. `fused_lstm.pointwise` is the same in plain
PyTorch. It has none of the options.
"""

from __future__ import annotations

import triton.language as tl

from ..helper import helper
from . import Cell
from .activation import sigmoid, tanh
from .gru import made, output, output_backward


@helper
def combine(by_x, by_h, h_bias):
    r, a, u = by_x
    return r + by_h[0], a + by_h[1], u + by_h[2]


@helper
def forward(gates, c, options, HAS: tl.constexpr):
    """Return the saved columns, c_next as the state that h sees, and c_next."""
    r, a, u = gates
    r, u = sigmoid(r), sigmoid(u - 1.0)
    n = tanh(r * a)
    c_next = c + u * (n - c)
    return (r, a, u, n), c_next, c_next


@helper
def backward(gates, c, dc_next, do, dmade, options, HAS: tl.constexpr):
    """Return the gradients by the gates' parts by x, by their parts by h, and by c."""
    r, a, u, n = gates
    dc_next += dmade
    dn = dc_next * u * (1.0 - n * n)
    dr = dn * a * r * (1.0 - r)
    du = dc_next * (n - c) * u * (1.0 - u)
    dgates = dr, dn * r, du
    return dgates, dgates, dc_next * (1.0 - u)


DREAMER = Cell(
    "gru_dreamer", 3, 4, False, combine, forward, made, output, output_backward, backward
)
