"""Layer norm inside a step: a row's statistics are over all units, so all programs of it meet.

In a step once for the product with w_hh, [G*H] a whole, and, of an LSTM, once for c, [H]:
PLAN.MEETINGS counts these too. Names as in position.py; a part is the units of a lane that one
program finishes. Tensors:

shares  [L, 2, 2, PARTS, B] scratch, state dtype: the sums of each part of a lane
gain    [L, (G+2) * H] state dtype: of that product, of c, and c's bias
stats   [L, N, 4] state dtype, in the backward: c's mean and 1 / deviation, and the product's
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton.language as tl

from . import barrier, position, tile
from .cells import lstm
from .helper import helper

EPS = tl.constexpr(1e-5)  # nn.LayerNorm's
SOME = tl.constexpr(32)  # parts that are read at once
PRODUCT, STATE = tl.constexpr(0), tl.constexpr(1)


class Norms(NamedTuple):
    """Tensors of a turn's norms, and the meetings of programs for them."""

    gain_ptr: Any
    shares_ptr: Any
    stats_ptr: Any  # in the backward
    all_ptr: Any  # the counter of all programs that meet
    programs: Any  # how many
    part: Any  # this one's
    wave: Any
    turn: Any


@helper
def share(first, second, kind, rank, norms, step, block, rows, PLAN: tl.constexpr):
    """Hand on two numbers of each row [BLOCK_B], and meet; rank: of a turn's meetings.
    Returns where part 0's are.
    """
    B, there = rows.B, block.b < step.alive
    ptr = norms.shares_ptr + (step.lane * 2 + kind) * (2 * PLAN.PARTS) * B + block.b
    tl.store(ptr + norms.part * B, first, mask=there)
    tl.store(ptr + (PLAN.PARTS + norms.part) * B, second, mask=there)
    barrier.arrive(norms.all_ptr, PLAN.PERSISTENT, PLAN)
    rounds = norms.wave * PLAN.MEETINGS + PLAN.BEFORE + PLAN.NORM * norms.turn + rank
    target = rounds * norms.programs
    barrier.wait(norms.all_ptr, target, PLAN.PERSISTENT, PLAN)
    return ptr


@helper
def parts(ptr, k, step, block, rows, PLAN: tl.constexpr):
    """Load two numbers of parts k to k + SOME [SOME, BLOCK_B]; return the parts' indices too."""
    p = k + tl.arange(0, SOME)
    at = p.to(tl.int64)[:, None] * rows.B
    there = (p < PLAN.PARTS)[:, None] & (block.b < step.alive)[None, :]
    first = tl.load(ptr[None, :] + at, mask=there, other=0.0, cache_modifier=".cg")
    at += PLAN.PARTS * rows.B
    return first, tl.load(ptr[None, :] + at, mask=there, other=0.0, cache_modifier=".cg"), p


@helper
def sums(first, second, kind, rank, norms, step, block, rows, PLAN: tl.constexpr):
    """Return two numbers of each row [BLOCK_B], summed over all parts, always in the same order."""
    ptr = share(first, second, kind, rank, norms, step, block, rows, PLAN)
    first, second = tl.zeros_like(first), tl.zeros_like(second)
    for k in range(0, PLAN.PARTS, SOME):
        one, other, _ = parts(ptr, k, step, block, rows, PLAN)
        first += tl.sum(one, 0)
        second += tl.sum(other, 0)
    return first, second


@helper
def column_sums(x, valid):
    """Sum x [., BLOCK_B] over its rows that are `valid`.

    The tl.where keeps the compiler from contracting a product and its sum into an FMA. Two warps
    that hold the same rows would then round in another order, and differ by a bit.
    """
    return tl.sum(tl.where(valid, x, 0.0), 0)


@helper
def statistics(
    xs, valid, N: tl.constexpr, kind, rank, norms, step, block, rows, PLAN: tl.constexpr
):
    """Return mean and 1 / deviation [1, BLOCK_B] of N blocks xs [UNITS, BLOCK_B] of all parts.

    Each part shares its mean and the squares about it: no large numbers are subtracted.
    """
    units = tl.minimum(tl.maximum(PLAN.H - norms.part * PLAN.UNITS, 1), PLAN.UNITS)
    size = N * units.to(PLAN.ACC)
    # Blocks are added up before their rows are: a sum over rows is a sync or two.
    whole = xs[0]
    for i in tl.static_range(1, N):
        whole += xs[i]
    mean = column_sums(whole, valid) / size
    squares = tl.zeros_like(whole)
    for i in tl.static_range(N):
        off_mean = xs[i] - mean[None, :]
        squares += off_mean * off_mean
    squares = column_sums(squares, valid)
    ptr = share(mean, squares, kind, rank, norms, step, block, rows, PLAN)
    alive = block.b < step.alive
    near = tl.load(ptr, mask=alive, other=0.0, cache_modifier=".cg")  # part 0's mean
    off, squares = tl.zeros_like(mean), tl.zeros_like(mean)
    for k in range(0, PLAN.PARTS, SOME):
        means, others, p = parts(ptr, k, step, block, rows, PLAN)
        sizes = N * tl.minimum(tl.maximum(PLAN.H - p * PLAN.UNITS, 0), PLAN.UNITS).to(PLAN.ACC)
        distance, there = means - near[None, :], (p < PLAN.PARTS)[:, None]
        off += column_sums(sizes[:, None] * distance, there)
        squares += column_sums(others + sizes[:, None] * distance * distance, there)
    off, squares = off / (N * PLAN.H), squares / (N * PLAN.H)
    deviation = tl.sqrt(squares - off * off + EPS)
    return (near + off)[None, :], (1.0 / deviation)[None, :]


@helper
def gain(norms, which, step, block, PLAN: tl.constexpr):
    """Load a gain [UNITS, 1]: of a gate's product, of c (which = G), or c's bias (G + 1)."""
    at = step.lane * ((PLAN.GATES + 2) * PLAN.H) + which * PLAN.H + block.unit
    return tl.load(norms.gain_ptr + at, mask=block.unit < PLAN.H, other=0.0)[:, None]


# --- forward ---


@helper
def of_product(by_h, raw_ptr, norms, step, block, rows, PLAN: tl.constexpr):
    """Return h's part of G gates, normalized and scaled; where SAVE keep it as it was."""
    gates: tl.constexpr = PLAN.GATES
    if PLAN.SAVE:
        at = position.columns_at(step, block, gates, PLAN)
        tile.store_columns(raw_ptr, at, block.mask, by_h, PLAN.H, gates)
    valid = (block.unit < PLAN.H)[:, None]
    mean, rstd = statistics(by_h, valid, gates, PRODUCT, 1, norms, step, block, rows, PLAN)
    scaled = ()
    for i in tl.static_range(gates):
        scaled = scaled + ((by_h[i] - mean) * rstd * gain(norms, i, step, block, PLAN),)
    return scaled


@helper
def lstm_step(x_gates, by_h, c, cell_options, norms, step, block, rows, PLAN: tl.constexpr):
    """Return h, the states after and the columns saved of an LSTM's step: h sees c normalized."""
    saved = lstm.sums(x_gates, by_h, PLAN.HAS)
    saved, made, c_next = lstm.forward(saved, c[0], cell_options, PLAN.HAS)
    valid = (block.unit < PLAN.H)[:, None]
    mean, rstd = statistics((made,), valid, 1, STATE, 2, norms, step, block, rows, PLAN)
    seen = (made - mean) * rstd * gain(norms, PLAN.GATES, step, block, PLAN)
    seen += gain(norms, PLAN.GATES + 1, step, block, PLAN)
    return lstm.output(saved, seen, PLAN.HAS), (c_next,), saved


# --- backward ---


@helper
def stat(norms, which, step, block):
    """Load a statistic [1, BLOCK_B] of the forward: mean and 1 / deviation of c, of the product."""
    at = (step.first + block.b) * 4 + which
    return tl.load(norms.stats_ptr + at, mask=block.b < step.alive, other=0.0)[None, :]


@helper
def lstm_backward(
    saved,
    before,  # the states before the step
    after,  # and after it
    dh,
    dc,
    cell_options,
    dseen_ptr,  # [L, N, H] state dtype, out
    norms,
    step,
    block,
    rows,
    PLAN: tl.constexpr,
):
    """Return what a cell's backward does, of an LSTM's step in which h saw c normalized."""
    made = lstm.made_again(saved, before[0], after[0], cell_options, PLAN.HAS)
    hat = made - stat(norms, 0, step, block)
    hat *= stat(norms, 1, step, block)
    seen = hat * gain(norms, PLAN.GATES, step, block, PLAN)
    seen += gain(norms, PLAN.GATES + 1, step, block, PLAN)
    do, dseen = lstm.output_backward(saved, seen, dh, PLAN.HAS)
    tl.store(dseen_ptr + step.first * PLAN.H + block.at, dseen, mask=block.mask)
    dmade = of_state_backward(dseen, hat, norms, step, block, rows, PLAN)
    by_x, dc_before, dweights = lstm.inner_backward(
        saved, before[0], made, dc[0], do, dmade, cell_options, PLAN.HAS
    )
    return by_x, by_x, (dc_before,), dweights


@helper
def of_state_backward(dseen, c_hat, norms, step, block, rows, PLAN: tl.constexpr):
    """Return the gradient by c, of the gradient by the c that h saw."""
    d = dseen * gain(norms, PLAN.GATES, step, block, PLAN)
    valid = (block.unit < PLAN.H)[:, None]
    along = column_sums(d * c_hat, valid)
    one, other = sums(column_sums(d, valid), along, STATE, 1, norms, step, block, rows, PLAN)
    d -= (one / PLAN.H)[None, :] + c_hat * (other / PLAN.H)[None, :]
    return d * stat(norms, 1, step, block)


@helper
def of_product_backward(
    dgates,  # by G gates
    raw_ptr,  # [L, N, G*H] state dtype: w_hh times h
    norms,
    step,
    block,
    rows,
    PLAN: tl.constexpr,
):
    """Return the gradients by the gates' products with w_hh, of the gradients by the gates."""
    gates: tl.constexpr = PLAN.GATES
    mean = stat(norms, 2, step, block)
    rstd = stat(norms, 3, step, block)
    at = position.columns_at(step, block, gates, PLAN)
    raw = tile.load_columns(raw_ptr, at, block.mask, PLAN.H, gates, PLAN.ACC)
    hats, d = (), ()
    for i in tl.static_range(gates):
        hats = hats + ((raw[i] - mean) * rstd,)
        d = d + (dgates[i] * gain(norms, i, step, block, PLAN),)
    along, whole = d[0] * hats[0], d[0]
    for i in tl.static_range(1, gates):
        along += d[i] * hats[i]
        whole += d[i]
    valid = (block.unit < PLAN.H)[:, None]
    one, other = column_sums(whole, valid), column_sums(along, valid)
    one, other = sums(one, other, PRODUCT, PLAN.NORM, norms, step, block, rows, PLAN)
    one, other = (one / (gates * PLAN.H))[None, :], (other / (gates * PLAN.H))[None, :]
    found = ()
    for i in tl.static_range(gates):
        found = found + (rstd * (d[i] - one - hats[i] * other),)
    return found
