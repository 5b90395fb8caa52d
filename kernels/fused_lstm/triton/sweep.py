"""One launch for all T steps of a lane (fuse="steps"), or of several ("layers", "both").

T, B, H: time steps, batch, hidden size. Of L lanes in a CHAIN, lane i reads what lane i - 1 writes.
The two lanes of a layer in BOTH directions do not wait for each other: lane 1's step t is at time
T - 1 - t. A block is UNITS hidden units of one lane. Weights stay on chip.

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

Rows of batch do not wait for each other: ROW_GROUPS groups of programs share them out. N rows of
batch at all times: T * B, or fewer where rows end early (ROWS, see fused_lstm.rows). A row that is
not alive is not written: a lane backwards in time finds h0 in the slot of the row's own last step,
and none of its blocks that are dead is multiplied. Where KEEP, a state that is not kept is zero.

A launch covers the waves from `begin` to `end`. PERSISTENT: all of them, with barriers, all
programs at once on the GPU. Otherwise one, which needs no barrier (in the backward one PHASE of
one: 0 sums, 1 finishes, 2 does both, where SPLIT is 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from . import barrier, lanes, launch, philox, product
from .cells import Cell
from .plan import Plan

# --- kernels ---

# OPTIONS, each a tensor where it is used, else any:
# seed    [1] int64, where DROPOUT
# offset  [T + 2] int64, where ROWS: the first row of each step, the end of all, and N
# keep    [D, N] uint8, where KEEP: 0 where a row's state is zero before a step


@triton.jit(do_not_specialize=["begin", "end", "T", "B", "p", "scale"])
def lstm_sweep_fwd_kernel(
    gates_ptr,  # [L, N, 4H] in: of lane 0, or of BOTH, input products and biases; out: activated
    w_ih_ptrs,  # L x [4H, H]; the first is not read
    w_hh_ptrs,  # L x [4H, H]
    bias_ptrs,  # L x [4H] both biases' sum; the first is not read
    c0_ptr,  # [L, B, H] state dtype
    h_ptr,  # [L-1, N, H] out, where CHAIN
    y_ptr,  # [N, H] out; [N, 2H] where BOTH
    c_ptr,  # [L, N, H] out, state dtype; [L, B, H] where not SAVE
    exchange_ptr,  # [L, 2, B_PAD, H_PAD] h(t-1) in slot t % 2; in: h0 in slot 0, where
    # ROWS in both; and, where DROPOUT, the same again as the lane above reads it
    option_ptrs,  # OPTIONS
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
    seed_ptr, offset_ptr, keep_ptr = option_ptrs
    steps = T, B, offset_ptr
    programs, lane, block, _, first_batch, all_ptr, _ = lanes.share(barrier_ptr, PLAN)
    row, row_unit = product.gate_rows(block, H, UNITS)
    unit = block * UNITS + tl.arange(0, UNITS)
    w_hh_ptr = lanes.pick(w_hh_ptrs, lane, PLAN.LANES)
    w_hh = product.load_resident(w_hh_ptr, row, row_unit < H, H, 1, PLAN.RESIDENT, PLAN)
    if PLAN.CHAIN:
        fed = row_unit < tl.where(lane > 0, H, 0)  # lane 0 adds w_ih = 0 times what it reads
        w_ih_ptr = lanes.pick(w_ih_ptrs, lane, PLAN.LANES)
        w_ih = product.load_resident(w_ih_ptr, row, fed, H, 1, PLAN.RESIDENT_IH, PLAN)
        bias_ptr = lanes.pick(bias_ptrs, lane, PLAN.LANES)
        bias = tl.load(bias_ptr + row, mask=fed, other=0.0).to(PLAN.ACC)
    lane = lane.to(tl.int64)
    own_ptr = exchange_ptr + 2 * lane * PLAN.SLOT
    up_ptr = own_ptr + (2 * PLAN.LANES * PLAN.SLOT if PLAN.DROPOUT else 0)
    if PLAN.EARLY:
        first = lane * (2 * T - 1) * B if PLAN.BOTH else lane * 0  # lane 1 begins at the end
        gates = lanes.load_hoisted(gates_ptr, lane, first, B, first_batch, unit, PLAN)
    for wave in tl.range(0, end - begin if PLAN.PERSISTENT else 1, disable_licm=PLAN.KEEP_LOOP):
        t = (begin + wave).to(tl.int64) - (lane if PLAN.CHAIN else 0)
        alive, first, now, after = lanes.place(t, lane, steps, PLAN)
        here = t, lane, first
        c_first = first if PLAN.SAVE else lane * B
        for turn in range(lanes.turns(alive, first_batch, PLAN)):
            batch = first_batch + turn
            b, mask, at, slot_at = lanes.block_of(batch, unit, alive, PLAN)
            gates_at = (first + b)[None, :] * (4 * H) + unit[:, None]
            acc = tl.full((4 * UNITS, BLOCK_B), 0.0, PLAN.ACC)
            if PLAN.CHAIN:
                # Lane 0 reads its own h(t-1), since no other's is written yet, and 0 * NaN is NaN.
                x_ptr = up_ptr + tl.where(lane > 0, after - 2, now) * PLAN.SLOT + batch * PLAN.TILE
                acc = product.product(
                    acc, w_ih, w_ih_ptr, row, fed, x_ptr, H, 1, PLAN.RESIDENT_IH, PLAN
                )
            # What no other program writes: it arrives while a product runs, or the program waits.
            if not PLAN.EARLY:
                gates = lanes.load_hoisted(gates_ptr, lane, first, alive, batch, unit, PLAN)
            c = lanes.load_state(c0_ptr, c_ptr, keep_ptr, here, b, unit, mask, steps, PLAN)
            x_ptr = own_ptr + now * PLAN.SLOT + batch * PLAN.TILE
            if PLAN.KEEP:
                below, acc = acc, tl.zeros_like(acc)
            acc = product.product(
                acc, w_hh, w_hh_ptr, row, row_unit < H, x_ptr, H, 1, PLAN.RESIDENT, PLAN
            )
            if PLAN.KEEP:
                acc = lanes.add_kept(below, acc, keep_ptr, t, lane, b, steps, PLAN)
            if PLAN.CHAIN:
                acc += bias[:, None]
            gates, h, c = CELL.forward(product.add_product(gates, acc, UNITS, BLOCK_B), c)
            h = h.to(y_ptr.dtype.element_ty)
            tl.store(own_ptr + after * PLAN.SLOT + slot_at, h, mask=mask)
            if PLAN.DROPOUT:
                dropped = h * philox.multiplier(seed_ptr, first * H + at, p, scale)
                tl.store(up_ptr + after * PLAN.SLOT + slot_at, dropped.to(h.dtype), mask=mask)
            lanes.arrive(all_ptr, turn, PLAN)  # the others wait for h alone
            lanes.store_output(h_ptr, y_ptr, h, here, b, unit, mask, steps, PLAN)
            tl.store(c_ptr + c_first * H + at, c, mask=mask)
            if PLAN.SAVE:
                product.store_gates(gates_ptr, gates_at, mask, gates, H)
            if PLAN.EARLY:
                rows, next_first = tl.where(t + 1 < T, B, 0), first + lanes.ahead(lane, B, PLAN)
                gates = lanes.load_hoisted(gates_ptr, lane, next_first, rows, batch, unit, PLAN)
        lanes.meet(all_ptr, wave, end - begin, programs, PLAN)


@triton.jit(do_not_specialize=["begin", "end", "T", "B", "last", "p", "scale"])
def lstm_sweep_bwd_kernel(
    dy_ptr,  # [N, H]; [N, 2H] where BOTH
    dh_n_ptr,  # [L, B, H]
    gates_ptr,  # [L, N, 4H] activated
    w_ih_ptrs,  # L x [4H, H]; the first is not read
    w_hh_ptrs,  # L x [4H, H]
    c0_ptr,  # [L, B, H] state dtype
    c_ptr,  # [L, N, H] state dtype
    dc_ptr,  # [L, B, H] state dtype; in: gradient by a row's last c; out, in the end: by c0
    dgates_ptr,  # [L, N, 4H] out
    exchange_ptr,  # [L, 2, 4, B_PAD, H_PAD] dgates(t) in slot t % 2; in: zero
    partial_ptr,  # [L, SPLIT, B, H] scratch, state dtype
    option_ptrs,  # OPTIONS
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
    seed_ptr, offset_ptr, keep_ptr = option_ptrs
    steps = T, B, offset_ptr
    programs, lane, block, part, first_batch, all_ptr, block_ptr = lanes.share(barrier_ptr, PLAN)
    row = block.to(tl.int64) * UNITS + tl.arange(0, UNITS)
    unit = block * UNITS + part * PLAN.OWN + tl.arange(0, PLAN.OWN)
    rows = part.to(tl.int64) * (4 // PLAN.SPLIT * H * H)
    w_hh_ptr = lanes.pick(w_hh_ptrs, lane, PLAN.LANES) + rows
    w_hh = product.load_resident(w_hh_ptr, row, row < H, 1, H, PLAN.RESIDENT, PLAN)
    if PLAN.CHAIN:
        fed = row < tl.where(lane < PLAN.LANES - 1, H, 0)  # the top lane adds 0 times what it reads
        w_ih_ptr = lanes.pick(w_ih_ptrs, lane + 1, PLAN.LANES) + rows
        w_ih = product.load_resident(w_ih_ptr, row, fed, 1, H, PLAN.RESIDENT_IH, PLAN)
    lane = lane.to(tl.int64)
    own_ptr = exchange_ptr + 8 * lane * PLAN.SLOT
    given_ptrs = dy_ptr, dh_n_ptr, dc_ptr
    own_dc_ptr, own_partial_ptr = dc_ptr + lane * B * H, partial_ptr + lane * PLAN.SPLIT * B * H
    for wave in tl.range(0, end - begin if PLAN.PERSISTENT else 1, disable_licm=PLAN.KEEP_LOOP):
        t = T - 1 - ((begin + wave).to(tl.int64) - (PLAN.LANES - 1 - lane if PLAN.CHAIN else 0))
        alive, first, now, after = lanes.place(t, lane, steps, PLAN)
        here = t, lane, first
        if PLAN.PHASE != 1:
            for turn in range(lanes.turns(alive, first_batch, PLAN)):
                batch = first_batch + turn
                b, mask, at, _ = lanes.block_of(batch, row, alive, PLAN)
                x_ptr = own_ptr + part * (4 // PLAN.SPLIT * PLAN.SLOT) + batch * PLAN.TILE
                acc = tl.full((UNITS, PLAN.BLOCK_B), 0.0, PLAN.ACC)
                if PLAN.CHAIN:
                    # The top lane reads its own dgates(t+1): see the forward kernel.
                    slot = tl.where(lane < PLAN.LANES - 1, 2 + now, after)
                    acc = product.transposed(
                        acc, w_ih, w_ih_ptr, row, fed, x_ptr, slot, PLAN.RESIDENT_IH, PLAN
                    )
                if PLAN.DROPOUT:
                    acc *= philox.multiplier(seed_ptr, first * H + at, p, scale).to(PLAN.ACC)
                if PLAN.KEEP:
                    above, acc = acc, tl.zeros_like(acc)
                acc = product.transposed(
                    acc, w_hh, w_hh_ptr, row, row < H, x_ptr, after, PLAN.RESIDENT, PLAN
                )
                if PLAN.KEEP:
                    acc = lanes.add_kept(above, acc, keep_ptr, t + 1, lane, b, steps, PLAN)
                part_at = ((lane * PLAN.SPLIT + part) * B + b)[None, :] * H + row[:, None]
                tl.store(partial_ptr + part_at, acc, mask=mask)
            barrier.arrive(block_ptr, PLAN.PERSISTENT)
        if PLAN.PHASE != 0:
            for turn in range(lanes.turns(alive, first_batch, PLAN)):
                b, mask, at, slot_at = lanes.block_of(first_batch + turn, unit, alive, PLAN)
                gates_at = (first + b)[None, :] * (4 * H) + unit[:, None]
                # First what no other program writes: it arrives while the others finish.
                gates = product.load_gates(gates_ptr, gates_at, mask, H, PLAN.ACC)
                c_prev = lanes.load_state(c0_ptr, c_ptr, keep_ptr, here, b, unit, mask, steps, PLAN)
                c = tl.load(c_ptr + first * H + at, mask=mask, other=0.0)
                dc, dh = lanes.load_gradients(given_ptrs, here, b, unit, mask, last, steps, PLAN)
                if turn == 0:
                    barrier.wait(block_ptr, (wave + 1) * PLAN.SPLIT, PLAN.PERSISTENT)
                dh += product.sum_partials(own_partial_ptr + at, B * H, mask, PLAN.SPLIT)
                gates, dc = CELL.backward(gates, c_prev, c, dh, dc)
                if PLAN.KEEP:
                    dc = tl.where(lanes.kept(keep_ptr, t, lane, b, steps, PLAN), dc, 0.0)
                product.store_gates(own_ptr, now * 4 * PLAN.SLOT + slot_at, mask, gates, PLAN.SLOT)
                lanes.arrive(all_ptr, turn, PLAN)  # the others wait for dgates alone
                product.store_gates(dgates_ptr, gates_at, mask, gates, H)
                tl.store(own_dc_ptr + at, dc, mask=mask)
        lanes.meet(all_ptr, wave, end - begin, programs, PLAN)


# --- host launchers: the kernels' arguments; all contiguous ---


class Options(NamedTuple):
    """What not every sweep has: OPTIONS above."""

    seed: Tensor | None = None
    offset: Tensor | None = None
    keep: Tensor | None = None

    def used(self, p: float) -> tuple[bool, bool, bool]:
        """DROPOUT, ROWS and KEEP; p: of dropout between the sweep's lanes."""
        return p > 0, self.offset is not None, self.keep is not None

    def pointers(self, other: Tensor) -> tuple[Tensor, ...]:
        return tuple(other if t is None else t for t in self)


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
    options: Options,
    T: int,
    p: float,
    save: bool,
) -> None:
    """A plan's lanes, all steps: writes h, y, c and, where `save`, the activated gates."""
    constants = launch.constants(plan, save, 2, *options.used(p))
    given = options.pointers(counters)
    for begin, end in plan.launches(plan.waves(T)):
        lstm_sweep_fwd_kernel[(plan.programs,)](
            gates, w_ih, w_hh, bias, c0, h, y, c, exchange,
            given, counters, begin, end, T, plan.batch, p,
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
    options: Options,
    T: int,
    p: float,
) -> None:
    """A plan's lanes, all steps: writes dgates and dc. Without dh_n, dc is not read either."""
    last, given = 0 if dh_n is None else plan.batch, options.pointers(counters)
    for begin, end in plan.launches(plan.waves(T)):
        for phase in plan.phases():
            lstm_sweep_bwd_kernel[(plan.programs,)](
                dy, dy if dh_n is None else dh_n, gates, w_ih, w_hh, c0, c, dc, dgates, exchange,
                partial, given, counters, begin, end, T, plan.batch, last, p, philox.scale_of(p),
                CELL=cell, PLAN=launch.constants(plan, True, phase, *options.used(p)),
                **launch.options(plan),
            )  # fmt: skip
