"""One launch for all T steps of a lane (fuse="steps"), or of lanes that feed each other ("layers").

T, B, H: time steps, batch, hidden size. A lane is one layer; of L lanes, lane i reads what lane
i - 1 writes. A block is UNITS hidden units of one lane. Weights stay on chip.

Forward: a program owns one block, that is 4 * UNITS rows of its lane's weights. In wave w a lane
works on step w - lane, while the lane below works on the step after it: T + L - 1 waves. A program
multiplies its rows of w_ih by the output of the lane below at t (the lowest lane's inputs have been
multiplied before the launch) and its rows of w_hh by h(t-1), both written a wave ago; does the
cell's pointwise work; writes h(t); and meets the others at a barrier.

Backward: the same from the top lane down and from T - 1 back. dh(t) of a lane sums w_ih^T .
dgates(t) of the lane above, through the mask that dropped its output (of the top lane: dy(t)), and
w_hh^T . dgates(t+1) of its own. SPLIT programs share a block, each sums over its part of the 4H
gates, and then finishes UNITS / SPLIT of the block's units: with SPLIT = 4 a program reads a
quarter of dgates, and its weights are as many as in the forward.

Rows of batch do not wait for each other: ROW_GROUPS groups of programs share them out.

A launch covers the waves from `begin` to `end`. PERSISTENT: all of them, with barriers, all
programs at once on the GPU. Otherwise one, which needs no barrier (in the backward one PHASE of
one: 0 sums, 1 finishes, 2 does both, where SPLIT is 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from . import barrier, launch, philox, product
from .cells import Cell
from .helper import helper
from .plan import Plan

# --- a lane, and where it is in a wave ---


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
def place(t, lane, T, B, PLAN: tl.constexpr):
    """A lane's step t: rows of batch that are alive, first row in [L * T * B, .], and the slots of
    its input and output. In a wave before a lane's first step or after its last no row is alive.
    """
    alive = B
    if PLAN.LANES > 1:
        alive = tl.where((t >= 0) & (t < T), B, 0)
    return alive, (lane * T + t) * B, t & 1, (t & 1) ^ 1


@helper
def block_of(batch, unit, alive, PLAN: tl.constexpr):
    """Rows of batch b [BLOCK_B]; of [UNITS, BLOCK_B] elements those that there are, and where they
    are in [B, H] and in a slot.
    """
    b = batch * PLAN.BLOCK_B + tl.arange(0, PLAN.BLOCK_B).to(tl.int64)
    mask = (unit < PLAN.H)[:, None] & (b < alive)[None, :]
    return b, mask, b[None, :] * PLAN.H + unit[:, None], b[None, :] * PLAN.H_PAD + unit[:, None]


@helper
def load_hoisted(gates_ptr, first, rows, batch, unit, PLAN: tl.constexpr):
    """A block of the input products of the step whose first row is `first`; of `rows` there are."""
    b, mask, _, _ = block_of(batch, unit, rows, PLAN)
    at = (first + b)[None, :] * (4 * PLAN.H) + unit[:, None]
    return product.load_gates(gates_ptr, at, mask, PLAN.H, PLAN.ACC)


# --- kernels ---


@triton.jit(do_not_specialize=["begin", "end", "T", "B", "p", "scale"])
def lstm_sweep_fwd_kernel(
    gates_ptr,  # [L, T, B, 4H] in: lane 0's input products, both biases; out, where SAVE: activated
    w_ih_ptrs,  # L x [4H, H]; the first is not read
    w_hh_ptrs,  # L x [4H, H]
    bias_ptrs,  # L x [4H] both biases' sum; the first is not read
    c0_ptr,  # [L, B, H] state dtype
    h_ptr,  # [L-1, T, B, H] out
    y_ptr,  # [T, B, H] out
    c_ptr,  # [L, T, B, H] out, state dtype; [L, 1, B, H] where not SAVE
    exchange_ptr,  # [L, 2, B_PAD, H_PAD] h(t-1) in slot t % 2; in: h0 in slot 0; and, where
    # DROPOUT, the same again as the lane above reads it
    seed_ptr,  # [1] int64, where DROPOUT
    barrier_ptr,  # [ROW_GROUPS, 1 + L * blocks, APART] int32, zero: all programs' counter, others
    begin,  # waves of this launch
    end,
    T,
    B,
    p,
    scale,  # 1 / (1 - p)
    CELL: tl.constexpr,
    PLAN: tl.constexpr,
):
    H: tl.constexpr = PLAN.H
    UNITS: tl.constexpr = PLAN.UNITS
    BLOCK_B: tl.constexpr = PLAN.BLOCK_B
    programs, lane, block, _, first_batch, barrier_ptr, _ = share(barrier_ptr, PLAN)
    row, row_unit = product.gate_rows(block, H, UNITS)
    unit = block * UNITS + tl.arange(0, UNITS)
    w_hh_ptr = pick(w_hh_ptrs, lane, PLAN.LANES)
    w_hh = product.load_resident(w_hh_ptr, row, row_unit < H, H, 1, PLAN.RESIDENT, PLAN)
    if PLAN.LANES > 1:
        fed = row_unit < tl.where(lane > 0, H, 0)  # lane 0 adds w_ih = 0 times what it reads
        w_ih_ptr = pick(w_ih_ptrs, lane, PLAN.LANES)
        w_ih = product.load_resident(w_ih_ptr, row, fed, H, 1, PLAN.RESIDENT_IH, PLAN)
        bias_ptr = pick(bias_ptrs, lane, PLAN.LANES)
        bias = tl.load(bias_ptr + row, mask=fed, other=0.0).to(PLAN.ACC)
    lane = lane.to(tl.int64)
    own_ptr = exchange_ptr + 2 * lane * PLAN.SLOT
    up_ptr = own_ptr + (2 * PLAN.LANES * PLAN.SLOT if PLAN.DROPOUT else 0)
    if PLAN.EARLY:
        gates = load_hoisted(
            gates_ptr, lane * 0, tl.where(lane == 0, B, 0), first_batch, unit, PLAN
        )
    for wave in tl.range(0, end - begin if PLAN.PERSISTENT else 1, disable_licm=PLAN.KEEP_LOOP):
        t = (begin + wave).to(tl.int64) - lane
        alive, first, now, after = place(t, lane, T, B, PLAN)
        c_first = first if PLAN.SAVE else lane * B
        c_prev_ptr = c_ptr + (c_first - B if PLAN.SAVE else c_first) * H
        c_prev_ptr = tl.where(t == 0, c0_ptr + lane * B * H, c_prev_ptr)
        for turn in range(PLAN.BATCH_BLOCKS):
            batch = first_batch + turn
            b, mask, at, slot_at = block_of(batch, unit, alive, PLAN)
            gates_at = (first + b)[None, :] * (4 * H) + unit[:, None]
            acc = tl.full((4 * UNITS, BLOCK_B), 0.0, PLAN.ACC)
            if PLAN.LANES > 1:
                # Lane 0 reads its own h(t-1), since no other's is written yet, and 0 * NaN is NaN.
                x_ptr = up_ptr + tl.where(lane > 0, after - 2, now) * PLAN.SLOT + batch * PLAN.TILE
                acc = product.product(
                    acc, w_ih, w_ih_ptr, row, fed, x_ptr, H, 1, PLAN.RESIDENT_IH, PLAN
                )
            # What no other program writes: it arrives while a product runs, or the program waits.
            if not PLAN.EARLY:
                rows = tl.where(lane == 0, alive, 0)
                gates = load_hoisted(gates_ptr, first, rows, batch, unit, PLAN)
            c = tl.load(c_prev_ptr + at, mask=mask, other=0.0)
            x_ptr = own_ptr + now * PLAN.SLOT + batch * PLAN.TILE
            acc = product.product(
                acc, w_hh, w_hh_ptr, row, row_unit < H, x_ptr, H, 1, PLAN.RESIDENT, PLAN
            )
            if PLAN.LANES > 1:
                acc += bias[:, None]
            gates, h, c = CELL.forward(product.add_product(gates, acc, UNITS, BLOCK_B), c)
            h = h.to(y_ptr.dtype.element_ty)
            tl.store(own_ptr + after * PLAN.SLOT + slot_at, h, mask=mask)
            if PLAN.DROPOUT:
                dropped = h * philox.multiplier(seed_ptr, first * H + at, p, scale)
                dropped_at = after * PLAN.SLOT + slot_at
                tl.store(up_ptr + dropped_at, dropped.to(h.dtype), mask=mask)
            if turn == PLAN.BATCH_BLOCKS - 1:  # the others wait for h alone
                barrier.arrive(barrier_ptr, PLAN.PERSISTENT)
            out_ptr = tl.where(lane == PLAN.LANES - 1, y_ptr - lane * T * B * H, h_ptr)
            tl.store(out_ptr + first * H + at, h, mask=mask)
            tl.store(c_ptr + c_first * H + at, c, mask=mask)
            if PLAN.SAVE:
                product.store_gates(gates_ptr, gates_at, mask, gates, H)
            if PLAN.EARLY:
                rows = tl.where((lane == 0) & (t + 1 < T), B, 0)
                gates = load_hoisted(gates_ptr, first + B, rows, batch, unit, PLAN)
        if wave + 1 < end - begin:
            barrier.wait(barrier_ptr, (wave + 1) * programs, PLAN.PERSISTENT)


@triton.jit(do_not_specialize=["begin", "end", "T", "B", "last", "p", "scale"])
def lstm_sweep_bwd_kernel(
    dy_ptr,  # [T, B, H]
    dh_n_ptr,  # [L, B, H]
    gates_ptr,  # [L, T, B, 4H] activated
    w_ih_ptrs,  # L x [4H, H]; the first is not read
    w_hh_ptrs,  # L x [4H, H]
    c0_ptr,  # [L, B, H] state dtype
    c_ptr,  # [L, T, B, H] state dtype
    dc_ptr,  # [L, B, H] state dtype; in: gradient by c(T - 1); out, in the end: by c0
    dgates_ptr,  # [L, T, B, 4H] out
    exchange_ptr,  # [L, 2, 4, B_PAD, H_PAD] dgates(t) in slot t % 2; in: zero
    partial_ptr,  # [L, SPLIT, B, H] scratch, state dtype
    seed_ptr,  # [1] int64, where DROPOUT
    barrier_ptr,  # [ROW_GROUPS, 1 + L * blocks, APART] int32, zero: all programs', each block's
    begin,
    end,
    T,
    B,
    last,  # rows of dh_n and dc that there are: B, or 0 where both are zero and nobody wrote them
    p,
    scale,
    CELL: tl.constexpr,
    PLAN: tl.constexpr,
):
    H: tl.constexpr = PLAN.H
    UNITS: tl.constexpr = PLAN.UNITS
    programs, lane, block, part, first_batch, barrier_ptr, block_ptr = share(barrier_ptr, PLAN)
    row = block.to(tl.int64) * UNITS + tl.arange(0, UNITS)
    unit = block * UNITS + part * PLAN.OWN + tl.arange(0, PLAN.OWN)
    rows = part.to(tl.int64) * (4 // PLAN.SPLIT * H * H)
    w_hh_ptr = pick(w_hh_ptrs, lane, PLAN.LANES) + rows
    w_hh = product.load_resident(w_hh_ptr, row, row < H, 1, H, PLAN.RESIDENT, PLAN)
    if PLAN.LANES > 1:
        fed = row < tl.where(lane < PLAN.LANES - 1, H, 0)  # the top lane adds 0 times what it reads
        w_ih_ptr = pick(w_ih_ptrs, lane + 1, PLAN.LANES) + rows
        w_ih = product.load_resident(w_ih_ptr, row, fed, 1, H, PLAN.RESIDENT_IH, PLAN)
    lane = lane.to(tl.int64)
    own_ptr = exchange_ptr + 8 * lane * PLAN.SLOT
    own_dc_ptr, own_partial_ptr = dc_ptr + lane * B * H, partial_ptr + lane * PLAN.SPLIT * B * H
    for wave in tl.range(0, end - begin if PLAN.PERSISTENT else 1, disable_licm=PLAN.KEEP_LOOP):
        t = T - 1 - ((begin + wave).to(tl.int64) - (PLAN.LANES - 1 - lane))
        alive, first, now, after = place(t, lane, T, B, PLAN)
        if PLAN.PHASE != 1:
            for turn in range(PLAN.BATCH_BLOCKS):
                batch = first_batch + turn
                b, mask, at, _ = block_of(batch, row, alive, PLAN)
                x_ptr = own_ptr + part * (4 // PLAN.SPLIT * PLAN.SLOT) + batch * PLAN.TILE
                acc = tl.full((UNITS, PLAN.BLOCK_B), 0.0, PLAN.ACC)
                if PLAN.LANES > 1:
                    # The top lane reads its own dgates(t+1): see the forward kernel.
                    slot = tl.where(lane < PLAN.LANES - 1, 2 + now, after)
                    acc = product.transposed(
                        acc, w_ih, w_ih_ptr, row, fed, x_ptr, slot, PLAN.RESIDENT_IH, PLAN
                    )
                if PLAN.DROPOUT:
                    acc *= philox.multiplier(seed_ptr, first * H + at, p, scale).to(PLAN.ACC)
                acc = product.transposed(
                    acc, w_hh, w_hh_ptr, row, row < H, x_ptr, after, PLAN.RESIDENT, PLAN
                )
                part_at = ((lane * PLAN.SPLIT + part) * B + b)[None, :] * H + row[:, None]
                tl.store(partial_ptr + part_at, acc, mask=mask)
            barrier.arrive(block_ptr, PLAN.PERSISTENT)
        if PLAN.PHASE != 0:
            for turn in range(PLAN.BATCH_BLOCKS):
                batch = first_batch + turn
                b, mask, at, slot_at = block_of(batch, unit, alive, PLAN)
                gates_at = (first + b)[None, :] * (4 * H) + unit[:, None]
                # First what no other program writes: it arrives while the others finish.
                gates = product.load_gates(gates_ptr, gates_at, mask, H, PLAN.ACC)
                c_prev_ptr = tl.where(t == 0, c0_ptr + lane * B * H, c_ptr + (first - B) * H)
                c_prev = tl.load(c_prev_ptr + at, mask=mask, other=0.0)
                c = tl.load(c_ptr + first * H + at, mask=mask, other=0.0)
                given = mask & (b < tl.where(t == T - 1, last, B))[None, :]
                dc = tl.load(own_dc_ptr + at, mask=given, other=0.0)
                given = mask & (b < tl.where(t == T - 1, last, 0))[None, :]
                dh = tl.load(dh_n_ptr + lane * B * H + at, mask=given, other=0.0).to(PLAN.ACC)
                given = mask & (b < tl.where(lane == PLAN.LANES - 1, B, 0))[None, :]
                dh += tl.load(dy_ptr + t * B * H + at, mask=given, other=0.0).to(PLAN.ACC)
                if turn == 0:
                    barrier.wait(block_ptr, (wave + 1) * PLAN.SPLIT, PLAN.PERSISTENT)
                dh += product.sum_partials(own_partial_ptr + at, B * H, mask, PLAN.SPLIT)
                gates, dc = CELL.backward(gates, c_prev, c, dh, dc)
                next_at = now * 4 * PLAN.SLOT + slot_at
                product.store_gates(own_ptr, next_at, mask, gates, PLAN.SLOT)
                if turn == PLAN.BATCH_BLOCKS - 1:  # the others wait for dgates alone
                    barrier.arrive(barrier_ptr, PLAN.PERSISTENT)
                product.store_gates(dgates_ptr, gates_at, mask, gates, H)
                tl.store(own_dc_ptr + at, dc, mask=mask)
        if wave + 1 < end - begin:
            barrier.wait(barrier_ptr, (wave + 1) * programs, PLAN.PERSISTENT)


# --- host launchers: the kernels' arguments; all contiguous ---


def forward(
    plan: Plan,
    cell: Cell,
    gates: Tensor,
    w_ih: Sequence[Tensor],
    w_hh: Sequence[Tensor],
    bias: Sequence[Tensor],
    c0: Tensor,
    h: Tensor,
    y: Tensor,
    c: Tensor,
    exchange: Tensor,
    counters: Tensor,
    seed: Tensor | None,
    T: int,
    p: float,
    save: bool,
) -> None:
    """A plan's lanes, all steps: writes h, y, c and, where `save`, the activated gates."""
    constants = launch.constants(plan, save, 2, p > 0)
    for begin, end in plan.launches(T + plan.layers - 1):
        lstm_sweep_fwd_kernel[(plan.programs,)](
            gates, w_ih, w_hh, bias, c0, h, y, c, exchange,
            counters if seed is None else seed, counters, begin, end, T, plan.batch, p,
            philox.scale_of(p), CELL=cell, PLAN=constants, **launch.options(plan),
        )  # fmt: skip


def backward(
    plan: Plan,
    cell: Cell,
    dy: Tensor,
    dh_n: Tensor | None,
    gates: Tensor,
    w_ih: Sequence[Tensor],
    w_hh: Sequence[Tensor],
    c0: Tensor,
    c: Tensor,
    dc: Tensor,
    dgates: Tensor,
    exchange: Tensor,
    counters: Tensor,
    partial: Tensor,
    seed: Tensor | None,
    T: int,
    p: float,
) -> None:
    """A plan's lanes, all steps: writes dgates and dc. Without dh_n, dc is not read either."""
    last = 0 if dh_n is None else plan.batch
    for begin, end in plan.launches(T + plan.layers - 1):
        for phase in plan.phases():
            lstm_sweep_bwd_kernel[(plan.programs,)](
                dy, dy if dh_n is None else dh_n, gates, w_ih, w_hh, c0, c, dc, dgates, exchange,
                partial, counters if seed is None else seed, counters, begin, end, T, plan.batch,
                last, p, philox.scale_of(p), CELL=cell,
                PLAN=launch.constants(plan, True, phase, p > 0), **launch.options(plan),
            )  # fmt: skip
