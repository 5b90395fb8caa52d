"""A projected h: h = w_hr . m, where m = o * tanh(c) is the cell's output.

Between a step's two meetings all programs exchange m, in the backward dh, in `between`; each then
multiplies rows of w_hr, in the backward of w_hr^T, by all of it. Names as in position.py.
"""

from __future__ import annotations

import triton.language as tl

from . import tile
from .helper import helper


@helper
def load_weight(w_ptr, first, SIZE: tl.constexpr, PLAN: tl.constexpr):
    """Load a program's OWN rows of w_hr, or of its transpose, from row `first` on, of SIZE rows.

    Return also whether the program has any row.
    """
    row = first.to(tl.int64) + tl.arange(0, PLAN.OWN)
    return tile.load_weight(w_ptr, row, row < SIZE, PLAN.W_HR, PLAN), first < SIZE


@helper
def multiply(w_hr, between_ptr, step, batch, PLAN: tl.constexpr):
    """Multiply a program's rows by a block of the exchanged vectors: [OWN, BLOCK_B]."""
    weight, has_rows = w_hr
    acc = tile.zeros(PLAN.OWN, PLAN)
    if has_rows:
        m_ptr = between_ptr + batch * PLAN.W_HR.TILE
        count = tile.count_of(step.alive, batch, PLAN)
        acc = tile.product(acc, weight, (m_ptr,), count, PLAN.W_HR, PLAN)
    return tile.summed(acc, PLAN.OWN, PLAN)
