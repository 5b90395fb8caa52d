"""Products of a block of a head's units with R, forward and backward.

Either a program's warps share rows and columns (K_PARTS is 1): blocks of BLOCK_K units, gate by
gate, for a head of any size in any dtype. Or 8 warps share out K: each multiplies all rows of batch
and all columns by its part of K, chunk by chunk of PART_K units, all gates at once, and the sums
meet once. Its weights are RESIDENT, loaded once a launch, where a program has one block.

N, K, G: heads, units of a head, gates. w_ptr points to R [N, G*K, K]. PLAN is heads.Constants.
"""

from __future__ import annotations

import triton.language as tl

from . import tile
from .helper import helper

# --- forward: the gates of a block ---


@helper
def gates_by_blocks(
    y_ptr,  # [R, H]
    h0_ptr,  # [B, H]
    w_ptr,
    head,
    row_before,  # [BLOCK_B] in y, where continued
    b,  # [BLOCK_B] in h0, where it begins
    continued,
    begins,
    unit,  # [BLOCK_K]
    H,
    K,
    PLAN: tl.constexpr,
):
    """Return what h makes of G gates, [BLOCK_B, BLOCK_K] each."""
    gates = ()
    for g in tl.static_range(PLAN.G):
        acc = tl.full((PLAN.BLOCK_B, PLAN.BLOCK_K), 0.0, PLAN.DTYPE)
        for k in range(0, K, PLAN.BLOCK_K):
            col = k + tl.arange(0, PLAN.BLOCK_K)
            at, exists = head * K + col[None, :], (col < K)[None, :]
            h = tl.load(
                y_ptr + row_before[:, None] * H + at,
                mask=continued[:, None] & exists, other=0.0, cache_modifier=".cg",
            )  # fmt: skip
            first = tl.load(h0_ptr + b[:, None] * H + at, mask=begins[:, None] & exists, other=0.0)
            h = tl.where(begins[:, None], first, h)
            w = tl.load(
                w_ptr + ((head * PLAN.G + g) * K + unit)[None, :] * K + col[:, None],
                mask=(unit < K)[None, :] & (col < K)[:, None], other=0.0,
            )  # fmt: skip
            h, w = tile.rounded(h, PLAN.ROUND), tile.rounded(w, PLAN.ROUND)
            acc = tile.multiply(h, w, acc, PLAN.PRECISION)
        gates = gates + (acc,)
    return gates


@helper
def gates_in_parts(
    weights,  # what load_weights gave
    w_ptr,
    head,
    h_ptr,  # [BLOCK_B] where a row's h begins
    exists,  # [BLOCK_B]
    block,
    K,
    PLAN: tl.constexpr,
):
    """Return what h makes of G gates, [BLOCK_B, BLOCK_K] each."""
    acc = tl.full((PLAN.K_PARTS, PLAN.BLOCK_B, PLAN.ROWS), 0.0, PLAN.DTYPE)
    if PLAN.RESIDENT:
        h = ()
        for i in tl.static_range(PLAN.CHUNKS):  # all of them are in flight at once
            h = h + (load_moving(h_ptr, exists, i, K, PLAN),)
        for i in tl.static_range(PLAN.CHUNKS):
            acc = tile.multiply(h[i], weights[i], acc, PLAN.PRECISION)
    else:
        for i in tl.range(PLAN.CHUNKS, num_stages=PLAN.STAGES):
            w = load_rows(w_ptr, head, block, i, K, PLAN)
            acc = tile.multiply(load_moving(h_ptr, exists, i, K, PLAN), w, acc, PLAN.PRECISION)
    if PLAN.G == 1:
        gates = (summed(acc, PLAN),)
    else:
        # Sums and gates go to where one thread has all of an element's: one exchange among warps.
        acc = tl.reshape(acc, (2, 2, 2, PLAN.BLOCK_B, 2, 2, PLAN.BLOCK_K))
        acc = tl.permute(acc, (3, 6, 5, 4, 2, 1, 0))
        acc = tile.halves_added(tile.halves_added(tile.halves_added(acc)))
        gates = tile.split_gates(acc, PLAN.G)
    return gates


# --- backward: dh of a block ---


@helper
def dh_by_blocks(
    dgates_ptr,  # [R, G*H]
    w_ptr,
    head,
    row_after,  # [BLOCK_B]
    crosses,  # [BLOCK_B] rows whose h the step after has used
    unit,
    H,
    K,
    PLAN: tl.constexpr,
):
    """Return the sum [BLOCK_B, BLOCK_K] over all gates that h is in."""
    dh = tl.full((PLAN.BLOCK_B, PLAN.BLOCK_K), 0.0, PLAN.DTYPE)
    for g in tl.static_range(PLAN.G):
        for k in range(0, K, PLAN.BLOCK_K):
            col = k + tl.arange(0, PLAN.BLOCK_K)
            da = tl.load(
                dgates_ptr + row_after[:, None] * PLAN.G * H + g * H + head * K + col[None, :],
                mask=crosses[:, None] & (col < K)[None, :], other=0.0,
                cache_modifier=".cg",
            )  # fmt: skip
            w = tl.load(
                w_ptr + ((head * PLAN.G + g) * K + col)[:, None] * K + unit[None, :],
                mask=(col < K)[:, None] & (unit < K)[None, :], other=0.0,
            )  # fmt: skip
            da, w = tile.rounded(da, PLAN.ROUND), tile.rounded(w, PLAN.ROUND)
            dh = tile.multiply(da, w, dh, PLAN.PRECISION)
    return dh


@helper
def dh_in_parts(
    weights,  # what load_weights gave
    w_ptr,
    head,
    da_ptr,  # [BLOCK_B] where a row's gradients by the head's first gate begin
    exists,  # [BLOCK_B]
    block,
    H,
    K,
    PLAN: tl.constexpr,
):
    """Return the sum [BLOCK_B, BLOCK_K] over all gates that h is in."""
    acc = tl.full((PLAN.K_PARTS, PLAN.BLOCK_B, PLAN.BLOCK_K), 0.0, PLAN.DTYPE)
    if PLAN.RESIDENT:
        da = ()
        for i in tl.static_range(PLAN.G * PLAN.CHUNKS):
            gate_ptr = da_ptr + (i // PLAN.CHUNKS) * H
            da = da + (load_moving(gate_ptr, exists, i % PLAN.CHUNKS, K, PLAN),)
        for i in tl.static_range(PLAN.G * PLAN.CHUNKS):
            acc = tile.multiply(da[i], weights[i], acc, PLAN.PRECISION)
    else:
        for g in tl.static_range(PLAN.G):
            for i in tl.range(PLAN.CHUNKS, num_stages=PLAN.STAGES):
                w = load_columns(w_ptr, head, block, g, i, K, PLAN)
                da = load_moving(da_ptr + g * H, exists, i, K, PLAN)
                acc = tile.multiply(da, w, acc, PLAN.PRECISION)
    return summed(acc, PLAN)


# --- parts of both ---


@helper
def load_weights(w_ptr, head, block, K, BACKWARD: tl.constexpr, PLAN: tl.constexpr):
    """Load a block's weights where they are RESIDENT: a tuple of chunks, backwards by gates."""
    weights = ()
    if PLAN.RESIDENT:
        for i in tl.static_range(PLAN.CHUNKS * (PLAN.G if BACKWARD else 1)):
            if BACKWARD:
                w = load_columns(w_ptr, head, block, i // PLAN.CHUNKS, i % PLAN.CHUNKS, K, PLAN)
            else:
                w = load_rows(w_ptr, head, block, i, K, PLAN)
            weights = weights + (w,)
    return weights


@helper
def load_rows(w_ptr, head, block, chunk, K, PLAN: tl.constexpr):
    """Load weights [K_PARTS, PART_K, ROWS]: for all gates of a block, gate by gate."""
    row = tl.arange(0, PLAN.ROWS)[None, None, :]
    gate, unit = row // PLAN.BLOCK_K, block + row % PLAN.BLOCK_K
    col = units_of(chunk, PLAN)[:, :, None]
    mask = (gate < PLAN.G) & (unit < K) & (col < K)
    w = tl.load(w_ptr + ((head * PLAN.G + gate) * K + unit) * K + col, mask=mask, other=0.0)
    return tile.rounded(w, PLAN.ROUND)


@helper
def load_columns(w_ptr, head, block, gate, chunk, K, PLAN: tl.constexpr):
    """Load weights [K_PARTS, PART_K, BLOCK_K]: from a gate to a block's h."""
    unit = block + tl.arange(0, PLAN.BLOCK_K)[None, None, :]
    row = units_of(chunk, PLAN)[:, :, None]
    mask = (row < K) & (unit < K)
    w = tl.load(w_ptr + ((head * PLAN.G + gate) * K + row) * K + unit, mask=mask, other=0.0)
    return tile.rounded(w, PLAN.ROUND)


@helper
def load_moving(row_ptr, exists, chunk, K, PLAN: tl.constexpr):
    """Load a chunk [K_PARTS, BLOCK_B, PART_K] of what other programs have just written.

    .cg because L1 may hold an old line. row_ptr: [BLOCK_B] where a row's K numbers begin.
    """
    col = units_of(chunk, PLAN)[:, None, :]
    x = tl.load(
        row_ptr[None, :, None] + col, mask=exists[None, :, None] & (col < K), other=0.0,
        cache_modifier=".cg",
    )  # fmt: skip
    return tile.rounded(x, PLAN.ROUND)


@helper
def units_of(chunk, PLAN: tl.constexpr):
    """Return the units [K_PARTS, PART_K] that a chunk sums over."""
    part = tl.arange(0, PLAN.K_PARTS)[:, None] * (PLAN.CHUNKS * PLAN.PART_K)
    return part + chunk * PLAN.PART_K + tl.arange(0, PLAN.PART_K)[None, :]


@helper
def summed(acc, PLAN: tl.constexpr):
    """Sum 8 parts of K [8, BLOCK_B, BLOCK_K], always in the same order."""
    acc = tl.reshape(acc, (2, 2, 2, PLAN.BLOCK_B, PLAN.BLOCK_K))
    acc = tl.permute(acc, (3, 4, 2, 1, 0))
    return tile.halves_added(tile.halves_added(tile.halves_added(acc)))
