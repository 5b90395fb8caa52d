"""Position of a program's work: its lane and block, and the rows and states of a step.

PLAN is launch.Constants. What travels together through kernels is a tuple with named fields, which
Triton can build, hand on and read by name.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton.language as tl

from . import barrier, tile
from .helper import helper


class Rows(NamedTuple):
    """The rows of a launch's lanes."""

    T: Any  # steps
    B: Any  # rows of batch
    offset_ptr: Any  # [T + 2 + B] int64, where VARLEN: the rows' offsets by step; their steps
    not_reset_ptr: Any  # [D, N] uint8, where RESETS
    N: Any = 0  # rows of a lane, where a scan has loaded them


class Share(NamedTuple):
    """A program's share of the work, and those that it meets."""

    programs: Any  # that meet
    lane: Any  # among the launch's
    block: Any
    part: Any  # of the block's SPLIT
    first_batch: Any  # the first of its blocks of batch
    all_ptr: Any  # counter of all programs that meet
    block_ptr: Any  # counter of those that share a block


class Step(NamedTuple):
    """A lane's step."""

    t: Any
    lane: Any  # int64, among the stack's: tensors [L, ...] are those of all
    first: Any  # its first row in [L * N, .]
    alive: Any  # how many rows it has
    more: Any = 0  # how many the next has, where TWO_AHEAD in the forward


class Block(NamedTuple):
    """Units, or elements of h, of a block of batch: tiles [UNITS, BLOCK_B]."""

    batch: Any  # the block's number among those of batch
    b: Any  # rows of batch [BLOCK_B] int64
    unit: Any  # [UNITS]
    mask: Any  # of elements that exist
    at: Any  # their offsets in [B, SIZE]
    slot_at: Any  # and in a slot of an exchange


@helper
def share(counter_ptr, first_lane, PLAN: tl.constexpr):
    """Return a program's share of the work.

    An index with one possible value is 0 as a constant, and costs nothing. Heads meet by
    themselves.
    """
    groups: tl.constexpr = PLAN.ROW_GROUPS * (PLAN.LANES if PLAN.HEADS else 1)
    programs = tl.num_programs(0) // groups
    group, program = tl.program_id(0) * 0, tl.program_id(0)
    if groups > 1:
        group, program = tl.program_id(0) // programs, tl.program_id(0) % programs
    block, part = program // PLAN.SPLIT, program % PLAN.SPLIT
    counter_ptr += first_lane // PLAN.LANES * PLAN.COUNTERS
    counter_ptr += group * (1 + programs // PLAN.SPLIT) * barrier.APART
    block_counter_ptr = counter_ptr + (1 + block) * barrier.APART
    lane, row_group = block * 0, group
    if PLAN.HEADS:
        lane, row_group = group // PLAN.ROW_GROUPS, group % PLAN.ROW_GROUPS
    elif PLAN.LANES > 1:
        blocks = programs // (PLAN.LANES * PLAN.SPLIT)
        lane, block = block // blocks, block % blocks
    first_batch = row_group * PLAN.BATCH_BLOCKS
    return Share(
        programs=programs, lane=lane, block=block, part=part, first_batch=first_batch,
        all_ptr=counter_ptr, block_ptr=block_counter_ptr,
    )  # fmt: skip


@helper
def pick(pointers, lane, first_lane, SIZE: tl.constexpr, PLAN: tl.constexpr):
    """Return pointers[lane] for a lane of the launch known at run time only.

    Heads have one pointer, to all of the stack's tensors of SIZE elements.
    """
    found = pointers[0]
    if PLAN.HEADS:
        found += (first_lane + lane).to(tl.int64) * SIZE
    else:
        for i in tl.static_range(1, PLAN.LANES):
            found = tl.where(lane == i, pointers[i], found)
    return found


@helper
def place(t, lane, rows, PLAN: tl.constexpr):
    """Return the first row of a lane's step t in [L * N, .], and how many rows of batch are alive.

    In a wave before a lane's first step or after its last no row is alive.
    """
    alive, time = rows.B, time_of(t, lane, rows.T, PLAN)
    first = (lane * rows.T + time) * rows.B
    if PLAN.VARLEN:
        inside = (t >= 0) & (t < rows.T)
        begin = tl.load(rows.offset_ptr + time, mask=inside, other=0)
        alive = tl.load(rows.offset_ptr + time + 1, mask=inside, other=0) - begin
        first = first_row(lane, rows, PLAN) + begin
    elif PLAN.CHAIN or PLAN.RESETS or PLAN.TWO_AHEAD:
        alive = tl.where((t >= 0) & (t < rows.T), rows.B, 0)
    return first, alive


@helper
def step_of(t, lane, rows, PLAN: tl.constexpr):
    """Return a lane's step t."""
    first, alive = place(t, lane, rows, PLAN)
    return Step(t=t, lane=lane, first=first, alive=alive)


@helper
def rows_of_a_lane(T, offset_ptr, PLAN: tl.constexpr):
    """Return the number of a lane's rows, where a scan loads it beforehand, else 0."""
    N = 0
    if PLAN.TWO_AHEAD and PLAN.VARLEN:
        N = tl.load(offset_ptr + T + 1)
    return N


@helper
def followed(step, after):
    """Return a step with the number of rows of the step after it."""
    return Step(t=step.t, lane=step.lane, first=step.first, alive=step.alive, more=after.alive)


@helper
def first_step(lane, b, rows, PLAN: tl.constexpr):
    """Return the number of the first step that rows of batch `b` have in a lane."""
    begin = b * 0
    if PLAN.VARLEN and (PLAN.REVERSE or PLAN.BOTH):
        begin = rows.T - steps_of(b, rows)
        if PLAN.BOTH:
            begin = tl.where(lane & 1 == 1, begin, 0)
    return begin


@helper
def waves_of_scan(begin, waves, lane, batch, rows, PLAN: tl.constexpr):
    """Return the first wave of a scan's block of batch, and how many: those of its longest row."""
    if PLAN.VARLEN:
        b = (batch * PLAN.BLOCK_B).to(tl.int64)
        steps = steps_of(b, rows)
        first = first_step(lane, b, rows, PLAN)
        if not PLAN.FORWARD:  # which begins with the last step
            first = rows.T - steps - first
        begin, waves = first.to(tl.int32), steps.to(tl.int32)
    return begin, waves


@helper
def steps_of(b, rows):
    """Load how many steps rows of batch `b` have, where VARLEN."""
    return tl.load(rows.offset_ptr + rows.T + 2 + b, mask=b < rows.B, other=0)


@helper
def age(step, b, rows, PLAN: tl.constexpr):
    """Return how many steps rows of batch [BLOCK_B] have had before a step, int32."""
    return (step.t - first_step(step.lane, b, rows, PLAN)).to(tl.int32)


@helper
def time_of(t, lane, T, PLAN: tl.constexpr):
    """Return the time of a lane's step t."""
    if PLAN.REVERSE:
        t = T - 1 - t
    elif PLAN.BOTH:
        t = tl.where(lane & 1 == 1, T - 1 - t, t)
    return t


@helper
def first_row(lane, rows, PLAN: tl.constexpr):
    """Return a lane's first row in [L * N, .]."""
    T, B = rows.T, rows.B
    if PLAN.VARLEN:
        first = lane * (rows.N if PLAN.TWO_AHEAD else tl.load(rows.offset_ptr + T + 1))
    else:
        first = lane * T * B
    return first


@helper
def first_of_all(lane, rows, PLAN: tl.constexpr):
    """Return the row of a lane's first step in [L * N, .], where all steps have B rows."""
    T, B = rows.T, rows.B
    first = lane * T * B
    if PLAN.REVERSE:
        first += (T - 1) * B
    elif PLAN.BOTH:
        first += (lane & 1) * (T - 1) * B
    return first


@helper
def ahead(lane, B, PLAN: tl.constexpr):
    """Return the rows from a lane's step to its next, where all have B."""
    if PLAN.REVERSE:
        B = -B
    elif PLAN.BOTH:
        B = tl.where(lane & 1 == 1, -B, B)
    return B


@helper
def load_not_reset(step, b, rows, PLAN: tl.constexpr):
    """Load [BLOCK_B] uint8, 0 where a row's state is zero before a step.

    All lanes of a direction have the same.
    """
    lane = step.lane
    first = step.first - first_row(lane - (lane & 1 if PLAN.BOTH else 0), rows, PLAN)
    return tl.load(rows.not_reset_ptr + first + b, mask=b < step.alive, other=1)


@helper
def not_reset(t, lane, b, rows, PLAN: tl.constexpr):
    """Load a mask [1, BLOCK_B]: true where a row keeps its state before step t."""
    return (load_not_reset(step_of(t, lane, rows, PLAN), b, rows, PLAN) != 0)[None, :]


@helper
def unless_reset(x, t, lane, b, rows, PLAN: tl.constexpr):
    """Return x [., BLOCK_B], a state or a gradient before step t, with 0 in rows that are reset."""
    if PLAN.RESETS:
        x = tl.where(not_reset(t, lane, b, rows, PLAN), x, 0.0)
    return x


@helper
def states_at(block, PLAN: tl.constexpr):
    """Return the offsets of a block's first state in [B, STATES * H]; others follow, H apart."""
    return block.b[None, :] * (PLAN.STATES * PLAN.H) + block.unit[:, None]


@helper
def columns_at(step, block, COLUMNS: tl.constexpr, PLAN: tl.constexpr):
    """Return the offsets of a block's first column in [L * N, COLUMNS * H]; others are H apart."""
    return (step.first + block.b)[None, :] * (COLUMNS * PLAN.H) + block.unit[:, None]


@helper
def load_states(c0_ptr, c_ptr, step, block, rows, PLAN: tl.constexpr):
    """Load a block's states before a step, zero in rows that are reset."""
    before = step_before(step, rows, PLAN)
    states = states_after(c0_ptr, c_ptr, before, block, rows, PLAN)
    return each_unless_reset(states, step.t, step.lane, block.b, rows, PLAN)


@helper
def step_before(step, rows, PLAN: tl.constexpr):
    """Return the step before a step."""
    if PLAN.VARLEN:
        before = step_of(step.t - 1, step.lane, rows, PLAN)
    else:
        first = step.first - ahead(step.lane, rows.B, PLAN)
        before = Step(t=step.t - 1, lane=step.lane, first=first, alive=step.alive)
    return before


@helper
def states_after(c0_ptr, c_ptr, step, block, rows, PLAN: tl.constexpr):
    """Load a block's states after a step, or c0 of rows that are not alive in it."""
    lane, B = step.lane, rows.B
    SIZE: tl.constexpr = PLAN.STATES * PLAN.H
    begin_ptr = c0_ptr + lane * B * SIZE
    after_ptr = c_ptr + (step.first if PLAN.SAVE else lane * B) * SIZE
    if PLAN.VARLEN:
        found = tl.where((block.b < step.alive)[None, :], after_ptr, begin_ptr)
    else:
        found = tl.where(step.t == -1, begin_ptr, after_ptr)
    found += states_at(block, PLAN)
    return tile.load_ahead(found, 0, block.mask, PLAN.H, PLAN.STATES)


@helper
def each_unless_reset(states, t, lane, b, rows, PLAN: tl.constexpr):
    """Return states before step t, or their gradients, with 0 in rows that are reset."""
    if PLAN.RESETS:
        step = step_of(t, lane, rows, PLAN)
        states = where_kept(states, load_not_reset(step, b, rows, PLAN), PLAN)
    return states


@helper
def where_kept(states, not_reset, PLAN: tl.constexpr):
    """Return states before a step, or their gradients, with 0 in rows that are reset.

    not_reset: as `load_not_reset` returns it, where RESETS.
    """
    if PLAN.RESETS:
        kept = (not_reset != 0)[None, :]
        found = ()
        for i in tl.static_range(PLAN.STATES):
            found = found + (tl.where(kept, states[i], 0.0),)
        states = found
    return states


@helper
def ending(step, rows, PLAN: tl.constexpr):
    """Return how many of a step's rows go on: those from there on end with it."""
    more = tl.where(step.t == rows.T - 1, 0, step.alive)
    if PLAN.VARLEN:
        more = step.more
        if not PLAN.TWO_AHEAD:
            _, more = place(step.t + 1, step.lane, rows, PLAN)
        more = tl.minimum(more, step.alive)  # backwards in time more rows begin
    return more


@helper
def kept_where_dead(new, old, mask, N: tl.constexpr, PLAN: tl.constexpr):
    """Return N tiles on chip after a step: `new` in rows alive in the step, `old` in others."""
    if PLAN.VARLEN:
        found = ()
        for i in tl.static_range(N):
            found = found + (tl.where(mask, new[i], old[i]),)
        new = found
    return new


@helper
def turns(alive, first_batch, PHASE: tl.constexpr, PLAN: tl.constexpr):
    """Return how many blocks of batch a program takes in turn, 0 in a PHASE that the launch lacks.

    Blocks with rows alive come first.
    """
    if not PHASE:
        found = 0
    # A layer norm meets in each turn, so all have as many; a scan ends with its longest row.
    elif PLAN.VARLEN and not (PLAN.HAS.NORM or PLAN.TWO_AHEAD):
        found = tl.minimum(tl.cdiv(alive, PLAN.BLOCK_B) - first_batch, PLAN.BATCH_BLOCKS)
    else:
        found = PLAN.BATCH_BLOCKS
    return found


@helper
def block_of(batch, unit, alive, SIZE: tl.constexpr, W: tl.constexpr, PLAN: tl.constexpr):
    """Return a block of batch, of rows with SIZE elements each, of an exchange that W multiplies.

    Elements of the first `alive` rows exist.
    """
    b = batch * PLAN.BLOCK_B + tl.arange(0, PLAN.BLOCK_B).to(tl.int64)
    mask = (unit < SIZE)[:, None] & (b < alive)[None, :]
    at, slot_at = b[None, :] * SIZE + unit[:, None], b[None, :] * W.PAD + unit[:, None]
    return Block(batch=batch, b=b, unit=unit, mask=mask, at=at, slot_at=slot_at)


@helper
def slot_of(exchange_ptr, slot, batch, W: tl.constexpr):
    """Return the pointer to a block of batch in a slot of the exchange that W multiplies."""
    return exchange_ptr + slot * W.SLOT + batch * W.TILE


@helper
def output_of(step, block, rows, PLAN: tl.constexpr):
    """Return the offsets in y and dy [N, P] of a block of the top lane's step.

    Both directions have their places side by side in [N, 2P], and heads in [N, WIDTH].
    """
    b, unit = block.b, block.unit
    row = (step.first - first_row(step.lane, rows, PLAN) + b)[None, :]
    if PLAN.BOTH or PLAN.HEADS:
        side = step.lane & 1 if PLAN.BOTH else step.lane
        found = row * PLAN.WIDTH + side * PLAN.P + unit[:, None]
    elif PLAN.VARLEN or PLAN.REVERSE:
        found = row * PLAN.P + unit[:, None]
    else:
        found = step.t * rows.B * PLAN.P + (b[None, :] * PLAN.P + unit[:, None])
    return found


# --- where programs wait for each other ---


@helper
def arrive(all_ptr, turn, PLAN: tl.constexpr):
    """Add to the grid barrier's counter after the last block of batch.

    In a variable-length batch the last block is not known in advance, and `wait` or `wait_for_next`
    adds to it.
    """
    if not (PLAN.VARLEN or PLAN.PHASE) and turn == PLAN.BATCH_BLOCKS - 1:
        barrier.arrive(all_ptr, PLAN.MEETS, PLAN)


@helper
def wait(share, rounds, PLAN: tl.constexpr):
    """Wait at the grid barrier until all programs have arrived `rounds` times."""
    if PLAN.VARLEN:
        barrier.arrive(share.all_ptr, PLAN.MEETS, PLAN)
    target = rounds * share.programs
    barrier.wait(share.all_ptr, target, PLAN.MEETS, PLAN)


@helper
def wait_for_next(share, wave, waves, PLAN: tl.constexpr):
    """Wait at the grid barrier after a wave, except after the last.

    Where PHASE there is none, but a program's own warps meet: one may read what another has stored.
    """
    if PLAN.VARLEN or PLAN.PHASE:
        barrier.arrive(share.all_ptr, PLAN.MEETS, PLAN)
    target = (wave + 1) * PLAN.MEETINGS * share.programs
    if PLAN.MEETS and wave + 1 < waves:
        barrier.wait(share.all_ptr, target, PLAN.MEETS, PLAN)
