"""Meetings inside a step, by products, sums and maxima over units: each begins a phase of the step.

Before a phase the programs exchange what it begins with. What a product multiplies they store in
planes of `between`, in the backward the gradients by what it made; then each multiplies its rows of
the product's weight, in the backward of its transpose, by all of that. Of a sum or a maximum each
program shares one number a row, that of its own units, and then adds up all programs' numbers, in
the same order: so no float is added atomically. The gradient by what a sum is of is the same sum of
the gradients by the sum; a maximum has none.

What a phase needs of phases before, it reads again from memory: x's parts, states, saved columns,
numbers of a row; in the backward `by`, the gradients by h and by what products and sums are of.
Numbers are the same in all programs, and part 0 stores them. Names as in position.py; a part is the
units of a lane that one program finishes. PLAN.CALLS are launch.Call.

A value of a step may have fewer units than h. It is computed on H of them, and so are its weights,
with zeros behind; what lies behind its units goes into no exchange and into no sum.

w_inner  [columns * H, H]: the products' weights, one behind the other
between  [K, B_PAD, PAD], in the backward [columns, B_PAD, PAD]: a lane's planes, of K products
shares   [L, TOTALS, PARTS, B] scratch, state dtype: each program's part of each sum and maximum
numbers  [L, N, NUMBERS] state dtype: sums, maxima, and what follows from these alone
by       [L, B, (1 + K) * H + TOTALS] scratch, state dtype: by h, by what products and sums are of
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton.language as tl

from . import position, tile
from .helper import helper

SOME = tl.constexpr(32)  # parts that are read at once


class Inside(NamedTuple):
    """A lane's tensors of meetings inside a step."""

    weights: Any
    between_ptr: Any
    shares_ptr: Any
    numbers_ptr: Any
    by_ptr: Any  # in the backward
    part: Any  # this program's
    all_ptr: Any  # the counter of all programs that meet


@helper
def load_weights(w_ptr, block, first_unit, PLAN: tl.constexpr):
    """Load a program's rows of all products' weights: of its block, backwards of its OWN units."""
    found = ()
    for k in tl.static_range(PLAN.PRODUCTS):
        found = found + (load_weight(w_ptr, block, first_unit, k, PLAN),)
    return found


@helper
def load_weight(w_ptr, block, first_unit, k: tl.constexpr, PLAN: tl.constexpr):
    """Load a program's rows of product k's weight."""
    W: tl.constexpr = PLAN.INNER[k]
    if PLAN.FORWARD:
        row, row_unit = tile.gate_rows(block, W.ROWS, W.MADE, PLAN)
    else:
        row_unit = first_unit + tl.arange(0, PLAN.OWN)
        row = row_unit.to(tl.int64)
    of_product_ptr = w_ptr + W.FIRST * PLAN.H * PLAN.H
    return tile.load_weight(of_product_ptr, row, row_unit < PLAN.H, W, PLAN)


# --- before a meeting ---


@helper
def hand_on(fed, phase: tl.constexpr, inside, step, block, turn, rows, PLAN: tl.constexpr):
    """Store a block of what products and sums are of that a phase makes, for all programs.

    fed: of each a tuple of columns.
    """
    for k in tl.static_range(PLAN.CALL_COUNT):
        if phase == PLAN.CALLS[k].FED:
            if PLAN.CALLS[k].IS_PRODUCT:
                store_factor(fed[k], k, inside, block, PLAN)
            else:
                share(fed[k][0], k, inside, step, block, rows, PLAN)
    position.arrive(inside.all_ptr, turn, PLAN)


@helper
def store_factor(columns, k: tl.constexpr, inside, block, PLAN: tl.constexpr):
    """Store a block of what a product multiplies, backwards of the gradients by what it made."""
    W: tl.constexpr = PLAN.INNER[PLAN.CALLS[k].NUMBER]
    ptr = inside.between_ptr + W.PLANE * W.SLOT + block.slot_at
    dtype = ptr.dtype.element_ty
    mask = units_of(k, block, PLAN)
    for j in tl.static_range(W.GATES):
        column = tile.rounded(columns[j].to(dtype), PLAN.ROUNDS)
        tl.store(ptr + j * W.SLOT, column, mask=mask)


@helper
def units_of(k: tl.constexpr, block, PLAN: tl.constexpr):
    """Return the mask [UNITS, BLOCK_B] of the units that are exchanged, or added up."""
    mask = block.mask
    if PLAN.CALLS[k].WIDTH < PLAN.H:
        mask = mask & (block.unit < PLAN.CALLS[k].WIDTH)[:, None]
    return mask


@helper
def share(x, k: tl.constexpr, inside, step, block, rows, PLAN: tl.constexpr):
    """Store this part's sum, or maximum, of a value x [UNITS, BLOCK_B]."""
    ptr = shares(k, inside, step, block, rows, PLAN) + inside.part * rows.B
    of_part = of_units(x, units_of(k, block, PLAN), PLAN.CALLS[k].IS_MAXIMUM)
    tl.store(ptr, of_part, mask=block.b < step.alive)


@helper
def of_units(x, mask, IS_MAXIMUM: tl.constexpr):
    """Return the sum, or the maximum, of x [UNITS, BLOCK_B] over the units that exist.

    The tl.where keeps the compiler from contracting a product and its sum, as in norm.py.
    """
    if IS_MAXIMUM:
        found = largest(tl.where(mask, x, float("-inf")))
    else:
        found = tl.sum(tl.where(mask, x, 0.0), 0)
    return found


@helper
def largest(x):
    """Return the maximum over rows, a NaN where there is one, as torch does."""
    return tl.max(x, 0) + tl.sum(tl.where(x == x, 0.0, x), 0)


@helper
def shares(k: tl.constexpr, inside, step, block, rows, PLAN: tl.constexpr):
    """Return pointers [BLOCK_B] to the first part of a sum or a maximum; others are B apart."""
    sum_at = (step.lane * PLAN.TOTALS + PLAN.CALLS[k].NUMBER) * PLAN.PARTS
    return inside.shares_ptr + sum_at * rows.B + block.b


# --- after it ---


@helper
def product(k: tl.constexpr, inside, step, batch, PLAN: tl.constexpr):
    """Return the columns [UNITS, BLOCK_B] that a product makes, and those of padding.

    In the backward return the gradient by what it multiplies [OWN, BLOCK_B].
    """
    W: tl.constexpr = PLAN.INNER[PLAN.CALLS[k].NUMBER]
    ptrs = ()
    for j in tl.static_range(W.GATES):
        ptrs = ptrs + (inside.between_ptr + (W.PLANE + j) * W.SLOT + batch * W.TILE,)
    weight = inside.weights[PLAN.CALLS[k].NUMBER]
    count = tile.count_of(step.alive, batch, PLAN)
    if PLAN.FORWARD:
        acc = tile.product(tile.zeros(W.ROWS, PLAN), weight, ptrs, count, W, PLAN)
        found = tile.gates_of(acc, W.ROWS, PLAN)
    else:
        acc = tile.product(tile.zeros(PLAN.OWN, PLAN), weight, ptrs, count, W, PLAN)
        found = tile.summed(acc, PLAN.OWN, PLAN)
    return found


@helper
def total(k: tl.constexpr, inside, step, block, rows, PLAN: tl.constexpr):
    """Return a sum or a maximum [1, BLOCK_B] over all parts, always in the same order."""
    ptr = shares(k, inside, step, block, rows, PLAN)
    neutral: tl.constexpr = float("-inf") if PLAN.CALLS[k].IS_MAXIMUM else 0.0
    found = tl.full((PLAN.BLOCK_B,), neutral, PLAN.ACC)
    for first in range(0, PLAN.PARTS, SOME):
        p = first + tl.arange(0, SOME)
        there = (p < PLAN.PARTS)[:, None] & (block.b < step.alive)[None, :]
        at = ptr[None, :] + p.to(tl.int64)[:, None] * rows.B
        x = tl.load(at, mask=there, other=neutral, cache_modifier=".cg")
        if PLAN.CALLS[k].IS_MAXIMUM:
            found = tl.maximum(found, largest(x), propagate_nan=tl.PropagateNan.ALL)
        else:
            found += tl.sum(x, 0)
    return found[None, :]


@helper
def made(phase: tl.constexpr, inside, step, block, rows, PLAN: tl.constexpr):
    """Return what a phase of the forward begins with: an entry for each product, sum, maximum."""
    found = ()
    for k in tl.static_range(PLAN.CALL_COUNT):
        if phase != PLAN.CALLS[k].READ:
            found = found + (0.0,)
        elif PLAN.CALLS[k].IS_PRODUCT:
            found = found + (product(k, inside, step, block.batch, PLAN),)
        else:
            found = found + (total(k, inside, step, block, rows, PLAN),)
    return found


@helper
def of_part_0(inside, step, block):
    """Return the mask [1, BLOCK_B] of part 0's rows: of others none."""
    return (block.b < tl.where(inside.part == 0, step.alive, 0))[None, :]


@helper
def store_numbers(numbers, first, COUNT: tl.constexpr, inside, step, block, PLAN: tl.constexpr):
    """Store numbers of a block's rows, from number `first` on."""
    if COUNT > 0:
        there = of_part_0(inside, step, block)
        ptr = inside.numbers_ptr + (step.first + block.b)[None, :] * PLAN.NUMBERS + first
        for i in tl.static_range(COUNT):
            tl.store(ptr + i, numbers[i], mask=there)


@helper
def load_numbers(COUNT: tl.constexpr, inside, step, block, PLAN: tl.constexpr):
    """Load the first COUNT numbers [1, BLOCK_B] of a block's rows.

    In the forward another program has just written them.
    """
    found = ()
    if COUNT > 0:
        there = (block.b < step.alive)[None, :]
        ptr = inside.numbers_ptr + (step.first + block.b)[None, :] * PLAN.NUMBERS
        for i in tl.static_range(COUNT):
            if PLAN.FORWARD:
                number = tl.load(ptr + i, mask=there, other=0.0, cache_modifier=".cg")
            else:
                number = tl.load(ptr + i, mask=there, other=0.0)
            found = found + (number,)
    return found


# --- backward ---


@helper
def gradients(dh, phase: tl.constexpr, inside, step, block, rows, PLAN: tl.constexpr):
    """Return `by` of a block in a phase of the backward, which begins with some of it.

    They are dh, which the first phase computes, and the gradients by what products and sums are of.
    What a phase computes it stores for later ones; what earlier ones have computed it loads.
    """
    row_ptr = inside.by_ptr
    if PLAN.INSIDE > 0:
        row = (step.lane * rows.B + block.b)[None, :]
        row_ptr += row * ((1 + PLAN.PRODUCTS) * PLAN.H + PLAN.TOTALS)
        if phase == 0:
            tl.store(row_ptr + block.unit[:, None], dh, mask=block.mask)
        else:
            dh = tl.load(row_ptr + block.unit[:, None], mask=block.mask, other=0.0)
    found = (dh,)
    for k in tl.static_range(PLAN.CALL_COUNT):
        if phase < PLAN.CALLS[k].READ or PLAN.CALLS[k].READ == 0:
            found = found + (0.0,)
        elif PLAN.CALLS[k].IS_PRODUCT:
            found = found + (by_factor(k, phase, row_ptr, inside, step, block, PLAN),)
        else:
            found = found + (by_units(k, phase, row_ptr, inside, step, block, rows, PLAN),)
    return found


@helper
def by_factor(
    k: tl.constexpr, phase: tl.constexpr, row_ptr, inside, step, block, PLAN: tl.constexpr
):
    """Return the gradient by what a product multiplies [OWN, BLOCK_B]."""
    ptr = row_ptr + (1 + PLAN.CALLS[k].NUMBER) * PLAN.H + block.unit[:, None]
    if phase > PLAN.CALLS[k].READ:
        found = tl.load(ptr, mask=block.mask, other=0.0)
    else:
        found = product(k, inside, step, block.batch, PLAN)
        if phase < PLAN.INSIDE:
            tl.store(ptr, found, mask=block.mask)
    return found


@helper
def by_units(
    k: tl.constexpr, phase: tl.constexpr, row_ptr, inside, step, block, rows, PLAN: tl.constexpr
):
    """Return the gradient by each unit that a sum adds up, the same of all [1, BLOCK_B]."""
    ptr = row_ptr + (1 + PLAN.PRODUCTS) * PLAN.H + PLAN.CALLS[k].NUMBER
    if phase > PLAN.CALLS[k].READ:
        there = (block.b < step.alive)[None, :]
        found = tl.load(ptr, mask=there, other=0.0, cache_modifier=".cg")
    else:
        found = total(k, inside, step, block, rows, PLAN)
        if phase < PLAN.INSIDE:
            tl.store(ptr, found, mask=of_part_0(inside, step, block))
    return found
