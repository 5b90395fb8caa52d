"""A projected h inside the sweeps: h = w_hr . m, where m = o * tanh(c) is what the cell gives.

Between a step's two meetings all programs exchange m, in the backward dh, in `between`; each then
multiplies rows of w_hr, in the backward of w_hr^T, by all of it. Names as in sweep.py.
"""

from __future__ import annotations

import triton.language as tl

from . import barrier, lanes, outputs, product
from .helper import helper


@helper
def load(w_ptrs, option_ptrs, lane, block, part, SIZE: tl.constexpr, PLAN: tl.constexpr):
    """Where PROJECTED a program's rows, of SIZE that there are, and its lane's part of what they
    multiply.
    """
    found = 0, 0
    if PLAN.PROJECTED:
        first = block * PLAN.UNITS + part * PLAN.OWN
        row = first.to(tl.int64) + tl.arange(0, PLAN.OWN)
        weight = lanes.load_weight(w_ptrs, lane, 0, row, row < SIZE, PLAN.W_HR, PLAN)
        found = (weight, first < SIZE), option_ptrs[3] + lane.to(tl.int64) * PLAN.W_HR.SLOT
    return found


@helper
def multiply(hr, batch, PLAN: tl.constexpr):
    """[OWN, BLOCK_B]: a program's rows times a block of what all have exchanged."""
    found, between_ptr = hr
    weight, has_any = found
    acc = tl.full((PLAN.OWN, PLAN.BLOCK_B), 0.0, PLAN.ACC)
    if has_any:
        acc = product.product(acc, weight, between_ptr + batch * PLAN.W_HR.TILE, PLAN.W_HR, PLAN)
    return acc


@helper
def meet(barrier_ptr, rounds, programs, PLAN: tl.constexpr):
    """The meeting that a projection needs, by its number; lanes.meet is a wave's last."""
    if PLAN.ROWS:
        barrier.arrive(barrier_ptr, PLAN.PERSISTENT)
    barrier.wait(barrier_ptr, rounds * programs, PLAN.PERSISTENT)


@helper
def hand_out(own, here, unit, alive, first_batch, wave, steps, PLAN: tl.constexpr):
    """They meet; then h(t), of what all have exchanged."""
    out_ptrs, hr, programs, drawn = own
    meet(out_ptrs[4], (wave + 1) * PLAN.MEETINGS - 1, programs, PLAN)
    for turn in range(lanes.turns(alive, first_batch, PLAN.PROJECTS, PLAN)):
        batch = first_batch + turn
        h = multiply(hr, batch, PLAN)
        outputs.hand_out(out_ptrs, h, here, turn, batch, unit, alive, drawn, steps, PLAN)


@helper
def dh_of(hr, batch, sent, here, b, unit, mask, wave, turn, steps, PLAN: tl.constexpr):
    """A block's gradient by what the cell gives."""
    if PLAN.PROJECTED:
        found = multiply(hr, batch, PLAN)
    else:
        found = outputs.whole_dh(sent, here, b, unit, mask, wave, turn, steps, PLAN)
    return found


@helper
def gather(hr, meeting, sent, here, unit, alive, first_batch, wave, steps, PLAN: tl.constexpr):
    """dh(t) whole, for all programs to multiply and for w_hr's gradient; then they meet."""
    option_ptrs, all_ptr, programs, _ = meeting
    dh_ptr = option_ptrs[4]
    _, _, first = here
    for turn in range(lanes.turns(alive, first_batch, PLAN.GATHERS, PLAN)):
        batch = first_batch + turn
        b, mask, at, slot_at = lanes.block_of(batch, unit, alive, PLAN.P, PLAN.W_HR, PLAN)
        dh = outputs.whole_dh(sent, here, b, unit, mask, wave, turn, steps, PLAN)
        dh = dh.to(dh_ptr.dtype.element_ty)
        tl.store(hr[1] + slot_at, dh, mask=mask)
        lanes.arrive(all_ptr, turn, PLAN)  # the others wait for dh alone
        tl.store(dh_ptr + first * PLAN.P + at, dh, mask=mask)
    meet(all_ptr, wave * PLAN.MEETINGS + 1, programs, PLAN)
