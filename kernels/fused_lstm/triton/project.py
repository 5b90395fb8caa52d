"""A projected h inside the sweeps: h = w_hr . m, where m = o * tanh(c) is what the cell gives.

Between a step's two meetings all programs exchange m, in the backward dh, in `between`; each then
multiplies rows of w_hr, in the backward of w_hr^T, by all of it. Names as in sweep.py.
"""

from __future__ import annotations

import triton.language as tl

from . import barrier, lanes, outputs, product
from .helper import helper


@helper
def load(w_ptrs, between_ptr, lane, block, part, SIZE: tl.constexpr, PLAN: tl.constexpr):
    """A program's rows, of SIZE that there are, and its lane's part of what they multiply."""
    first = block * PLAN.UNITS + part * PLAN.OWN
    row = first.to(tl.int64) + tl.arange(0, PLAN.OWN)
    weight = lanes.load_weight(w_ptrs, lane, 0, row, row < SIZE, PLAN.W_HR, PLAN)
    return (weight, first < SIZE), between_ptr + lane.to(tl.int64) * PLAN.W_HR.SLOT


@helper
def multiply(rows, between_ptr, batch, PLAN: tl.constexpr):
    """[OWN, BLOCK_B]: a program's rows times a block of what all have exchanged."""
    weight, has_any = rows
    acc = tl.full((PLAN.OWN, PLAN.BLOCK_B), 0.0, PLAN.ACC)
    if has_any:
        acc = product.product(acc, weight, between_ptr + batch * PLAN.W_HR.TILE, PLAN.W_HR, PLAN)
    return acc


@helper
def meet(barrier_ptr, wave, programs, PLAN: tl.constexpr):
    """The first of a wave's two meetings; lanes.meet is the second."""
    if PLAN.ROWS:
        barrier.arrive(barrier_ptr, PLAN.PERSISTENT)
    barrier.wait(barrier_ptr, (2 * wave + 1) * programs, PLAN.PERSISTENT)


@helper
def gather(meeting, sent, here, unit, alive, first_batch, wave, steps, PLAN: tl.constexpr):
    """dh(t) whole, for all programs to multiply and for w_hr's gradient; then they meet."""
    between_ptr, dh_ptr, all_ptr, programs = meeting
    _, _, first = here
    for turn in range(lanes.turns(alive, first_batch, PLAN.GATHERS, PLAN)):
        batch = first_batch + turn
        b, mask, at, slot_at = lanes.block_of(batch, unit, alive, PLAN.P, PLAN.W_HR, PLAN)
        dh = outputs.whole_dh(sent, here, b, unit, mask, wave, turn, steps, PLAN)
        dh = dh.to(dh_ptr.dtype.element_ty)
        tl.store(between_ptr + slot_at, dh, mask=mask)
        lanes.arrive(all_ptr, turn, PLAN)  # the others wait for dh alone
        tl.store(dh_ptr + first * PLAN.P + at, dh, mask=mask)
    meet(all_ptr, wave, programs, PLAN)
