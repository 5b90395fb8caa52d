"""What the steps and layers kernels share: tiles of weights, a product in chunks, gate rows.

B, H: batch, hidden size. ROWS: rows of a weight tile, on the product's M side (gate rows in the
forward, hidden units in the backward); BLOCK_B columns of batch on its N side; the sum runs over
H in chunks of BLOCK_K, of which the first RESIDENT stay on chip for the whole launch.

Exchange: what programs hand to one another between two steps, in two slots that take turns, each
padded with zeros to B_PAD = BATCH_BLOCKS * BLOCK_B rows of H_PAD, a multiple of BLOCK_K.
"""

from __future__ import annotations

import triton.language as tl

from .helper import helper


@helper
def load_weight(
    w_ptr,  # [., .] by STRIDE_ROW and STRIDE_K
    row,  # [ROWS] int64
    row_mask,  # [ROWS]
    k,  # first column
    STRIDE_ROW: tl.constexpr,
    STRIDE_K: tl.constexpr,
    H: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """A weight tile [ROWS, BLOCK_K], zero outside."""
    col = k + tl.arange(0, BLOCK_K)
    offset = row[:, None] * STRIDE_ROW + col.to(tl.int64)[None, :] * STRIDE_K
    return tl.load(w_ptr + offset, mask=row_mask[:, None] & (col < H)[None, :], other=0.0)


@helper
def load_resident(
    w_ptr,
    row,
    row_mask,
    STRIDE_ROW: tl.constexpr,
    STRIDE_K: tl.constexpr,
    H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,
):
    """The first RESIDENT chunks of a program's weights, loaded once a launch."""
    tiles = ()
    for i in tl.static_range(RESIDENT):
        tile = load_weight(w_ptr, row, row_mask, i * BLOCK_K, STRIDE_ROW, STRIDE_K, H, BLOCK_K)
        tiles = tiles + (tile,)
    return tiles


@helper
def load_moving(
    x_ptr,  # [BLOCK_B, H_PAD] of an exchange, just written by other programs
    k,
    H_PAD: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BITS: tl.constexpr,  # the integer type of the element's size
):
    """A chunk [BLOCK_K, BLOCK_B] of x transposed, as bits; .cg because L1 may hold an old line.

    Unmasked: an exchange is padded with zeros to whole blocks, so that the loads of any H are 16
    bytes wide and their addresses one register.
    As bits: the compiler moves the store to shared memory up to the load that feeds it, where it
    would wait for it; a cast in between keeps it at the product, and the load stays in flight.
    Where products take their operands from registers (HOLD) it takes an operation.
    """
    col, b = k + tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_B)
    bits_ptr = x_ptr.to(tl.pointer_type(BITS), bitcast=True)
    return tl.load(bits_ptr + b[None, :] * H_PAD + col[:, None], cache_modifier=".cg")


@helper
def dot(w, bits, acc, x_ptr, PRECISION: tl.constexpr):
    x = bits.to(x_ptr.dtype.element_ty, bitcast=True)
    if PRECISION == "upcast":  # half precision in the interpreter, which cannot multiply it
        return tl.dot(w.to(acc.dtype), x.to(acc.dtype), acc, out_dtype=acc.dtype)
    return tl.dot(w, x, acc, input_precision=PRECISION, out_dtype=acc.dtype)


@helper
def product(
    acc,  # [ROWS, BLOCK_B]
    tiles,  # RESIDENT x [ROWS, BLOCK_K]
    w_ptr,
    row,
    row_mask,
    x_ptr,  # [BLOCK_B, H_PAD] of an exchange
    STRIDE_ROW: tl.constexpr,
    STRIDE_K: tl.constexpr,
    H: tl.constexpr,
    H_PAD: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,
    AHEAD: tl.constexpr,  # chunks of x in flight in registers before the resident products
    STAGES: tl.constexpr,  # stages of the streamed products' pipeline
    HOLD: tl.constexpr,  # a cast is not enough to keep a chunk in registers: before sm_90
    PRECISION: tl.constexpr,
    BITS: tl.constexpr,
):
    """acc + w[row, :H] . x[:, :H]^T."""
    zero = tl.num_programs(1) - 1  # always, but the compiler cannot know
    chunks = ()
    for i in tl.static_range(RESIDENT + AHEAD):
        if i < RESIDENT:
            chunks = chunks + (load_moving(x_ptr, i * BLOCK_K, H_PAD, BLOCK_B, BLOCK_K, BITS),)
        if i >= AHEAD:
            bits = chunks[i - AHEAD]
            if HOLD:
                bits ^= zero.to(BITS)
            acc = dot(tiles[i - AHEAD], bits, acc, x_ptr, PRECISION)
    for k in tl.range(RESIDENT * BLOCK_K, H, BLOCK_K, num_stages=STAGES):
        w = load_weight(w_ptr, row, row_mask, k, STRIDE_ROW, STRIDE_K, H, BLOCK_K)
        bits_k = load_moving(x_ptr, k, H_PAD, BLOCK_B, BLOCK_K, BITS)
        acc = dot(w, bits_k, acc, x_ptr, PRECISION)
    return acc


# --- gate rows ---


@helper
def gate_rows(block, H: tl.constexpr, UNITS: tl.constexpr):
    """The rows of [4H, .] that hold the gates of `block`'s units, gate by gate, and their unit."""
    r = tl.arange(0, 4 * UNITS)
    unit = block * UNITS + r % UNITS
    return (r // UNITS).to(tl.int64) * H + unit, unit


@helper
def split_gates(acc, UNITS: tl.constexpr, BLOCK_B: tl.constexpr):
    """[4 * UNITS, BLOCK_B], gate by gate -> four [UNITS, BLOCK_B]."""
    acc = tl.permute(tl.reshape(acc, (2, 2, UNITS, BLOCK_B)), (2, 3, 1, 0))
    i_f, g_o = tl.split(acc)
    i, f = tl.split(i_f)
    g, o = tl.split(g_o)
    return i, f, g, o


@helper
def sum_partials(partial_ptr, stride, mask, SPLIT: tl.constexpr):
    """Add up what the SPLIT programs of a block wrote, always in the same order."""
    total = tl.load(partial_ptr, mask=mask, other=0.0, cache_modifier=".cg")
    for i in tl.static_range(1, SPLIT):
        at = partial_ptr + tl.full((), i, tl.int64) * stride
        total += tl.load(at, mask=mask, other=0.0, cache_modifier=".cg")
    return total
