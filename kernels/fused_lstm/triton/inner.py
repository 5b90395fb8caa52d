"""Products inside a step: a step's phases after the first, of which each begins with one.

Before a phase all programs exchange what its product multiplies, in the backward the gradients by
what a product made, in a plane of `between` each. Each program then multiplies its rows of the
product's weight, in the backward of its transpose, by all of that, and does the pointwise work of
its units. What a phase needs of others it reads again from memory: x's parts, states, saved
columns; in the backward `by`, the gradients by h and by what products multiply. Names as in
position.py.

w_inner  [columns * H, H]: the products' weights, one behind the other
between  [K, B_PAD, PAD], in the backward [columns, B_PAD, PAD]: a lane's planes
by       [L, B, (1 + K) * H] scratch, state dtype: by h, then by what each of K products multiplies
"""

from __future__ import annotations

import triton.language as tl

from . import position, tile
from .helper import helper


@helper
def load_weights(w_ptr, block, first_unit, PLAN: tl.constexpr):
    """Load a program's rows of all products' weights: of its block, backwards of its OWN units."""
    found = ()
    for k in tl.static_range(PLAN.PRODUCTS):
        if PLAN.FORWARD:
            row, row_unit = tile.gate_rows(block, PLAN.INNER[k].ROWS, PLAN.INNER[k].MADE, PLAN)
        else:
            row_unit = first_unit + tl.arange(0, PLAN.OWN)
            row = row_unit.to(tl.int64)
        of_product_ptr = w_ptr + PLAN.INNER[k].FIRST * PLAN.H * PLAN.H
        there = row_unit < PLAN.H
        found = found + (tile.load_weight(of_product_ptr, row, there, PLAN.INNER[k], PLAN),)
    return found


# --- forward ---


@helper
def hand_on(value, k: tl.constexpr, between_ptr, block, turn, all_ptr, PLAN: tl.constexpr):
    """Store a block of what product k multiplies, for all programs."""
    ptr = between_ptr + k * PLAN.W_HR.SLOT + block.slot_at
    tl.store(ptr, tile.rounded(value.to(ptr.dtype.element_ty), PLAN.ROUNDS), mask=block.mask)
    position.arrive(all_ptr, turn, PLAN)


@helper
def columns_made(weights, k: tl.constexpr, between_ptr, batch, PLAN: tl.constexpr):
    """Return the columns [UNITS, BLOCK_B] that product k makes, and those of padding."""
    W: tl.constexpr = PLAN.INNER[k]
    fed_ptr = between_ptr + k * W.SLOT + batch * W.TILE
    made = tile.product(tile.zeros(W.ROWS, PLAN), weights[k], (fed_ptr,), W, PLAN)
    return tile.gates_of(made, W.ROWS, PLAN)


# --- backward ---


@helper
def hand_back(made, k: tl.constexpr, between_ptr, block, turn, all_ptr, PLAN: tl.constexpr):
    """Store a block of the gradients by what product k made, for all programs."""
    W: tl.constexpr = PLAN.INNER[k]
    ptr = between_ptr + W.FIRST * W.SLOT + block.slot_at
    dtype = ptr.dtype.element_ty
    for j in tl.static_range(W.MADE):
        of_column = tile.rounded(made[j].to(dtype), PLAN.ROUNDS)
        tl.store(ptr + j * W.SLOT, of_column, mask=block.mask)
    position.arrive(all_ptr, turn, PLAN)


@helper
def by_fed(weights, k: tl.constexpr, between_ptr, batch, PLAN: tl.constexpr):
    """Return the gradient by what product k multiplies [OWN, BLOCK_B]."""
    W: tl.constexpr = PLAN.INNER[k]
    ptrs = ()
    for j in tl.static_range(W.MADE):
        ptrs = ptrs + (between_ptr + (W.FIRST + j) * W.SLOT + batch * W.TILE,)
    found = tile.product(tile.zeros(PLAN.OWN, PLAN), weights[k], ptrs, W, PLAN)
    return tile.summed(found, PLAN.OWN, PLAN)


@helper
def gradients(fresh, k: tl.constexpr, by_ptr, step, block, rows, PLAN: tl.constexpr):
    """Return `by` of a block, of which `fresh` is number k: it is stored, and earlier ones loaded.

    Number 0, by h, is the first to be known; then come those by what products multiply, the last
    product's first. A phase reads no others.
    """
    SIZE: tl.constexpr = (1 + PLAN.PRODUCTS) * PLAN.H
    at = step.lane * rows.B * SIZE + block.b[None, :] * SIZE + block.unit[:, None]
    if k != 1:  # by the first product's: no phase comes after the one that reads it
        tl.store(by_ptr + at + k * PLAN.H, fresh, mask=block.mask)
    found = ()
    for n in tl.static_range(1 + PLAN.PRODUCTS):
        if n == k:
            found = found + (fresh,)
        elif k > 0 and (n == 0 or n > k):
            found = found + (tl.load(by_ptr + at + n * PLAN.H, mask=block.mask, other=0.0),)
        else:
            found = found + (0.0,)
    return found
