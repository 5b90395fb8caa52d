"""A step's h on its way out, and the gradient by it on its way in: once each an element and step.

Names as in sweep.py; drawn is (option_ptrs, rates, first_lane).
"""

from __future__ import annotations

import triton.language as tl

from . import added, barrier, lanes, philox, product
from .helper import helper


@helper
def output_of(t, lane, first, b, unit, steps, PLAN: tl.constexpr):
    """Where a block of the top lane's step t is in y and dy [N, P]; or of either lane of both
    directions, which are side by side in [N, 2P].
    """
    _, B, _ = steps
    row = (first - lanes.first_row(lane, steps, PLAN) + b)[None, :]
    if PLAN.BOTH:
        found = row * (2 * PLAN.P) + lane * PLAN.P + unit[:, None]
    elif PLAN.ROWS:
        found = row * PLAN.P + unit[:, None]
    else:
        found = t * B * PLAN.P + (b[None, :] * PLAN.P + unit[:, None])
    return found


@helper
def hand_out(out_ptrs, h, here, turn, batch, unit, alive, drawn, steps, PLAN: tl.constexpr):
    """A block of h(t): to the programs that wait for it, and then to y, or of a chain's lower lanes
    to `h_ptr`.
    """
    own_ptr, up_ptr, h_ptr, y_ptr, all_ptr = out_ptrs
    t, lane, first = here
    after = ((t & 1) ^ 1) * PLAN.W_HH.SLOT
    b, mask, at, slot_at = lanes.block_of(batch, unit, alive, PLAN.P, PLAN.W_HH, PLAN)
    if PLAN.HAS.ZONE_H:
        h = added.zone_out(h, drawn, here, b, unit, at, mask, steps, PLAN)
    h = h.to(y_ptr.dtype.element_ty)
    fed = added.fed(h, drawn, lane, at, mask, steps, PLAN) if PLAN.HAS.RECURRENT else h
    tl.store(own_ptr + after + slot_at, fed, mask=mask)
    if PLAN.UP:
        up = h
        if PLAN.DROPOUT:
            option_ptrs, rates, _ = drawn
            up = h * philox.multiplier(option_ptrs[0], first * PLAN.P + at, rates[0], rates[1])
        tl.store(up_ptr + after + slot_at, up.to(h.dtype), mask=mask)
    lanes.arrive(all_ptr, turn, PLAN)  # the others wait for h alone
    if PLAN.BOTH:
        out_ptr = y_ptr + output_of(t, lane, first, b, unit, steps, PLAN)
    else:
        y_ptr -= lanes.first_row(lane, steps, PLAN) * PLAN.P
        out_ptr = tl.where(lane == PLAN.LANES - 1, y_ptr, h_ptr)
        out_ptr += first * PLAN.P + (b[None, :] * PLAN.P + unit[:, None])
    tl.store(out_ptr, h, mask=mask)


@helper
def whole_dh(sent, here, b, unit, mask, wave, turn, steps, PLAN: tl.constexpr):
    """A block's dh of step t: what was given, and what the programs that share the block have
    summed, for which the first turn waits. Of a zoneout, what is left for the step itself.
    """
    dy_ptr, dh_n_ptr, partial_ptr, block_ptr, last, drawn = sent
    t, lane, first = here
    T, B, _ = steps
    at = b[None, :] * PLAN.P + unit[:, None]
    given = mask & (b < tl.where(t == T - 1, last, 0))[None, :]
    if PLAN.ROWS:  # a row ends with this step where it is not alive in the next
        alive, _, _, _ = lanes.place(t + 1, lane, steps, PLAN)
        given = mask & (b >= alive)[None, :]
    dh = tl.load(dh_n_ptr + (lane * B * PLAN.P + at), mask=given, other=0.0).to(PLAN.ACC)
    top = tl.where(lane == PLAN.LANES - 1, B, 0) if PLAN.CHAIN else B
    dy_at = output_of(t, lane, first, b, unit, steps, PLAN)
    dh += tl.load(dy_ptr + dy_at, mask=mask & (b < top)[None, :], other=0.0).to(PLAN.ACC)
    if turn == 0:
        barrier.wait(block_ptr, (wave + 1) * PLAN.SPLIT, PLAN.PERSISTENT)
    dh += product.sum_partials(partial_ptr + at, B * PLAN.P, mask, PLAN.SPLIT)
    if PLAN.HAS.ZONE_H:
        dh = added.zone_back(dh, drawn, here, b, unit, at, mask, steps, PLAN)
    return dh
