"""Parts of a step's products: tiles of weights, a product in chunks, gates.

B, H, P: batch, hidden size, size of h. G: gates. ROWS: rows of a weight tile, on the product's M
side (gate rows in the forward, elements of h in the backward); BLOCK_B columns of batch on its N
side; the sum runs over K in chunks of BLOCK_K, of which the first RESIDENT stay on chip for the
whole launch.

Where K_PARTS is not 1 a chunk's K is shared out to so many warps: tiles are
[K_PARTS, ROWS, BLOCK_K / K_PARTS], and a product has a sum for each part, [K_PARTS, ROWS, BLOCK_B].
`summed` and `gates_of` add them up in one exchange among the warps.

Exchange buffer: vectors that programs hand to one another. Between two steps it has two slots that
take turns, inside of a step one slot. Each slot is padded with zeros to B_PAD = BATCH_BLOCKS *
BLOCK_B rows of PAD, a multiple of BLOCK_K. PLAN is launch.Constants, W one of its launch.Weight.
"""

from __future__ import annotations

import triton.language as tl

from .helper import helper


@helper
def rounded(x, ROUND: tl.constexpr):
    """Round float32 to TF32 where ROUND: to the nearest, ties away from zero; a tensor core cuts.

    A NaN stays one: a GPU's own has all bits set, and an addition would make it zero.
    """
    if ROUND:
        bits = x.to(tl.int32, bitcast=True)
        bits = tl.where(x == x, (bits + 0x1000) & -0x2000, bits)
        x = bits.to(tl.float32, bitcast=True)
    return x


# --- products ---


@helper
def load_tile(
    w_ptr,  # [., .] by W's strides
    row,  # [ROWS] int64
    row_mask,  # [ROWS]
    chunk,
    W: tl.constexpr,
    PLAN: tl.constexpr,
):
    """Load a weight tile [ROWS, BLOCK_K], or [K_PARTS, ROWS, BLOCK_K / K_PARTS], zero outside."""
    if PLAN.K_PARTS == 1:
        col = chunk * PLAN.BLOCK_K + tl.arange(0, PLAN.BLOCK_K)
        offset = row[:, None] * W.STRIDE_ROW + col.to(tl.int64)[None, :] * W.STRIDE_K
        mask = row_mask[:, None] & (col < W.K)[None, :]
    else:
        part = tl.arange(0, PLAN.K_PARTS)[:, None, None] * W.K_PART
        col = part + chunk * PLAN.PART_K + tl.arange(0, PLAN.PART_K)[None, None, :]
        offset = row[None, :, None] * W.STRIDE_ROW + col.to(tl.int64) * W.STRIDE_K
        mask = row_mask[None, :, None] & (col < W.K)
    return rounded(tl.load(w_ptr + offset, mask=mask, other=0.0), PLAN.ROUND_WEIGHTS)


@helper
def load_weight(w_ptr, row, row_mask, W: tl.constexpr, PLAN: tl.constexpr):
    """Load a program's rows of a weight, for `product`: of each gate the first RESIDENT chunks.

    They are loaded once a launch. Return also the place of the other chunks.
    """
    tiles = ()
    for i in tl.static_range(W.GATES * W.RESIDENT):
        of_gate_ptr = w_ptr + (i // W.RESIDENT) * W.STRIDE_GATE
        tiles = tiles + (load_tile(of_gate_ptr, row, row_mask, i % W.RESIDENT, W, PLAN),)
    return tiles, w_ptr, row, row_mask


@helper
def load_moving(
    x_ptr,  # [BLOCK_B, PAD] of an exchange, just written by other programs
    chunk,
    count,  # of the block's rows that exist
    AS_BITS: tl.constexpr,
    W: tl.constexpr,
    PLAN: tl.constexpr,
):
    """Load a chunk [BLOCK_K, BLOCK_B] of x transposed; .cg because L1 may hold an old line.

    The load has no mask by column: an exchange is padded with zeros to whole blocks, so that the
    loads of any H are 16 bytes wide and their addresses one register. Where MASKED, many of the
    block's rows do not exist, and are not loaded.

    AS_BITS: where warps share a chunk that no copy to shared memory brings. Else the compiler moves
    the store to shared memory up to the load that feeds it, and would wait for the load there. A
    cast in between keeps the store at the product, and the load stays in flight. Where products
    take their operands from registers (HOLD) it takes an operation.
    """
    b = tl.arange(0, PLAN.BLOCK_B)
    if PLAN.K_PARTS == 1:
        col = chunk * PLAN.BLOCK_K + tl.arange(0, PLAN.BLOCK_K)
        offset = b[None, :] * W.PAD + col[:, None]
    else:
        part = tl.arange(0, PLAN.K_PARTS)[:, None, None] * W.K_PART
        col = part + chunk * PLAN.PART_K + tl.arange(0, PLAN.PART_K)[None, :, None]
        offset = b[None, None, :] * W.PAD + col
    if PLAN.K_PARTS == 1 and AS_BITS:
        x_ptr = x_ptr.to(tl.pointer_type(PLAN.BITS), bitcast=True)
    if PLAN.MASKED:
        exists = b < count
        exists = exists[None, :] if PLAN.K_PARTS == 1 else exists[None, None, :]
        found = tl.load(x_ptr + offset, mask=exists, other=0.0, cache_modifier=".cg")
    else:
        found = tl.load(x_ptr + offset, cache_modifier=".cg")
    return found


@helper
def count_of(alive, batch, PLAN: tl.constexpr):
    """Return how many rows a block of batch has, of `alive` in all; int32, and may be too many."""
    return (alive - batch * PLAN.BLOCK_B).to(tl.int32)


@helper
def dot(w, bits, acc, x_ptr, PRECISION: tl.constexpr):
    return multiply(w, bits.to(x_ptr.dtype.element_ty, bitcast=True), acc, PRECISION)


@helper
def multiply(w, x, acc, PRECISION: tl.constexpr):
    """Return acc + w . x."""
    if PRECISION == "upcast":  # half precision in the interpreter, which cannot multiply it
        return tl.dot(w.to(acc.dtype), x.to(acc.dtype), acc, out_dtype=acc.dtype)
    return tl.dot(w, x, acc, input_precision=PRECISION, out_dtype=acc.dtype)


@helper
def zeros(ROWS: tl.constexpr, PLAN: tl.constexpr):
    """Return zeros, the first value of a product's sum."""
    if PLAN.K_PARTS == 1:
        acc = tl.full((ROWS, PLAN.BLOCK_B), 0.0, PLAN.ACC)
    else:
        acc = tl.full((PLAN.K_PARTS, ROWS, PLAN.BLOCK_B), 0.0, PLAN.ACC)
    return acc


@helper
def product(
    acc,  # [ROWS, BLOCK_B], or [K_PARTS, ROWS, BLOCK_B]
    weight,  # what load_weight gave
    x_ptrs,  # of each of W.GATES [BLOCK_B, PAD] of an exchange
    count,  # of the block's rows that exist, int32
    W: tl.constexpr,
    PLAN: tl.constexpr,
):
    """Return acc + w[row, :K] . x[:, :K]^T, summed over W.GATES."""
    tiles, w_ptr, row, row_mask = weight
    zero = tl.num_programs(1) - 1  # always, but the compiler cannot know
    chunks = ()
    for i in tl.static_range(W.GATES * W.RESIDENT + PLAN.AHEAD):
        if i < W.GATES * W.RESIDENT:
            x_ptr = x_ptrs[i // W.RESIDENT]
            chunks = chunks + (load_moving(x_ptr, i % W.RESIDENT, count, True, W, PLAN),)
        if i >= PLAN.AHEAD:
            bits = chunks[i - PLAN.AHEAD]
            if W.HOLD:
                bits ^= zero.to(PLAN.BITS)
            acc = dot(tiles[i - PLAN.AHEAD], bits, acc, x_ptrs[0], PLAN.PRECISION)
    for gate in tl.static_range(W.GATES):
        w_gate_ptr = w_ptr + gate * W.STRIDE_GATE
        for chunk in tl.range(W.RESIDENT, W.CHUNKS, num_stages=PLAN.STAGES):
            w = load_tile(w_gate_ptr, row, row_mask, chunk, W, PLAN)
            x = load_moving(x_ptrs[gate], chunk, count, W.HOLD or not PLAN.COPIES, W, PLAN)
            acc = dot(w, x, acc, x_ptrs[0], PLAN.PRECISION)
    return acc


@helper
def product_on_chip(acc, weight, x, W: tl.constexpr, PLAN: tl.constexpr):
    """Return acc + w[row, :K] . x, summed over W.GATES.

    x: a block [K, BLOCK_B] for each gate, of a lane ALONE.
    """
    tiles, _, _, _ = weight
    for i in tl.static_range(W.GATES):
        acc = multiply(tiles[i], x[i], acc, PLAN.PRECISION)
    return acc


@helper
def gate_ptrs(
    exchange_ptr,  # a block of batch in slot 0 of an exchange [2, EXCHANGED, B_PAD, PAD]
    slot,
    first_gate,  # of those that a program sums over
    BY_X: tl.constexpr,  # what the gates' parts by x are multiplied by: w_ih
    W: tl.constexpr,
    PLAN: tl.constexpr,
):
    """Return pointers to the gradients by W.GATES gates, for `product`."""
    found = ()
    for i in tl.static_range(W.GATES):
        gate = first_gate + i
        if BY_X and PLAN.APART:  # parts by x that stay alone lie behind all of those by h
            gate += tl.where(gate >= PLAN.SUMMED, PLAN.OF_H, 0)
        found = found + (exchange_ptr + (slot * PLAN.EXCHANGED + gate) * W.SLOT,)
    return found


@helper
def summed(acc, ROWS: tl.constexpr, PLAN: tl.constexpr):
    """Sum a product over all parts of K [ROWS, BLOCK_B], always in the same order."""
    if PLAN.K_PARTS == 8:
        acc = tl.permute(tl.reshape(acc, (2, 2, 2, ROWS, PLAN.BLOCK_B)), (3, 4, 2, 1, 0))
        acc = halves_added(halves_added(halves_added(acc)))
    elif PLAN.K_PARTS == 4:
        acc = tl.permute(tl.reshape(acc, (2, 2, ROWS, PLAN.BLOCK_B)), (2, 3, 1, 0))
        acc = halves_added(halves_added(acc))
    return acc


@helper
def halves_added(x):
    """Add the two halves of x: [..., 2] -> [...]."""
    first, second = tl.split(x)
    return first + second


# --- gates ---


@helper
def gate_rows(block, ROWS: tl.constexpr, GATES: tl.constexpr, PLAN: tl.constexpr):
    """Return the ROWS of [G*H, .] with the gates of `block`'s units, gate by gate, and the units.

    The unit is H for a row that belongs to no gate, since a tile has rows for 1, 2, 4 or 8 gates.
    """
    r = tl.arange(0, ROWS)
    unit = block * PLAN.UNITS + r % PLAN.UNITS
    row = (r // PLAN.UNITS).to(tl.int64) * PLAN.H + unit
    return row, tl.where(r < GATES * PLAN.UNITS, unit, PLAN.H)


@helper
def gates_of(acc, ROWS: tl.constexpr, PLAN: tl.constexpr):
    """Return the gates [UNITS, BLOCK_B] of a product of gate_rows' ROWS, and those of padding."""
    # Sums and gates go to where one thread has all of an element's: one exchange among warps.
    U: tl.constexpr = PLAN.UNITS
    B: tl.constexpr = PLAN.BLOCK_B
    if ROWS == U:
        gates = (summed(acc, ROWS, PLAN),)
    elif ROWS == 2 * U:
        if PLAN.K_PARTS == 8:
            acc = tl.permute(tl.reshape(acc, (2, 2, 2, 2, U, B)), (4, 5, 3, 2, 1, 0))
            acc = halves_added(halves_added(halves_added(acc)))
        elif PLAN.K_PARTS == 4:
            acc = tl.permute(tl.reshape(acc, (2, 2, 2, U, B)), (3, 4, 2, 1, 0))
            acc = halves_added(halves_added(acc))
        else:
            acc = tl.permute(tl.reshape(acc, (2, U, B)), (1, 2, 0))
        gates = tl.split(acc)
    elif ROWS == 4 * U:
        if PLAN.K_PARTS == 8:
            acc = tl.permute(tl.reshape(acc, (2, 2, 2, 2, 2, U, B)), (5, 6, 4, 3, 2, 1, 0))
            acc = halves_added(halves_added(halves_added(acc)))
        elif PLAN.K_PARTS == 4:
            acc = tl.permute(tl.reshape(acc, (2, 2, 2, 2, U, B)), (4, 5, 3, 2, 1, 0))
            acc = halves_added(halves_added(acc))
        else:
            acc = tl.permute(tl.reshape(acc, (2, 2, U, B)), (2, 3, 1, 0))
        gates = quarters(acc)
    else:
        if PLAN.K_PARTS == 8:
            acc = tl.permute(tl.reshape(acc, (2, 2, 2, 2, 2, 2, U, B)), (6, 7, 5, 4, 3, 2, 1, 0))
            acc = halves_added(halves_added(halves_added(acc)))
        elif PLAN.K_PARTS == 4:
            acc = tl.permute(tl.reshape(acc, (2, 2, 2, 2, 2, U, B)), (5, 6, 4, 3, 2, 1, 0))
            acc = halves_added(halves_added(acc))
        else:
            acc = tl.permute(tl.reshape(acc, (2, 2, 2, U, B)), (3, 4, 2, 1, 0))
        first, last = tl.split(acc)
        gates = quarters(first) + quarters(last)
    return gates


@helper
def quarters(acc):
    """Return the four tiles of sums [., ., 2, 2], of which [., ., j, i] is number 2 i + j."""
    first, last = tl.split(acc)
    tile_0, tile_1 = tl.split(first)
    tile_2, tile_3 = tl.split(last)
    return (tile_0, tile_1, tile_2, tile_3)


@helper
def sums(one, other, N: tl.constexpr):
    """Add N numbers to N others."""
    found = ()
    for i in tl.static_range(N):
        found = found + (one[i] + other[i],)
    return found


@helper
def load_columns(ptr, offset, mask, STRIDE, N: tl.constexpr, ACC: tl.constexpr):
    """Load N columns, STRIDE apart (H in a row of [., N*H]), in the accumulator's dtype."""
    return widened(load_ahead(ptr, offset, mask, STRIDE, N), N, ACC)


@helper
def load_ahead(ptr, offset, mask, STRIDE, N: tl.constexpr):
    """Load N columns as `load_columns` does, in the memory's dtype.

    Nothing waits for them before `widened`.
    """
    found = ()
    for i in tl.static_range(N):
        found = found + (tl.load(ptr + offset + i * STRIDE, mask=mask, other=0.0),)
    return found


@helper
def widened(columns, N: tl.constexpr, ACC: tl.constexpr):
    """Return N columns in the accumulator's dtype."""
    found = ()
    for i in tl.static_range(N):
        found = found + (columns[i].to(ACC),)
    return found


@helper
def store_columns(ptr, offset, mask, columns, STRIDE, N: tl.constexpr):
    """Store N columns, STRIDE apart, in the memory's dtype."""
    for i in tl.static_range(N):
        tl.store(ptr + offset + i * STRIDE, columns[i].to(ptr.dtype.element_ty), mask=mask)


@helper
def sum_partials(partial_ptr, stride, mask, SPLIT: tl.constexpr):
    """Add up the sums of a block's SPLIT programs, always in the same order."""
    total = tl.load(partial_ptr, mask=mask, other=0.0, cache_modifier=".cg")
    for i in tl.static_range(1, SPLIT):
        at = partial_ptr + tl.full((), i, tl.int64) * stride
        total += tl.load(at, mask=mask, other=0.0, cache_modifier=".cg")
    return total
