"""Features of a cell's step that torch's own cell lacks: weights of a unit, masks, zoneout.

Names are as in position.py. Masks are drawn by counter where they are needed, in the backward
again; docs/cells.md has the numbers. PLAN.HAS is launch.Features.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton.language as tl

from ..call import spec
from . import philox, position
from .helper import helper

ZONEOUT_H, ZONEOUT_C = tl.constexpr(spec.ZONEOUT_H), tl.constexpr(spec.ZONEOUT_C)
DRAWN = tl.constexpr(2)  # of launch.Features.ZONE_H and ZONE_C: in training


class Draws(NamedTuple):
    """Seed, numbering and probabilities of a launch's masks."""

    seed_ptr: Any  # [1] int64
    dropout_p: Any  # between lanes
    dropout_scale: Any
    zone_h: Any  # as the kernels' arguments
    zone_h_rest: Any
    zone_c: Any
    zone_c_rest: Any


@helper
def number(kind, draws, step, block, SIZE: tl.constexpr, rows, PLAN: tl.constexpr):
    """Return the numbers [UNITS, BLOCK_B] of a block's elements among all masks."""
    time = position.time_of(step.t, step.lane, rows.T, PLAN)
    row = (step.lane * rows.T + time) * rows.B + block.b
    return kind + row[None, :] * SIZE + block.unit[:, None]


@helper
def kept_part(n, draws, p, rest, MODE: tl.constexpr, PLAN: tl.constexpr):
    """Return the part that zoneout keeps of elements number n: 1 or 0 where DRAWN, else p.

    `rest` is the part of the probability p that float32 has lost.
    """
    if MODE == DRAWN:
        found = (philox.multiplier(draws.seed_ptr, n, p, 1.0) == 0.0).to(PLAN.ACC)
    else:
        found = tl.zeros_like(n).to(PLAN.ACC) + p + rest
    return found


@helper
def of_cell(
    weight_ptr,  # [L, WEIGHTS * H]
    draws,
    step,
    block,
    rows,
    PLAN: tl.constexpr,
):
    """Return the `options` of a cell's functions, each 0 where PLAN.HAS none.

    They are the weights of a unit [UNITS, 1] each, the part of the states that is kept
    [UNITS, BLOCK_B], and of each sum inside a step 1 over the number of its units.
    """
    weights, kept = (), 0.0
    if PLAN.HAS.WEIGHTS > 0:
        at = step.lane * (PLAN.HAS.WEIGHTS * PLAN.H) + block.unit[:, None]
        there = (block.unit < PLAN.H)[:, None]
        count: tl.constexpr = PLAN.HAS.WEIGHTS
        for i in tl.static_range(count):
            w = tl.load(weight_ptr + at + i * PLAN.H, mask=there, other=0.0)
            weights = weights + (w.to(PLAN.ACC),)
    if PLAN.HAS.ZONE_C:
        kind = ZONEOUT_H if PLAN.HAS.ZONE_OF_H else ZONEOUT_C
        n = number(kind, draws, step, block, PLAN.H, rows, PLAN)
        kept = kept_part(n, draws, draws.zone_c, draws.zone_c_rest, PLAN.HAS.ZONE_C, PLAN)
    shares = ()
    for k in tl.static_range(PLAN.CALL_COUNT):  # a number alone would be float32
        shares = shares + (tl.full((1, 1), PLAN.CALLS[k].SHARE, PLAN.ACC),)
    return weights, kept, shares


@helper
def of_lane(ptr, step, block, rows, PLAN: tl.constexpr):
    """Return pointers to a block of its lane's part of [L, B, P]."""
    return ptr + (step.lane * rows.B + block.b)[None, :] * PLAN.P + block.unit[:, None]


# --- zoneout of h ---


@helper
def zone_out(
    h,
    h_old_ptr,  # [L, B, P] state dtype: h before the step; out: after it
    draws,
    step,
    block,
    rows,
    PLAN: tl.constexpr,
):
    """Return h of a step after zoneout, of the new h before it."""
    ptr = of_lane(h_old_ptr, step, block, rows, PLAN)
    old = tl.load(ptr, mask=block.mask, other=0.0)
    old = position.unless_reset(old, step.t, step.lane, block.b, rows, PLAN)
    n = number(ZONEOUT_H, draws, step, block, PLAN.P, rows, PLAN)
    kept = kept_part(n, draws, draws.zone_h, draws.zone_h_rest, PLAN.HAS.ZONE_H, PLAN)
    h = kept * old + (1.0 - kept) * h
    replace(ptr, h, block, PLAN)
    return h


@helper
def replace(ptr, value, block, PLAN: tl.constexpr):
    """Store a value where all threads have read the one before it, and read this one next.

    Of a scan with fewer elements than threads several warps hold the same element, and one stores
    it. Programs with products meet in every step.
    """
    if PLAN.GATES == 0:
        tl.debug_barrier()
    tl.store(ptr, value, mask=block.mask)
    if PLAN.GATES == 0:
        tl.debug_barrier()


@helper
def zone_out_backward(
    dh,
    dh_old_ptr,  # [L, B, P] state dtype: what a step passes on to the one before, past its gates
    draws,
    step,
    block,
    rows,
    PLAN: tl.constexpr,
):
    """Return the part of dh that reaches the new h; pass on the rest to the step before."""
    ptr = of_lane(dh_old_ptr, step, block, rows, PLAN)
    dh += tl.load(ptr, mask=block.mask, other=0.0)
    n = number(ZONEOUT_H, draws, step, block, PLAN.P, rows, PLAN)
    old = dh * kept_part(n, draws, draws.zone_h, draws.zone_h_rest, PLAN.HAS.ZONE_H, PLAN)
    before = position.unless_reset(old, step.t, step.lane, block.b, rows, PLAN)
    replace(ptr, before, block, PLAN)
    return dh - old


# --- recurrent dropout ---


@helper
def h_mask(
    h_mask_ptr,  # [L, B, P] state dtype
    step,
    block,
    rows,
    PLAN: tl.constexpr,
):
    """Load the multiplier of a block of h on its way into w_hh."""
    return tl.load(of_lane(h_mask_ptr, step, block, rows, PLAN), mask=block.mask, other=0.0)
