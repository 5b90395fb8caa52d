"""What a cell has in a step beside nn.LSTM's, inside the sweeps: peepholes, masks, zoneout.

Names as in sweep.py; drawn is (option_ptrs, rates, first_lane), PLAN.HAS launch.Has. Masks are
drawn by counter where they are needed, in the backward again; docs/cells.md has the numbers.

RATES, of floats: p and 1 / (1 - p) of the dropout between lanes, the same of that of g; the
probabilities that h and c are kept, and what float32 has lost of these.
"""

from __future__ import annotations

import triton.language as tl

from .. import cell
from . import lanes, philox
from .helper import helper

ZONEOUT_H, ZONEOUT_C = tl.constexpr(cell.ZONEOUT_H), tl.constexpr(cell.ZONEOUT_C)
CANDIDATE = tl.constexpr(cell.CANDIDATE)
DRAWN = tl.constexpr(2)  # of launch.Has.ZONE_H and ZONE_C: in training


@helper
def number(kind, drawn, here, b, unit, SIZE: tl.constexpr, steps, PLAN: tl.constexpr):
    """[UNITS, BLOCK_B]: the numbers of a block's elements among all masks."""
    _, _, first_lane = drawn
    t, lane, _ = here
    T, B, _ = steps
    row = ((first_lane + lane) * T + lanes.time_of(t, lane, T, PLAN)) * B + b
    return kind + row[None, :] * SIZE + unit[:, None]


@helper
def zone(n, drawn, p, rest, MODE: tl.constexpr, PLAN: tl.constexpr):
    """How much of elements number n is kept: 1 or 0 where DRAWN, else the probability."""
    if MODE == DRAWN:
        found = (philox.multiplier(drawn[0][0], n, p, 1.0) == 0.0).to(PLAN.ACC)
    else:
        found = tl.zeros_like(n).to(PLAN.ACC) + p + rest
    return found


@helper
def zoned(new, old, kept):
    return kept * old + (1.0 - kept) * new


@helper
def load(drawn, here, b, unit, steps, PLAN: tl.constexpr):
    """Of a block of units: peepholes of i, f and o [UNITS, 1], what g is multiplied by, and how
    much of c is kept [UNITS, BLOCK_B]; each 0 where PLAN.HAS none.
    """
    option_ptrs, rates, _ = drawn
    _, lane, _ = here
    peepholes, multiplier, kept = (0.0, 0.0, 0.0), 0.0, 0.0
    if PLAN.HAS.PEEPHOLE:
        w_ptr = option_ptrs[5] + lane * (3 * PLAN.H) + unit[:, None]
        there = (unit < PLAN.H)[:, None]
        to_i = tl.load(w_ptr, mask=there, other=0.0).to(PLAN.ACC)
        to_f = tl.load(w_ptr + PLAN.H, mask=there, other=0.0).to(PLAN.ACC)
        to_o = tl.load(w_ptr + 2 * PLAN.H, mask=there, other=0.0).to(PLAN.ACC)
        peepholes = to_i, to_f, to_o
    if PLAN.HAS.CANDIDATE:
        n = number(CANDIDATE, drawn, here, b, unit, PLAN.H, steps, PLAN)
        multiplier = philox.multiplier(option_ptrs[0], n, rates[2], rates[3]).to(PLAN.ACC)
    if PLAN.HAS.ZONE_C:
        n = number(ZONEOUT_C, drawn, here, b, unit, PLAN.H, steps, PLAN)
        kept = zone(n, drawn, rates[5], rates[7], PLAN.HAS.ZONE_C, PLAN)
    return peepholes, multiplier, kept


@helper
def begun(old, drawn, here, b, steps, PLAN: tl.constexpr):
    """`old`, which step t begins with or sends back, of rows that do not begin anew; else 0."""
    t, lane, _ = here
    if PLAN.KEEP:
        old = tl.where(lanes.kept(drawn[0][2], t, lane, b, steps, PLAN), old, 0.0)
    return old


# --- h ---


@helper
def kept_h(drawn, here, b, unit, steps, PLAN: tl.constexpr):
    """[UNITS, BLOCK_B]: how much of h(t - 1) step t keeps."""
    n = number(ZONEOUT_H, drawn, here, b, unit, PLAN.P, steps, PLAN)
    return zone(n, drawn, drawn[1][4], drawn[1][6], PLAN.HAS.ZONE_H, PLAN)


@helper
def zone_out(h, drawn, here, b, unit, at, mask, steps, PLAN: tl.constexpr):
    """h(t) of what step t has made of it."""
    _, B, _ = steps
    old_ptr = drawn[0][7] + here[1] * B * PLAN.P + at
    old = begun(tl.load(old_ptr, mask=mask, other=0.0), drawn, here, b, steps, PLAN)
    h = zoned(h, old, kept_h(drawn, here, b, unit, steps, PLAN))
    tl.store(old_ptr, h, mask=mask)
    return h


@helper
def zone_back(dh, drawn, here, b, unit, at, mask, steps, PLAN: tl.constexpr):
    """The gradient by what step t has made, of that by h(t); passes on the other part of it."""
    _, B, _ = steps
    old_ptr = drawn[0][7] + here[1] * B * PLAN.P + at
    dh += tl.load(old_ptr, mask=mask, other=0.0)
    old = dh * kept_h(drawn, here, b, unit, steps, PLAN)
    tl.store(old_ptr, begun(old, drawn, here, b, steps, PLAN), mask=mask)
    return dh - old


@helper
def mask_of(drawn, lane, at, mask, steps, PLAN: tl.constexpr):
    """What a block of h is multiplied by on its way into w_hh."""
    _, B, _ = steps
    return tl.load(drawn[0][6] + lane * B * PLAN.P + at, mask=mask, other=0.0)


@helper
def fed(h, drawn, lane, at, mask, steps, PLAN: tl.constexpr):
    """What w_hh is fed of h."""
    return (h * mask_of(drawn, lane, at, mask, steps, PLAN)).to(h.dtype)


@helper
def add_sent(other, acc, drawn, here, b, at, mask, steps, PLAN: tl.constexpr):
    """other + acc, w_hh^T . dgates(t + 1), as it comes to h(t)."""
    t, lane, first = here
    if PLAN.HAS.RECURRENT:
        acc *= mask_of(drawn, lane, at, mask, steps, PLAN)
    return other + begun(acc, drawn, (t + 1, lane, first), b, steps, PLAN)
