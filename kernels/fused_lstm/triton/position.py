"""What a program works on: its lane and block, and where a step's rows and states lie.

PLAN is launch.Constants. rows is (T, B, offset_ptr, not_reset_ptr): steps, rows of batch, and what
says which of these are alive and which begin anew. step is (t, lane, first, alive): a lane's step,
its first row in [L * N, .], and how many rows it has.
"""

from __future__ import annotations

import triton.language as tl

from . import barrier
from .helper import helper


@helper
def share(counter_ptr, PLAN: tl.constexpr):
    """How many programs meet; a program's lane, block, part of the block and first block of batch;
    the counters of all that meet and of those that share a block.

    What there is but one of is 0 as a constant, and costs nothing.
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
    """pointers[lane] for a lane known at run time only."""
    found = pointers[0]
    for i in tl.static_range(1, PLAN.LANES):
        found = tl.where(lane == i, pointers[i], found)
    return found


@helper
def place(t, lane, rows, PLAN: tl.constexpr):
    """Of a lane's step t its first row in [L * N, .], and the rows of batch that are alive. In a
    wave before a lane's first step or after its last no row is.
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
    """Where in time a lane's step t is."""
    return tl.where(lane == 1, T - 1 - t, t) if PLAN.BOTH else t


@helper
def first_row(lane, rows, PLAN: tl.constexpr):
    """A lane's first row in [L * N, .]."""
    T, B, offset_ptr, _ = rows
    return lane * tl.load(offset_ptr + T + 1) if PLAN.VARLEN else lane * T * B


@helper
def ahead(lane, B, PLAN: tl.constexpr):
    """Rows from a lane's step to its next, where all have B."""
    return tl.where(lane == 1, -B, B) if PLAN.BOTH else B


@helper
def not_reset(t, lane, b, rows, PLAN: tl.constexpr):
    """[1, BLOCK_B]: whether a row's state is kept before step t; of a chain all lanes have one."""
    _, _, _, not_reset_ptr = rows
    first, alive = place(t, lane, rows, PLAN)
    if PLAN.CHAIN:
        first -= first_row(lane, rows, PLAN)
    return (tl.load(not_reset_ptr + first + b, mask=b < alive, other=1) != 0)[None, :]


@helper
def unless_reset(x, t, lane, b, rows, PLAN: tl.constexpr):
    """x [., BLOCK_B], which step t begins with or sends back, of rows that do not begin anew; 0 of
    others.
    """
    if PLAN.RESETS:
        x = tl.where(not_reset(t, lane, b, rows, PLAN), x, 0.0)
    return x


@helper
def load_state(c0_ptr, c_ptr, step, b, unit, mask, rows, PLAN: tl.constexpr):
    """A block of c before a step: what the step before wrote, or c0 where the row begins here."""
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
    """A state on chip after a step: `new` of rows that are alive in it."""
    if PLAN.VARLEN:
        new = tl.where(mask, new, old)
    return new


@helper
def turns(alive, first_batch, PHASE: tl.constexpr, PLAN: tl.constexpr):
    """How many blocks of batch a program takes in turn, in a PHASE that the launch has. Those that
    have rows alive come first.
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
    """Rows of batch b [BLOCK_B]; of [UNITS, BLOCK_B] elements those that there are, of SIZE a row,
    and where they are in [B, SIZE] and in a slot of the exchange that W is multiplied by.
    """
    b = batch * PLAN.BLOCK_B + tl.arange(0, PLAN.BLOCK_B).to(tl.int64)
    mask = (unit < SIZE)[:, None] & (b < alive)[None, :]
    return b, mask, b[None, :] * SIZE + unit[:, None], b[None, :] * W.PAD + unit[:, None]


@helper
def slot_of(exchange_ptr, slot, batch, W: tl.constexpr):
    """A block of batch in a slot of an exchange that W is multiplied by."""
    return exchange_ptr + slot * W.SLOT + batch * W.TILE


@helper
def output_of(step, b, unit, rows, PLAN: tl.constexpr):
    """Where a block of the top lane's step is in y and dy [N, P]; or of either lane of both
    directions, which are side by side in [N, 2P].
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
    """After a block of batch, unless it is not known which is the last: the others wait for it."""
    if not PLAN.VARLEN and turn == PLAN.BATCH_BLOCKS - 1:
        barrier.arrive(all_ptr, PLAN.MEETS)


@helper
def wait(all_ptr, rounds, programs, PLAN: tl.constexpr):
    """For the others, until all have arrived so many times."""
    if PLAN.VARLEN:
        barrier.arrive(all_ptr, PLAN.MEETS)
    barrier.wait(all_ptr, rounds * programs, PLAN.MEETS, PLAN.NVIDIA, PLAN.POLLS)


@helper
def wait_for_next(all_ptr, wave, waves, programs, PLAN: tl.constexpr):
    """After a wave, except the last, which nothing follows."""
    if PLAN.VARLEN:
        barrier.arrive(all_ptr, PLAN.MEETS)
    rounds = (wave + 1) * PLAN.MEETINGS
    if PLAN.MEETS and wave + 1 < waves:
        barrier.wait(all_ptr, rounds * programs, PLAN.MEETS, PLAN.NVIDIA, PLAN.POLLS)
