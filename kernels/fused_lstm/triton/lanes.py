"""What a program of a sweep works on: its lane and block, and where a step's rows and states lie.

Names as in sweep.py. PLAN is launch.Constants; steps is (T, B, offset_ptr), here (t, lane, first).
"""

from __future__ import annotations

import triton.language as tl

from . import barrier, product
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
def pick(pointers, lane, LANES: tl.constexpr):
    """pointers[lane] for a lane known at run time only."""
    found = pointers[0]
    for i in tl.static_range(1, LANES):
        found = tl.where(lane == i, pointers[i], found)
    return found


@helper
def load_weight(pointers, lane, first, row, row_mask, W: tl.constexpr, PLAN: tl.constexpr):
    """A program's rows of its lane's weight, which begins at element `first`."""
    return product.load_weight(pick(pointers, lane, PLAN.LANES) + first, row, row_mask, W, PLAN)


@helper
def place(t, lane, steps, PLAN: tl.constexpr):
    """A lane's step t: rows of batch that are alive, first row in [L * N, .], and the slots of
    its input and output. In a wave before a lane's first step or after its last no row is alive.
    """
    T, B, offset_ptr = steps
    alive, time = B, time_of(t, lane, T, PLAN)
    first = (lane * T + time) * B
    if PLAN.ROWS:
        inside = (t >= 0) & (t < T)
        begin = tl.load(offset_ptr + time, mask=inside, other=0)
        alive = tl.load(offset_ptr + time + 1, mask=inside, other=0) - begin
        first = first_row(lane, steps, PLAN) + begin
    elif PLAN.CHAIN or PLAN.KEEP:
        alive = tl.where((t >= 0) & (t < T), B, 0)
    return alive, first, t & 1, (t & 1) ^ 1


@helper
def time_of(t, lane, T, PLAN: tl.constexpr):
    """Where in time a lane's step t is."""
    return tl.where(lane == 1, T - 1 - t, t) if PLAN.BOTH else t


@helper
def first_row(lane, steps, PLAN: tl.constexpr):
    """A lane's first row in [L * N, .]."""
    T, B, offset_ptr = steps
    return lane * tl.load(offset_ptr + T + 1) if PLAN.ROWS else lane * T * B


@helper
def kept(keep_ptr, t, lane, b, steps, PLAN: tl.constexpr):
    """[1, BLOCK_B]: whether a row's state is kept before step t; of a chain all lanes have one."""
    alive, first, _, _ = place(t, lane, steps, PLAN)
    if PLAN.CHAIN:
        first -= first_row(lane, steps, PLAN)
    return (tl.load(keep_ptr + first + b, mask=b < alive, other=1) != 0)[None, :]


@helper
def add_kept(other, acc, keep_ptr, t, lane, b, steps, PLAN: tl.constexpr):
    """other + acc, a product with the state before step t, of rows whose state is kept."""
    return other + tl.where(kept(keep_ptr, t, lane, b, steps, PLAN), acc, 0.0)


@helper
def load_state(c0_ptr, c_ptr, keep_ptr, here, b, unit, mask, steps, PLAN: tl.constexpr):
    """A block of c before step t: what the step before wrote, or c0 where the row begins with t."""
    t, lane, first = here
    _, B, _ = steps
    begin_ptr = c0_ptr + lane * B * PLAN.H
    if PLAN.ROWS:
        alive, before, _, _ = place(t - 1, lane, steps, PLAN)
        before = before if PLAN.SAVE else lane * B
        found = tl.where((b < alive)[None, :], c_ptr + before * PLAN.H, begin_ptr)
    else:
        before = first - ahead(lane, B, PLAN) if PLAN.SAVE else lane * B
        found = tl.where(t == 0, begin_ptr, c_ptr + before * PLAN.H)
    c = tl.load(found + (b[None, :] * PLAN.H + unit[:, None]), mask=mask, other=0.0)
    return tl.where(kept(keep_ptr, t, lane, b, steps, PLAN), c, 0.0) if PLAN.KEEP else c


@helper
def ahead(lane, B, PLAN: tl.constexpr):
    """Rows from a lane's step to its next, where all have B."""
    return tl.where(lane == 1, -B, B) if PLAN.BOTH else B


@helper
def turns(alive, first_batch, PHASE: tl.constexpr, PLAN: tl.constexpr):
    """How many blocks of batch a program takes in turn, in a PHASE that the launch has. Those that
    have rows alive come first.
    """
    if not PHASE:
        found = 0
    elif PLAN.ROWS and not PLAN.HAS.NORM:  # who normalizes meets in each turn: all have as many
        found = tl.minimum(tl.cdiv(alive, PLAN.BLOCK_B) - first_batch, PLAN.BATCH_BLOCKS)
    else:
        found = PLAN.BATCH_BLOCKS
    return found


@helper
def sums(alive, first_batch, block, PLAN: tl.constexpr):
    """The same of the phase that SUMS: none where none of a block's rows is an element of h."""
    found = turns(alive, first_batch, PLAN.SUMS, PLAN)
    return tl.where(block * PLAN.UNITS < PLAN.P, found, 0) if PLAN.PROJECTED else found


@helper
def arrive(barrier_ptr, turn, PLAN: tl.constexpr):
    """After a block of batch, unless it is not known which is the last: the others wait for it."""
    if not PLAN.ROWS and turn == PLAN.BATCH_BLOCKS - 1:
        barrier.arrive(barrier_ptr, PLAN.PERSISTENT)


@helper
def meet(barrier_ptr, wave, waves, programs, PLAN: tl.constexpr):
    """After a wave: wait for the others, but for the last wave, which nothing follows."""
    if PLAN.ROWS:
        barrier.arrive(barrier_ptr, PLAN.PERSISTENT)
    rounds = (wave + 1) * PLAN.MEETINGS
    if wave + 1 < waves:
        barrier.wait(barrier_ptr, rounds * programs, PLAN.PERSISTENT)


@helper
def slot_of(exchange_ptr, slot, batch, W: tl.constexpr):
    """A block of batch in a slot of an exchange that W is multiplied by."""
    return exchange_ptr + slot * W.SLOT + batch * W.TILE


@helper
def block_of(batch, unit, alive, SIZE: tl.constexpr, W: tl.constexpr, PLAN: tl.constexpr):
    """Rows of batch b [BLOCK_B]; of [UNITS, BLOCK_B] elements those that there are, of SIZE a row,
    and where they are in [B, SIZE] and in a slot of the exchange that W is multiplied by.
    """
    b = batch * PLAN.BLOCK_B + tl.arange(0, PLAN.BLOCK_B).to(tl.int64)
    mask = (unit < SIZE)[:, None] & (b < alive)[None, :]
    return b, mask, b[None, :] * SIZE + unit[:, None], b[None, :] * W.PAD + unit[:, None]


@helper
def load_dc(dc_ptr, here, b, unit, mask, last, steps, PLAN: tl.constexpr):
    """A block's dc of step t: what step t + 1 sent, or of a row's last step what was given."""
    t, lane, _ = here
    T, B, _ = steps
    at = lane * B * PLAN.H + (b[None, :] * PLAN.H + unit[:, None])
    given = mask & (b < tl.where(t == T - 1, last, B))[None, :]
    return tl.load(dc_ptr + at, mask=given, other=0.0)


@helper
def load_hoisted(gates_ptr, lane, first, rows, batch, unit, PLAN: tl.constexpr):
    """A block of the input products of the step whose first row is `first`; of `rows` there are,
    of a chain in the lowest lane alone.
    """
    if PLAN.CHAIN:
        rows = tl.where(lane == 0, rows, 0)
    b, mask, _, _ = block_of(batch, unit, rows, PLAN.H, PLAN.W_HH, PLAN)
    at = (first + b)[None, :] * (4 * PLAN.H) + unit[:, None]
    return product.load_gates(gates_ptr, at, mask, PLAN.H, PLAN.ACC)
