"""Layer norm inside a sweep: a row's statistics are over all units, so all programs of it meet.

In a step once for the product with w_hh, [4H] a whole, and once for c, [H]: PLAN.MEETINGS counts
these too. Names as in sweep.py; of OPTIONS, where HAS.NORM, after those of all cells:

raw     [L, N, 4H] state dtype, out, in the backward in: w_hh times h
gains   [L, 6H] state dtype: of that product, of c, and c's bias
shares  [L, 2, 2, PARTS, B] scratch, state dtype: what each part of a lane has summed up
stats   [L, N, 4] state dtype, in the backward: c's mean and 1 / deviation, and the product's
by_h    [L, N, 4H] out, in the backward: the gradients by the product with w_hh
dseen   [L, N, H] state dtype, out, in the backward: those by what h sees of c

A part is what one program finishes of a lane. `whole` is whom a program meets, and
what it is about: ((option_ptrs, all_ptr, programs, part), here, b, unit, alive, turn, wave, steps).
"""

from __future__ import annotations

import triton.language as tl

from . import barrier, product
from .helper import helper

EPS = tl.constexpr(1e-5)  # nn.LayerNorm's
SOME = tl.constexpr(32)  # parts that are read at once
PRODUCT, STATE = tl.constexpr(0), tl.constexpr(1)


@helper
def share(first, second, kind, rank, whole, PLAN: tl.constexpr):
    """Hand on two numbers of each row [BLOCK_B], and meet; rank: of the two meetings of a turn.
    Returns where part 0's are.
    """
    given, here, b, _, alive, turn, wave, steps = whole
    option_ptrs, all_ptr, programs, part = given
    _, lane, _ = here
    _, B, _ = steps
    ptr = option_ptrs[10] + (lane * 2 + kind) * (2 * PLAN.PARTS) * B + b
    tl.store(ptr + part * B, first, mask=b < alive)
    tl.store(ptr + (PLAN.PARTS + part) * B, second, mask=b < alive)
    barrier.arrive(all_ptr, PLAN.PERSISTENT)
    rounds = wave * PLAN.MEETINGS + PLAN.BEFORE + 2 * turn + rank
    barrier.wait(all_ptr, rounds * programs, PLAN.PERSISTENT)
    return ptr


@helper
def parts(ptr, k, whole, PLAN: tl.constexpr):
    """The two numbers of parts k to k + SOME, [SOME, BLOCK_B], and which these are."""
    _, _, b, _, alive, _, _, steps = whole
    _, B, _ = steps
    p = k + tl.arange(0, SOME)
    at, there = p.to(tl.int64)[:, None] * B, (p < PLAN.PARTS)[:, None] & (b < alive)[None, :]
    first = tl.load(ptr[None, :] + at, mask=there, other=0.0, cache_modifier=".cg")
    at += PLAN.PARTS * B
    return first, tl.load(ptr[None, :] + at, mask=there, other=0.0, cache_modifier=".cg"), p


@helper
def sums(first, second, kind, rank, whole, PLAN: tl.constexpr):
    """Two numbers of each row [BLOCK_B], summed over all parts, always in the same order."""
    ptr = share(first, second, kind, rank, whole, PLAN)
    first, second = tl.zeros_like(first), tl.zeros_like(second)
    for k in range(0, PLAN.PARTS, SOME):
        one, other, _ = parts(ptr, k, whole, PLAN)
        first += tl.sum(one, 0)
        second += tl.sum(other, 0)
    return first, second


@helper
def column_sums(x, valid):
    """Of x [., BLOCK_B] over its rows, of which those count that are `valid`.

    A choice stands between a product and its sum, for a compiler fuses the two: a lane then adds
    its own product unrounded to the rounded one of its neighbour, which does the opposite. Two
    warps that hold the same rows would disagree by a bit, and which one is read is a race.
    """
    return tl.sum(tl.where(valid, x, 0.0), 0)


@helper
def statistics(x, valid, EACH: tl.constexpr, kind, rank, whole, PLAN: tl.constexpr):
    """Mean and 1 / deviation [1, BLOCK_B] of x [., BLOCK_B], EACH of a unit, and all other parts'.

    A part hands on its mean and the squares about it: no large numbers are subtracted.
    """
    given, _, b, _, alive, _, _, _ = whole
    _, _, _, part = given
    size = EACH * tl.minimum(tl.maximum(PLAN.H - part * PLAN.UNITS, 1), PLAN.UNITS).to(PLAN.ACC)
    mean = column_sums(x, valid) / size
    apart = x - mean[None, :]
    squares = column_sums(apart * apart, valid)
    ptr = share(mean, squares, kind, rank, whole, PLAN)
    near = tl.load(ptr, mask=b < alive, other=0.0, cache_modifier=".cg")  # part 0's mean
    off, squares = tl.zeros_like(mean), tl.zeros_like(mean)
    for k in range(0, PLAN.PARTS, SOME):
        means, others, p = parts(ptr, k, whole, PLAN)
        sizes = EACH * tl.minimum(tl.maximum(PLAN.H - p * PLAN.UNITS, 0), PLAN.UNITS).to(PLAN.ACC)
        distance, there = means - near[None, :], (p < PLAN.PARTS)[:, None]
        off += column_sums(sizes[:, None] * distance, there)
        squares += column_sums(others + sizes[:, None] * distance * distance, there)
    off, squares = off / (EACH * PLAN.H), squares / (EACH * PLAN.H)
    deviation = tl.sqrt(squares - off * off + EPS)
    return (near + off)[None, :], (1.0 / deviation)[None, :]


@helper
def gain(whole, which, PLAN: tl.constexpr):
    """[UNITS, 1]: of the product's four gates, of c, and c's bias."""
    given, here, _, unit, _, _, _, _ = whole
    option_ptrs, _, _, _ = given
    _, lane, _ = here
    at = lane * (6 * PLAN.H) + which * PLAN.H + unit
    return tl.load(option_ptrs[9] + at, mask=unit < PLAN.H, other=0.0)[:, None]


# --- forward ---


@helper
def add_product(gates, acc, whole, mask, gates_at, PLAN: tl.constexpr):
    """Four gates, and acc as product.add_product has it, normalized."""
    option_ptrs, _, _, part = whole[0]
    _, row_unit = product.gate_rows(part, PLAN.H, PLAN.UNITS)
    mean, rstd = statistics(acc, (row_unit < PLAN.H)[:, None], 4, PRODUCT, 1, whole, PLAN)
    i, f, g, o = product.apart(acc, PLAN)
    if PLAN.SAVE:
        product.store_gates(option_ptrs[8], gates_at, mask, (i, f, g, o), PLAN.H)
    return (
        gates[0] + (i - mean) * rstd * gain(whole, 0, PLAN),
        gates[1] + (f - mean) * rstd * gain(whole, 1, PLAN),
        gates[2] + (g - mean) * rstd * gain(whole, 2, PLAN),
        gates[3] + (o - mean) * rstd * gain(whole, 3, PLAN),
    )


@helper
def seen(c, whole, PLAN: tl.constexpr):
    """What h sees of c, of what all have made of it."""
    valid = (whole[3] < PLAN.H)[:, None]
    mean, rstd = statistics(c, valid, 1, STATE, 2, whole, PLAN)
    scaled = (c - mean) * rstd * gain(whole, 4, PLAN)
    return scaled + gain(whole, 5, PLAN)


# --- backward ---


@helper
def stat(whole, which):
    """[1, BLOCK_B] of the forward's: c's mean and 1 / deviation, the product's."""
    given, here, b, _, alive, _, _, _ = whole
    option_ptrs, _, _, _ = given
    _, _, first = here
    at = (first + b) * 4 + which
    return tl.load(option_ptrs[11] + at, mask=b < alive, other=0.0)[None, :]


@helper
def seen_again(c, whole, PLAN: tl.constexpr):
    """c normalized, and what h saw of it."""
    c_hat = c - stat(whole, 0)
    c_hat *= stat(whole, 1)
    scaled = c_hat * gain(whole, 4, PLAN)
    return c_hat, scaled + gain(whole, 5, PLAN)


@helper
def seen_backward(dseen, c_hat, whole, at, mask, PLAN: tl.constexpr):
    """The gradient by c of that by what h saw of it."""
    given, here, _, _, _, _, _, _ = whole
    option_ptrs, _, _, _ = given
    _, _, first = here
    tl.store(option_ptrs[13] + first * PLAN.H + at, dseen, mask=mask)
    d = dseen * gain(whole, 4, PLAN)
    valid = (whole[3] < PLAN.H)[:, None]
    along = column_sums(d * c_hat, valid)
    one, other = sums(column_sums(d, valid), along, STATE, 1, whole, PLAN)
    d -= (one / PLAN.H)[None, :] + c_hat * (other / PLAN.H)[None, :]
    return d * stat(whole, 1)


@helper
def product_backward(dgates, whole, mask, PLAN: tl.constexpr):
    """The gradients by the four gates' products with w_hh, of those by the gates."""
    given, here, b, unit, _, _, _, _ = whole
    option_ptrs, _, _, _ = given
    _, _, first = here
    gates_at = (first + b)[None, :] * (4 * PLAN.H) + unit[:, None]
    mean = stat(whole, 2)
    rstd = stat(whole, 3)
    i, f, g, o = product.load_gates(option_ptrs[8], gates_at, mask, PLAN.H, PLAN.ACC)
    i, f, g, o = (i - mean) * rstd, (f - mean) * rstd, (g - mean) * rstd, (o - mean) * rstd
    di = dgates[0] * gain(whole, 0, PLAN)
    df = dgates[1] * gain(whole, 1, PLAN)
    dg = dgates[2] * gain(whole, 2, PLAN)
    do = dgates[3] * gain(whole, 3, PLAN)
    valid = (unit < PLAN.H)[:, None]
    along = column_sums(di * i + df * f + dg * g + do * o, valid)
    one, other = sums(column_sums(di + df + dg + do, valid), along, PRODUCT, 2, whole, PLAN)
    one, other = (one / (4 * PLAN.H))[None, :], (other / (4 * PLAN.H))[None, :]
    found = (
        rstd * (di - one - i * other),
        rstd * (df - one - f * other),
        rstd * (dg - one - g * other),
        rstd * (do - one - o * other),
    )
    product.store_gates(option_ptrs[12], gates_at, mask, found, PLAN.H)
    return found
