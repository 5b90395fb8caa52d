"""What a sweep's products are made of: tiles of weights, a product in chunks, gates.

B, H, P: batch, hidden size, size of h. ROWS: rows of a weight tile, on the product's M side (gate
rows in the forward, elements of h in the backward); BLOCK_B columns of batch on its N side; the sum
runs over K in chunks of BLOCK_K, of which the first RESIDENT stay on chip for the whole launch.

Exchange: what programs hand to one another between two steps, in two slots that take turns, or
inside of one, in one slot; each is padded with zeros to B_PAD = BATCH_BLOCKS * BLOCK_B rows of PAD,
a multiple of BLOCK_K. PLAN is launch.Constants, W one of its launch.Weight.
"""

from __future__ import annotations

import triton.language as tl

from .helper import helper


@helper
def load_tile(
    w_ptr,  # [., .] by W's strides
    row,  # [ROWS] int64
    row_mask,  # [ROWS]
    k,  # first column
    W: tl.constexpr,
    PLAN: tl.constexpr,
):
    """A weight tile [ROWS, BLOCK_K], zero outside."""
    col = k + tl.arange(0, PLAN.BLOCK_K)
    offset = row[:, None] * W.STRIDE_ROW + col.to(tl.int64)[None, :] * W.STRIDE_K
    return tl.load(w_ptr + offset, mask=row_mask[:, None] & (col < W.K)[None, :], other=0.0)


@helper
def load_weight(w_ptr, row, row_mask, W: tl.constexpr, PLAN: tl.constexpr):
    """A program's rows of a weight, for `product`: of the first RESIDENT chunks the tiles, loaded
    once a launch; and where to find the others.
    """
    tiles = ()
    for i in tl.static_range(W.RESIDENT):
        tiles = tiles + (load_tile(w_ptr, row, row_mask, i * PLAN.BLOCK_K, W, PLAN),)
    return tiles, w_ptr, row, row_mask


@helper
def load_moving(
    x_ptr,  # [BLOCK_B, PAD] of an exchange, just written by other programs
    k,
    W: tl.constexpr,
    PLAN: tl.constexpr,
):
    """A chunk [BLOCK_K, BLOCK_B] of x transposed, as bits; .cg because L1 may hold an old line.

    Unmasked: an exchange is padded with zeros to whole blocks, so that the loads of any H are 16
    bytes wide and their addresses one register.
    As bits: the compiler moves the store to shared memory up to the load that feeds it, where it
    would wait for it; a cast in between keeps it at the product, and the load stays in flight.
    Where products take their operands from registers (HOLD) it takes an operation.
    """
    col, b = k + tl.arange(0, PLAN.BLOCK_K), tl.arange(0, PLAN.BLOCK_B)
    bits_ptr = x_ptr.to(tl.pointer_type(PLAN.BITS), bitcast=True)
    return tl.load(bits_ptr + b[None, :] * W.PAD + col[:, None], cache_modifier=".cg")


@helper
def dot(w, bits, acc, x_ptr, PRECISION: tl.constexpr):
    x = bits.to(x_ptr.dtype.element_ty, bitcast=True)
    if PRECISION == "upcast":  # half precision in the interpreter, which cannot multiply it
        return tl.dot(w.to(acc.dtype), x.to(acc.dtype), acc, out_dtype=acc.dtype)
    return tl.dot(w, x, acc, input_precision=PRECISION, out_dtype=acc.dtype)


@helper
def product(
    acc,  # [ROWS, BLOCK_B]
    weight,  # what load_weight gave
    x_ptr,  # [BLOCK_B, PAD] of an exchange
    W: tl.constexpr,
    PLAN: tl.constexpr,
):
    """acc + w[row, :K] . x[:, :K]^T."""
    tiles, w_ptr, row, row_mask = weight
    zero = tl.num_programs(1) - 1  # always, but the compiler cannot know
    chunks = ()
    for i in tl.static_range(W.RESIDENT + PLAN.AHEAD):
        if i < W.RESIDENT:
            chunks = chunks + (load_moving(x_ptr, i * PLAN.BLOCK_K, W, PLAN),)
        if i >= PLAN.AHEAD:
            bits = chunks[i - PLAN.AHEAD]
            if W.HOLD:
                bits ^= zero.to(PLAN.BITS)
            acc = dot(tiles[i - PLAN.AHEAD], bits, acc, x_ptr, PLAN.PRECISION)
    for k in tl.range(W.RESIDENT * PLAN.BLOCK_K, W.K, PLAN.BLOCK_K, num_stages=PLAN.STAGES):
        w = load_tile(w_ptr, row, row_mask, k, W, PLAN)
        acc = dot(w, load_moving(x_ptr, k, W, PLAN), acc, x_ptr, PLAN.PRECISION)
    return acc


@helper
def transposed(
    acc,  # [UNITS, BLOCK_B]
    weight,  # of [4 // SPLIT * H, P], a part of the gates'
    x_ptr,  # a part's first gate in slot 0 of an exchange [2, 4, B_PAD, PAD]
    slot,
    W: tl.constexpr,
    PLAN: tl.constexpr,
):
    """acc + w[:, row]^T . x^T, summed over the gates of one part."""
    tiles, w_ptr, row, row_mask = weight
    for gate in tl.static_range(4 // PLAN.SPLIT):
        own = tiles, w_ptr + gate * PLAN.H * PLAN.P, row, row_mask
        acc = product(acc, own, x_ptr + (slot * 4 + gate) * W.SLOT, W, PLAN)
    return acc


# --- gates ---


@helper
def gate_rows(block, H: tl.constexpr, UNITS: tl.constexpr):
    """The rows of [4H, .] that hold the gates of `block`'s units, gate by gate, and their unit."""
    r = tl.arange(0, 4 * UNITS)
    unit = block * UNITS + r % UNITS
    return (r // UNITS).to(tl.int64) * H + unit, unit


@helper
def apart(acc, PLAN: tl.constexpr):
    """acc [4 * UNITS, BLOCK_B], gate by gate -> four [UNITS, BLOCK_B]."""
    acc = tl.permute(tl.reshape(acc, (2, 2, PLAN.UNITS, PLAN.BLOCK_B)), (2, 3, 1, 0))
    i_f, g_o = tl.split(acc)
    i, f = tl.split(i_f)
    g, o = tl.split(g_o)
    return i, f, g, o


@helper
def add_product(gates, acc, PLAN: tl.constexpr):
    """Four gates [UNITS, BLOCK_B], and acc [4 * UNITS, BLOCK_B] that has them gate by gate."""
    i, f, g, o = apart(acc, PLAN)
    return gates[0] + i, gates[1] + f, gates[2] + g, gates[3] + o


@helper
def load_gates(gates_ptr, offset, mask, STRIDE, ACC: tl.constexpr):
    """Four gates, STRIDE apart (H in a row of [., 4H]), in the accumulator's dtype."""
    i = tl.load(gates_ptr + offset, mask=mask, other=0.0).to(ACC)
    f = tl.load(gates_ptr + offset + STRIDE, mask=mask, other=0.0).to(ACC)
    g = tl.load(gates_ptr + offset + 2 * STRIDE, mask=mask, other=0.0).to(ACC)
    o = tl.load(gates_ptr + offset + 3 * STRIDE, mask=mask, other=0.0).to(ACC)
    return i, f, g, o


@helper
def store_gates(gates_ptr, offset, mask, gates, STRIDE):
    """Four gates, STRIDE apart, in the memory's dtype."""
    dtype = gates_ptr.dtype.element_ty
    tl.store(gates_ptr + offset, gates[0].to(dtype), mask=mask)
    tl.store(gates_ptr + offset + STRIDE, gates[1].to(dtype), mask=mask)
    tl.store(gates_ptr + offset + 2 * STRIDE, gates[2].to(dtype), mask=mask)
    tl.store(gates_ptr + offset + 3 * STRIDE, gates[3].to(dtype), mask=mask)


@helper
def sum_partials(partial_ptr, stride, mask, SPLIT: tl.constexpr):
    """Add up what the SPLIT programs of a block wrote, always in the same order."""
    total = tl.load(partial_ptr, mask=mask, other=0.0, cache_modifier=".cg")
    for i in tl.static_range(1, SPLIT):
        at = partial_ptr + tl.full((), i, tl.int64) * stride
        total += tl.load(at, mask=mask, other=0.0, cache_modifier=".cg")
    return total
