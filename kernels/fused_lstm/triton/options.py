"""Features of a cell's step that torch's own cell lacks: weights of a unit, masks, zoneout.

Names are as in position.py. masks is (seed_ptr, first_lane): the seed of the random numbers, and
the index in the stack of this launch's first lane. Masks are drawn by counter where they are
needed, in the backward again; docs/cells.md has the numbers. PLAN.HAS is launch.Has.
"""

from __future__ import annotations

import triton.language as tl

from .. import spec
from . import philox, position
from .helper import helper

ZONEOUT_H, ZONEOUT_C = tl.constexpr(spec.ZONEOUT_H), tl.constexpr(spec.ZONEOUT_C)
CANDIDATE = tl.constexpr(spec.CANDIDATE)
DRAWN = tl.constexpr(2)  # of launch.Has.ZONE_H and ZONE_C: in training


@helper
def number(kind, masks, step, b, unit, SIZE: tl.constexpr, rows, PLAN: tl.constexpr):
    """Return the numbers [UNITS, BLOCK_B] of a block's elements among all masks."""
    _, first_lane = masks
    t, lane, _, _ = step
    T, B, _, _ = rows
    row = ((first_lane + lane) * T + position.time_of(t, lane, T, PLAN)) * B + b
    return kind + row[None, :] * SIZE + unit[:, None]


@helper
def kept_part(n, masks, p, rest, MODE: tl.constexpr, PLAN: tl.constexpr):
    """Return the part that zoneout keeps of elements number n: 1 or 0 where DRAWN, else p.

    `rest` is the part of the probability p that float32 has lost.
    """
    seed_ptr, _ = masks
    if MODE == DRAWN:
        found = (philox.multiplier(seed_ptr, n, p, 1.0) == 0.0).to(PLAN.ACC)
    else:
        found = tl.zeros_like(n).to(PLAN.ACC) + p + rest
    return found


@helper
def of_cell(
    weight_ptr,  # [L, WEIGHTS * H]
    candidate_p,
    candidate_scale,
    zone_c,
    zone_c_rest,
    masks,
    step,
    b,
    unit,
    rows,
    PLAN: tl.constexpr,
):
    """Return the `options` of a cell's functions, each 0 where PLAN.HAS none.

    They are the weights of a unit [UNITS, 1] each, the multiplier of g, and the part of the states
    that is kept [UNITS, BLOCK_B].
    """
    _, lane, _, _ = step
    seed_ptr, _ = masks
    weights, multiplier, kept = (), 0.0, 0.0
    if PLAN.HAS.WEIGHTS > 0:
        at = lane * (PLAN.HAS.WEIGHTS * PLAN.H) + unit[:, None]
        there = (unit < PLAN.H)[:, None]
        count: tl.constexpr = PLAN.HAS.WEIGHTS
        for i in tl.static_range(count):
            w = tl.load(weight_ptr + at + i * PLAN.H, mask=there, other=0.0)
            weights = weights + (w.to(PLAN.ACC),)
    if PLAN.HAS.CANDIDATE:
        n = number(CANDIDATE, masks, step, b, unit, PLAN.H, rows, PLAN)
        multiplier = philox.multiplier(seed_ptr, n, candidate_p, candidate_scale).to(PLAN.ACC)
    if PLAN.HAS.ZONE_C:
        kind = ZONEOUT_H if PLAN.HAS.ZONE_OF_H else ZONEOUT_C
        n = number(kind, masks, step, b, unit, PLAN.H, rows, PLAN)
        kept = kept_part(n, masks, zone_c, zone_c_rest, PLAN.HAS.ZONE_C, PLAN)
    return weights, multiplier, kept


# --- zoneout of h ---


@helper
def zone_out(
    h,
    h_old_ptr,  # [L, B, P] state dtype: h before the step; out: after it
    zone_h,
    zone_h_rest,
    masks,
    step,
    b,
    unit,
    mask,
    rows,
    PLAN: tl.constexpr,
):
    """Return h of a step after zoneout, of the new h before it."""
    t, lane, _, _ = step
    _, B, _, _ = rows
    ptr = h_old_ptr + (lane * B + b)[None, :] * PLAN.P + unit[:, None]
    old = tl.load(ptr, mask=mask, other=0.0)
    old = position.unless_reset(old, t, lane, b, rows, PLAN)
    n = number(ZONEOUT_H, masks, step, b, unit, PLAN.P, rows, PLAN)
    kept = kept_part(n, masks, zone_h, zone_h_rest, PLAN.HAS.ZONE_H, PLAN)
    h = kept * old + (1.0 - kept) * h
    tl.store(ptr, h, mask=mask)
    return h


@helper
def zone_out_backward(
    dh,
    dh_old_ptr,  # [L, B, P] state dtype: what a step passes on to the one before, past its gates
    zone_h,
    zone_h_rest,
    masks,
    step,
    b,
    unit,
    mask,
    rows,
    PLAN: tl.constexpr,
):
    """Return the part of dh that reaches the new h; pass on the rest to the step before."""
    t, lane, _, _ = step
    _, B, _, _ = rows
    ptr = dh_old_ptr + (lane * B + b)[None, :] * PLAN.P + unit[:, None]
    dh += tl.load(ptr, mask=mask, other=0.0)
    n = number(ZONEOUT_H, masks, step, b, unit, PLAN.P, rows, PLAN)
    old = dh * kept_part(n, masks, zone_h, zone_h_rest, PLAN.HAS.ZONE_H, PLAN)
    tl.store(ptr, position.unless_reset(old, t, lane, b, rows, PLAN), mask=mask)
    return dh - old


# --- recurrent dropout ---


@helper
def h_mask(
    h_mask_ptr,  # [L, B, P] state dtype
    lane,
    b,
    unit,
    mask,
    rows,
    PLAN: tl.constexpr,
):
    """Load the multiplier of a block of h on its way into w_hh."""
    _, B, _, _ = rows
    at = (lane * B + b)[None, :] * PLAN.P + unit[:, None]
    return tl.load(h_mask_ptr + at, mask=mask, other=0.0)
