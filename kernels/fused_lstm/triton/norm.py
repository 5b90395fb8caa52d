"""Layer norm inside a step: a row's statistics are over all units, so all programs of it meet.

In a step once for the product with w_hh, [G*H] a whole, and, of an LSTM, once for c, [H]:
PLAN.MEETINGS counts these too. Names as in position.py; a part is the units of a lane that one
program finishes. meeting is (all_ptr, shares_ptr, programs, part, wave, turn): the programs that
meet, and when. Tensors:

shares  [L, 2, 2, PARTS, B] scratch, state dtype: the sums of each part of a lane
gain    [L, (G+2) * H] state dtype: of that product, of c, and c's bias
stats   [L, N, 4] state dtype, in the backward: c's mean and 1 / deviation, and the product's
"""

from __future__ import annotations

import triton.language as tl

from . import barrier, tile
from .helper import helper

EPS = tl.constexpr(1e-5)  # nn.LayerNorm's
SOME = tl.constexpr(32)  # parts that are read at once
PRODUCT, STATE = tl.constexpr(0), tl.constexpr(1)


@helper
def share(first, second, kind, rank, meeting, step, b, rows, PLAN: tl.constexpr):
    """Hand on two numbers of each row [BLOCK_B], and meet; rank: of a turn's meetings.
    Returns where part 0's are.
    """
    all_ptr, shares_ptr, programs, part, wave, turn = meeting
    _, lane, _, alive = step
    _, B, _, _ = rows
    ptr = shares_ptr + (lane * 2 + kind) * (2 * PLAN.PARTS) * B + b
    tl.store(ptr + part * B, first, mask=b < alive)
    tl.store(ptr + (PLAN.PARTS + part) * B, second, mask=b < alive)
    barrier.arrive(all_ptr, PLAN.PERSISTENT)
    rounds = wave * PLAN.MEETINGS + PLAN.BEFORE + PLAN.NORM * turn + rank
    barrier.wait(all_ptr, rounds * programs, PLAN.PERSISTENT, PLAN.NVIDIA, PLAN.POLLS)
    return ptr


@helper
def parts(ptr, k, step, b, rows, PLAN: tl.constexpr):
    """Load two numbers of parts k to k + SOME [SOME, BLOCK_B]; return the parts' indices too."""
    _, _, _, alive = step
    _, B, _, _ = rows
    p = k + tl.arange(0, SOME)
    at, there = p.to(tl.int64)[:, None] * B, (p < PLAN.PARTS)[:, None] & (b < alive)[None, :]
    first = tl.load(ptr[None, :] + at, mask=there, other=0.0, cache_modifier=".cg")
    at += PLAN.PARTS * B
    return first, tl.load(ptr[None, :] + at, mask=there, other=0.0, cache_modifier=".cg"), p


@helper
def sums(first, second, kind, rank, meeting, step, b, rows, PLAN: tl.constexpr):
    """Return two numbers of each row [BLOCK_B], summed over all parts, always in the same order."""
    ptr = share(first, second, kind, rank, meeting, step, b, rows, PLAN)
    first, second = tl.zeros_like(first), tl.zeros_like(second)
    for k in range(0, PLAN.PARTS, SOME):
        one, other, _ = parts(ptr, k, step, b, rows, PLAN)
        first += tl.sum(one, 0)
        second += tl.sum(other, 0)
    return first, second


@helper
def column_sums(x, valid):
    """Sum x [., BLOCK_B] over its rows that are `valid`.

    A select stands between a product and its sum, for a compiler fuses the two: a lane then adds
    its own product unrounded to the rounded product of its neighbour, which does the opposite. Two
    warps that hold the same rows would differ by a bit, and the result read would be a race's.
    """
    return tl.sum(tl.where(valid, x, 0.0), 0)


@helper
def statistics(xs, valid, N: tl.constexpr, kind, rank, meeting, step, b, rows, PLAN: tl.constexpr):
    """Return mean and 1 / deviation [1, BLOCK_B] of N blocks xs [UNITS, BLOCK_B] of all parts.

    Each part shares its mean and the squares about it: no large numbers are subtracted.
    """
    _, _, _, part, _, _ = meeting
    _, _, _, alive = step
    size = N * tl.minimum(tl.maximum(PLAN.H - part * PLAN.UNITS, 1), PLAN.UNITS).to(PLAN.ACC)
    mean = column_sums(xs[0], valid)
    for i in tl.static_range(1, N):
        mean += column_sums(xs[i], valid)
    mean /= size
    squares = tl.zeros_like(mean)
    for i in tl.static_range(N):
        off_mean = xs[i] - mean[None, :]
        squares += column_sums(off_mean * off_mean, valid)
    ptr = share(mean, squares, kind, rank, meeting, step, b, rows, PLAN)
    near = tl.load(ptr, mask=b < alive, other=0.0, cache_modifier=".cg")  # part 0's mean
    off, squares = tl.zeros_like(mean), tl.zeros_like(mean)
    for k in range(0, PLAN.PARTS, SOME):
        means, others, p = parts(ptr, k, step, b, rows, PLAN)
        sizes = N * tl.minimum(tl.maximum(PLAN.H - p * PLAN.UNITS, 0), PLAN.UNITS).to(PLAN.ACC)
        distance, there = means - near[None, :], (p < PLAN.PARTS)[:, None]
        off += column_sums(sizes[:, None] * distance, there)
        squares += column_sums(others + sizes[:, None] * distance * distance, there)
    off, squares = off / (N * PLAN.H), squares / (N * PLAN.H)
    deviation = tl.sqrt(squares - off * off + EPS)
    return (near + off)[None, :], (1.0 / deviation)[None, :]


@helper
def gain(gain_ptr, lane, unit, which, PLAN: tl.constexpr):
    """Load a gain [UNITS, 1]: of a gate's product, of c (which = G), or c's bias (G + 1)."""
    at = lane * ((PLAN.GATES + 2) * PLAN.H) + which * PLAN.H + unit
    return tl.load(gain_ptr + at, mask=unit < PLAN.H, other=0.0)[:, None]


# --- forward ---


@helper
def of_product(by_h, gain_ptr, unit, meeting, step, b, rows, PLAN: tl.constexpr):
    """Return h's part of G gates, normalized and scaled."""
    _, lane, _, _ = step
    valid = (unit < PLAN.H)[:, None]
    gates: tl.constexpr = PLAN.GATES
    mean, rstd = statistics(by_h, valid, gates, PRODUCT, 1, meeting, step, b, rows, PLAN)
    scaled = ()
    for i in tl.static_range(gates):
        scaled = scaled + ((by_h[i] - mean) * rstd * gain(gain_ptr, lane, unit, i, PLAN),)
    return scaled


@helper
def of_state(c, gain_ptr, unit, meeting, step, b, rows, PLAN: tl.constexpr):
    """Return the c that h sees: the new c, normalized over all programs, scaled and shifted."""
    _, lane, _, _ = step
    valid = (unit < PLAN.H)[:, None]
    mean, rstd = statistics((c,), valid, 1, STATE, 2, meeting, step, b, rows, PLAN)
    scaled = (c - mean) * rstd * gain(gain_ptr, lane, unit, PLAN.GATES, PLAN)
    return scaled + gain(gain_ptr, lane, unit, PLAN.GATES + 1, PLAN)


# --- backward ---


@helper
def stat(stats_ptr, which, step, b):
    """Load a statistic [1, BLOCK_B] of the forward: mean and 1 / deviation of c, of the product."""
    _, _, first, alive = step
    return tl.load(stats_ptr + (first + b) * 4 + which, mask=b < alive, other=0.0)[None, :]


@helper
def of_state_again(c, gain_ptr, stats_ptr, unit, step, b, PLAN: tl.constexpr):
    """Return the normalized c, and the c that h saw."""
    _, lane, _, _ = step
    c_hat = c - stat(stats_ptr, 0, step, b)
    c_hat *= stat(stats_ptr, 1, step, b)
    scaled = c_hat * gain(gain_ptr, lane, unit, PLAN.GATES, PLAN)
    return c_hat, scaled + gain(gain_ptr, lane, unit, PLAN.GATES + 1, PLAN)


@helper
def of_state_backward(
    dseen, c_hat, gain_ptr, stats_ptr, unit, meeting, step, b, rows, PLAN: tl.constexpr
):
    """Return the gradient by c, of the gradient by the c that h saw."""
    _, lane, _, _ = step
    d = dseen * gain(gain_ptr, lane, unit, PLAN.GATES, PLAN)
    valid = (unit < PLAN.H)[:, None]
    along = column_sums(d * c_hat, valid)
    one, other = sums(column_sums(d, valid), along, STATE, 1, meeting, step, b, rows, PLAN)
    d -= (one / PLAN.H)[None, :] + c_hat * (other / PLAN.H)[None, :]
    return d * stat(stats_ptr, 1, step, b)


@helper
def of_product_backward(
    dgates,  # by G gates
    raw_ptr,  # [L, N, G*H] state dtype: w_hh times h
    gain_ptr,
    stats_ptr,
    unit,
    mask,
    gates_at,
    meeting,
    step,
    b,
    rows,
    PLAN: tl.constexpr,
):
    """Return the gradients by the gates' products with w_hh, of the gradients by the gates."""
    _, lane, _, _ = step
    gates: tl.constexpr = PLAN.GATES
    mean = stat(stats_ptr, 2, step, b)
    rstd = stat(stats_ptr, 3, step, b)
    raw = tile.load_columns(raw_ptr, gates_at, mask, PLAN.H, gates, PLAN.ACC)
    hats, d = (), ()
    for i in tl.static_range(gates):
        hats = hats + ((raw[i] - mean) * rstd,)
        d = d + (dgates[i] * gain(gain_ptr, lane, unit, i, PLAN),)
    along, whole = d[0] * hats[0], d[0]
    for i in tl.static_range(1, gates):
        along += d[i] * hats[i]
        whole += d[i]
    valid = (unit < PLAN.H)[:, None]
    one, other = column_sums(whole, valid), column_sums(along, valid)
    one, other = sums(one, other, PRODUCT, PLAN.NORM, meeting, step, b, rows, PLAN)
    one, other = (one / (gates * PLAN.H))[None, :], (other / (gates * PLAN.H))[None, :]
    found = ()
    for i in tl.static_range(gates):
        found = found + (rstd * (d[i] - one - hats[i] * other),)
    return found
