"""Position of a program's work: its lane and block, and the rows and states of a step.

PLAN is launch.Constants. rows is (T, B, offset_ptr, not_reset_ptr): steps, rows of batch, the rows'
offsets by step, and the reset mask. step is (t, lane, first, alive): a lane's step, its first row
in [L * N, .], and how many rows it has.
"""

from __future__ import annotations

import triton.language as tl

from . import barrier
from .helper import helper


@helper
def share(counter_ptr, PLAN: tl.constexpr):
    """Return a program's share of the work: how many programs meet, and its place among them.

    The place is a lane, a block, a part of the block and a first block of batch. The last two
    results are the counters of all programs that meet and of those that share a block. An index
    with one possible value is 0 as a constant, and costs nothing.
    """
    programs = tl.num_programs(0) // PLAN.ROW_GROUPS
    row_group, program = tl.program_id(0) * 0, tl.program_id(0)
    if PLAN.ROW_GROUPS > 1:
        row_group, program = tl.program_id(0) // programs, tl.program_id(0) % programs
    block, part = program // PLAN.SPLIT, program % PLAN.SPLIT
    counter_ptr += row_group * (1 + programs // PLAN.SPLIT) * barrier.APART
    block_counter_ptr = counter_ptr + (1 + block) * barrier.APART
    lane = block * 0
    if PLAN.LANES > 1:
        blocks = programs // (PLAN.LANES * PLAN.SPLIT)
        lane, block = block // blocks, block % blocks
    first_batch = row_group * PLAN.BATCH_BLOCKS
    return programs, lane, block, part, first_batch, counter_ptr, block_counter_ptr


@helper
def pick(pointers, lane, PLAN: tl.constexpr):
    """Return pointers[lane] for a lane known at run time only."""
    found = pointers[0]
    for i in tl.static_range(1, PLAN.LANES):
        found = tl.where(lane == i, pointers[i], found)
    return found


@helper
def place(t, lane, rows, PLAN: tl.constexpr):
    """Return the first row of a lane's step t in [L * N, .], and how many rows of batch are alive.

    In a wave before a lane's first step or after its last no row is alive.
    """
    T, B, offset_ptr, _ = rows
    alive, time = B, time_of(t, lane, T, PLAN)
    first = (lane * T + time) * B
    if PLAN.VARLEN:
        inside = (t >= 0) & (t < T)
        begin = tl.load(offset_ptr + time, mask=inside, other=0)
        alive = tl.load(offset_ptr + time + 1, mask=inside, other=0) - begin
        first = first_row(lane, rows, PLAN) + begin
    elif PLAN.CHAIN or PLAN.RESETS:
        alive = tl.where((t >= 0) & (t < T), B, 0)
    return first, alive


@helper
def time_of(t, lane, T, PLAN: tl.constexpr):
    """Return the time of a lane's step t."""
    return tl.where(lane == 1, T - 1 - t, t) if PLAN.BOTH else t


@helper
def first_row(lane, rows, PLAN: tl.constexpr):
    """Return a lane's first row in [L * N, .]."""
    T, B, offset_ptr, _ = rows
    return lane * tl.load(offset_ptr + T + 1) if PLAN.VARLEN else lane * T * B


@helper
def ahead(lane, B, PLAN: tl.constexpr):
    """Return the rows from a lane's step to its next, where all have B."""
    return tl.where(lane == 1, -B, B) if PLAN.BOTH else B


@helper
def not_reset(t, lane, b, rows, PLAN: tl.constexpr):
    """Load a mask [1, BLOCK_B]: true where a row keeps its state before step t.

    All lanes of a chain have the same mask.
    """
    _, _, _, not_reset_ptr = rows
    first, alive = place(t, lane, rows, PLAN)
    if PLAN.CHAIN:
        first -= first_row(lane, rows, PLAN)
    return (tl.load(not_reset_ptr + first + b, mask=b < alive, other=1) != 0)[None, :]


@helper
def unless_reset(x, t, lane, b, rows, PLAN: tl.constexpr):
    """Return x [., BLOCK_B], a state or a gradient before step t, with 0 in rows that are reset."""
    if PLAN.RESETS:
        x = tl.where(not_reset(t, lane, b, rows, PLAN), x, 0.0)
    return x


@helper
def load_state(c0_ptr, c_ptr, step, b, unit, mask, rows, PLAN: tl.constexpr):
    """Load a block of c before a step: c of the step before, or c0 where the row begins here."""
    t, lane, first, _ = step
    _, B, _, _ = rows
    begin_ptr = c0_ptr + lane * B * PLAN.H
    if PLAN.VARLEN:
        before, alive = place(t - 1, lane, rows, PLAN)
        before = before if PLAN.SAVE else lane * B
        found = tl.where((b < alive)[None, :], c_ptr + before * PLAN.H, begin_ptr)
    else:
        before = first - ahead(lane, B, PLAN) if PLAN.SAVE else lane * B
        found = tl.where(t == 0, begin_ptr, c_ptr + before * PLAN.H)
    c = tl.load(found + (b[None, :] * PLAN.H + unit[:, None]), mask=mask, other=0.0)
    return unless_reset(c, t, lane, b, rows, PLAN)


@helper
def kept_where_dead(new, old, mask, PLAN: tl.constexpr):
    """Return a state on chip after a step: `new` in rows alive in the step, `old` in others."""
    if PLAN.VARLEN:
        new = tl.where(mask, new, old)
    return new


@helper
def turns(alive, first_batch, PHASE: tl.constexpr, PLAN: tl.constexpr):
    """Return how many blocks of batch a program takes in turn, 0 in a PHASE that the launch lacks.

    Blocks with rows alive come first.
    """
    if not PHASE:
        found = 0
    elif PLAN.VARLEN and not PLAN.HAS.NORM:  # who normalizes meets in each turn: all have as many
        found = tl.minimum(tl.cdiv(alive, PLAN.BLOCK_B) - first_batch, PLAN.BATCH_BLOCKS)
    else:
        found = PLAN.BATCH_BLOCKS
    return found


@helper
def block_of(batch, unit, alive, SIZE: tl.constexpr, W: tl.constexpr, PLAN: tl.constexpr):
    """Return the rows of batch b [BLOCK_B] of a block, and a mask of its elements that exist.

    The mask is [UNITS, BLOCK_B], of SIZE elements a row. The elements' offsets follow, first in
    [B, SIZE], then in a slot of the exchange that W multiplies.
    """
    b = batch * PLAN.BLOCK_B + tl.arange(0, PLAN.BLOCK_B).to(tl.int64)
    mask = (unit < SIZE)[:, None] & (b < alive)[None, :]
    return b, mask, b[None, :] * SIZE + unit[:, None], b[None, :] * W.PAD + unit[:, None]


@helper
def slot_of(exchange_ptr, slot, batch, W: tl.constexpr):
    """Return the pointer to a block of batch in a slot of the exchange that W multiplies."""
    return exchange_ptr + slot * W.SLOT + batch * W.TILE


@helper
def output_of(step, b, unit, rows, PLAN: tl.constexpr):
    """Return the offsets in y and dy [N, P] of a block of the top lane's step.

    With both directions a block of either lane has its place, side by side in [N, 2P].
    """
    t, lane, first, _ = step
    _, B, _, _ = rows
    row = (first - first_row(lane, rows, PLAN) + b)[None, :]
    if PLAN.BOTH:
        found = row * (2 * PLAN.P) + lane * PLAN.P + unit[:, None]
    elif PLAN.VARLEN:
        found = row * PLAN.P + unit[:, None]
    else:
        found = t * B * PLAN.P + (b[None, :] * PLAN.P + unit[:, None])
    return found


# --- where programs wait for each other ---


@helper
def arrive(all_ptr, turn, PLAN: tl.constexpr):
    """Add to the grid barrier's counter after the last block of batch.

    In a variable-length batch the last block is not known in advance, and `wait` or `wait_for_next`
    adds to it.
    """
    if not PLAN.VARLEN and turn == PLAN.BATCH_BLOCKS - 1:
        barrier.arrive(all_ptr, PLAN.MEETS)


@helper
def wait(all_ptr, rounds, programs, PLAN: tl.constexpr):
    """Wait at the grid barrier until all programs have arrived `rounds` times."""
    if PLAN.VARLEN:
        barrier.arrive(all_ptr, PLAN.MEETS)
    barrier.wait(all_ptr, rounds * programs, PLAN.MEETS, PLAN.NVIDIA, PLAN.POLLS)


@helper
def wait_for_next(all_ptr, wave, waves, programs, PLAN: tl.constexpr):
    """Wait at the grid barrier after a wave, except after the last."""
    if PLAN.VARLEN:
        barrier.arrive(all_ptr, PLAN.MEETS)
    rounds = (wave + 1) * PLAN.MEETINGS
    if PLAN.MEETS and wave + 1 < waves:
        barrier.wait(all_ptr, rounds * programs, PLAN.MEETS, PLAN.NVIDIA, PLAN.POLLS)
