"""One launch for all T steps of a lane (fuse="steps"), or of several ("layers", "both").

T, B, H, P: time steps, batch, hidden size, size of h (H unless PROJECTED). Of L lanes in a CHAIN,
lane i reads what lane i - 1 writes. The two lanes of a layer in BOTH directions do not wait for
each other: lane 1's step t is at time T - 1 - t. A block is UNITS hidden units of one lane, and,
where PROJECTED, as many elements of h besides. Weights stay on chip.

Forward: a program owns one block, that is 4 * UNITS rows of its lane's weights. In wave w a lane
works on step w - lane, while the lane below works on the step after it: T + L - 1 waves. A program
multiplies its rows of w_ih by the output of the lane below at t (the lowest lane's inputs have been
multiplied before the launch) and its rows of w_hh by h(t-1), both written a wave ago; does the
cell's pointwise work; writes h(t); and meets the others at a barrier. Where PROJECTED, it is not
h(t) yet: after the meeting it multiplies its rows of w_hr by it, writes that, and meets them again.

Backward: the same from the top lane down and from T - 1 back. dh(t) of a lane sums w_ih^T .
dgates(t) of the lane above, through the mask that dropped its output (of the top lane: dy(t)), and
w_hh^T . dgates(t+1) of its own. SPLIT programs share a block, each sums over its part of the 4H
gates, and then finishes UNITS / SPLIT of the block's units: with SPLIT = 4 a program reads a
quarter of dgates, and its weights are as many as in the forward. Where PROJECTED, what it finishes
first are elements of dh(t); all meet, and then its units' dh are rows of w_hr^T . dh(t).

Rows of batch do not wait for each other: ROW_GROUPS groups of programs share them out. N rows of
batch at all times: T * B, or fewer where rows end early (ROWS, see fused_lstm.rows). A row that is
not alive is not written: a lane backwards in time finds h0 in the slot of the row's own last step,
and none of its blocks that are dead is multiplied. Where KEEP, a state that is not kept is zero.

A launch covers the waves from `begin` to `end`. PERSISTENT: all of them, with barriers, all
programs at once on the GPU. Otherwise one, which needs no barrier, or those PHASES of one that no
meeting parts: FINISHES the cell, PROJECTS; backwards SUMS, GATHERS dh where PROJECTED, FINISHES.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .. import cell as variant
from . import added, barrier, lanes, launch, outputs, philox, product, project, step
from .cells import Cell
from .plan import Plan

# --- kernels ---

# OPTIONS, each a tensor where it is used, else any:
# seed    [1] int64, where DROPOUT
# offset  [T + 2] int64, where ROWS: the first row of each step, the end of all, and N
# keep    [D, N] uint8, where KEEP: 0 where a row's state is zero before a step
# between [L, B_PAD, PAD] what is exchanged between a step's two meetings, where PROJECTED: what
#         w_hr is multiplied by, or, in the backward, dh; in: zero
# dh      [L, N, P] out, where PROJECTED, in the backward: the gradients by w_hr times m
# w_ch    [L, 3H] peepholes, where the cell has them
# fed     [L, B, P] state dtype, where RECURRENT: what h is multiplied by on its way into w_hh
# carried [L, B, P] state dtype, where ZONE_H: h before a step; in: h0. In the backward what a step
#         passes on to the one before it beside its dgates; in: zero, out: to h0
# And what norm.py has.


@triton.jit(do_not_specialize=["begin", "end", "T", "B", "first_lane"])
def lstm_sweep_fwd_kernel(
    gates_ptr,  # [L, N, 4H] in: of lane 0, or of BOTH, input products and biases; out: activated
    w_ih_ptrs,  # L x [4H, P]; the first is not read
    w_hh_ptrs,  # L x [4H, P]
    w_hr_ptrs,  # L x [P, H], where PROJECTED
    bias_ptrs,  # L x [4H] both biases' sum; the first is not read
    c0_ptr,  # [L, B, H] state dtype
    h_ptr,  # [L-1, N, P] out, where CHAIN
    y_ptr,  # [N, P] out; [N, 2P] where BOTH
    c_ptr,  # [L, N, H] out, state dtype; [L, B, H] where not SAVE
    exchange_ptr,  # [L, 2, B_PAD, PAD] h(t-1) in slot t % 2; in: h0 in slot 0, where
    # ROWS in both; and, where UP, the same again as the lane above reads it
    option_ptrs,  # OPTIONS
    barrier_ptr,  # [ROW_GROUPS, 1 + L * blocks, APART] int32, zero: all programs' counter, others
    begin,  # waves of this launch
    end,
    T,
    B,
    first_lane,  # of these in the stack, whose masks are numbered through
    rates,  # RATES
    CELL: tl.constexpr,
    PLAN: tl.constexpr,
):
    H: tl.constexpr = PLAN.H
    _, offset_ptr, keep_ptr = option_ptrs[:3]
    steps, drawn = (T, B, offset_ptr), (option_ptrs, rates, first_lane)
    programs, lane, block, part, first_batch, all_ptr, _ = lanes.share(barrier_ptr, PLAN)
    row, row_unit = product.gate_rows(block, H, PLAN.UNITS)
    unit = block * PLAN.UNITS + tl.arange(0, PLAN.UNITS)
    w_hh = lanes.load_weight(w_hh_ptrs, lane, 0, row, row_unit < H, PLAN.W_HH, PLAN)
    if PLAN.CHAIN:
        fed = row_unit < tl.where(lane > 0, H, 0)  # lane 0 adds w_ih = 0 times what it reads
        w_ih = lanes.load_weight(w_ih_ptrs, lane, 0, row, fed, PLAN.W_IH, PLAN)
        bias_ptr = lanes.pick(bias_ptrs, lane, PLAN.LANES)
        bias = tl.load(bias_ptr + row, mask=fed, other=0.0).to(PLAN.ACC)
    hr = project.load(w_hr_ptrs, option_ptrs, lane, block, part, PLAN.P, PLAN)
    lane = lane.to(tl.int64)
    own_ptr = exchange_ptr + 2 * lane * PLAN.W_HH.SLOT
    up_ptr = own_ptr + (2 * PLAN.LANES * PLAN.W_HH.SLOT if PLAN.UP else 0)
    out_ptrs = own_ptr, up_ptr, h_ptr, y_ptr, all_ptr
    meeting = option_ptrs, all_ptr, programs, block
    if PLAN.EARLY:
        first = lane * (2 * T - 1) * B if PLAN.BOTH else lane * 0  # lane 1 begins at the end
        gates = lanes.load_hoisted(gates_ptr, lane, first, B, first_batch, unit, PLAN)
    for wave in tl.range(0, end - begin if PLAN.PERSISTENT else 1, disable_licm=PLAN.KEEP_LOOP):
        t = (begin + wave).to(tl.int64) - (lane if PLAN.CHAIN else 0)
        alive, first, now, after = lanes.place(t, lane, steps, PLAN)
        here = t, lane, first
        for turn in range(lanes.turns(alive, first_batch, PLAN.FINISHES, PLAN)):
            batch = first_batch + turn
            b, mask, at, slot_at = lanes.block_of(batch, unit, alive, H, PLAN.W_HR, PLAN)
            gates_at = (first + b)[None, :] * (4 * H) + unit[:, None]
            acc = tl.full((4 * PLAN.UNITS, PLAN.BLOCK_B), 0.0, PLAN.ACC)
            if PLAN.CHAIN:
                # Lane 0 reads its own h(t-1), since no other's is written yet, and 0 * NaN is NaN.
                slot = tl.where(lane > 0, after - 2, now)
                x_ptr = lanes.slot_of(up_ptr, slot, batch, PLAN.W_IH)
                acc = product.product(acc, w_ih, x_ptr, PLAN.W_IH, PLAN)
            # What no other program writes: it arrives while a product runs, or the program waits.
            if not PLAN.EARLY:
                gates = lanes.load_hoisted(gates_ptr, lane, first, alive, batch, unit, PLAN)
            c = lanes.load_state(c0_ptr, c_ptr, keep_ptr, here, b, unit, mask, steps, PLAN)
            own = added.load(drawn, here, b, unit, steps, PLAN)
            x_ptr = lanes.slot_of(own_ptr, now, batch, PLAN.W_HH)
            if PLAN.KEEP:
                below, acc = acc, tl.zeros_like(acc)
                if PLAN.CHAIN:  # 0 * NaN of what lane 0 read: it may lie before a reset
                    below = tl.where(lane > 0, below, 0.0)
            acc = product.product(acc, w_hh, x_ptr, PLAN.W_HH, PLAN)
            if PLAN.KEEP:
                acc = lanes.add_kept(below, acc, keep_ptr, t, lane, b, steps, PLAN)
            if PLAN.CHAIN:
                acc += bias[:, None]
            whole = meeting, here, b, unit, alive, turn, wave, steps
            gates, h, c = step.forward(gates, acc, c, own, whole, mask, gates_at, CELL, PLAN)
            if PLAN.PROJECTED:
                tl.store(hr[1] + slot_at, h.to(y_ptr.dtype.element_ty), mask=mask)
                lanes.arrive(all_ptr, turn, PLAN)
            else:
                outputs.hand_out(out_ptrs, h, here, turn, batch, unit, alive, drawn, steps, PLAN)
            tl.store(c_ptr + (first if PLAN.SAVE else lane * B) * H + at, c, mask=mask)
            if PLAN.SAVE:
                product.store_gates(gates_ptr, gates_at, mask, gates, H)
            if PLAN.EARLY:
                rows, next_first = tl.where(t + 1 < T, B, 0), first + lanes.ahead(lane, B, PLAN)
                gates = lanes.load_hoisted(gates_ptr, lane, next_first, rows, batch, unit, PLAN)
        if PLAN.PROJECTED:
            own = out_ptrs, hr, programs, drawn
            project.hand_out(own, here, unit, alive, first_batch, wave, steps, PLAN)
        lanes.meet(all_ptr, wave, end - begin, programs, PLAN)


@triton.jit(do_not_specialize=["begin", "end", "T", "B", "last", "first_lane"])
def lstm_sweep_bwd_kernel(
    given_ptrs,  # dy [N, P], [N, 2P] where BOTH; dh_n [L, B, P]
    gates_ptr,  # [L, N, 4H] activated
    w_ih_ptrs,  # L x [4H, P]; the first is not read
    w_hh_ptrs,  # L x [4H, P]
    w_hr_ptrs,  # L x [P, H], where PROJECTED
    c0_ptr,  # [L, B, H] state dtype
    c_ptr,  # [L, N, H] state dtype
    dc_ptr,  # [L, B, H] state dtype; in: gradient by a row's last c; out, in the end: by c0
    dgates_ptr,  # [L, N, 4H] out
    exchange_ptr,  # [L, 2, 4, B_PAD, PAD] dgates(t) in slot t % 2; in: zero
    partial_ptr,  # [L, SPLIT, B, P] scratch, state dtype
    option_ptrs,  # OPTIONS
    barrier_ptr,  # [ROW_GROUPS, 1 + L * blocks, APART] int32, zero: all programs', each block's
    begin,
    end,
    T,
    B,
    last,  # rows of dh_n and dc that there are: B, or 0 where both are zero and nobody wrote them
    first_lane,
    rates,
    CELL: tl.constexpr,
    PLAN: tl.constexpr,
):
    H: tl.constexpr = PLAN.H
    P: tl.constexpr = PLAN.P
    SLOT: tl.constexpr = PLAN.W_HH.SLOT
    seed_ptr, offset_ptr, keep_ptr = option_ptrs[:3]
    steps, drawn = (T, B, offset_ptr), (option_ptrs, rates, first_lane)
    programs, lane, block, part, first_batch, all_ptr, block_ptr = lanes.share(barrier_ptr, PLAN)
    row = block.to(tl.int64) * PLAN.UNITS + tl.arange(0, PLAN.UNITS)
    unit = block * PLAN.UNITS + part * PLAN.OWN + tl.arange(0, PLAN.OWN)
    rows = part.to(tl.int64) * (4 // PLAN.SPLIT * H * P)
    w_hh = lanes.load_weight(w_hh_ptrs, lane, rows, row, row < P, PLAN.W_HH, PLAN)
    if PLAN.CHAIN:
        fed = row < tl.where(lane < PLAN.LANES - 1, P, 0)  # the top lane adds 0 times what it reads
        w_ih = lanes.load_weight(w_ih_ptrs, lane + 1, rows, row, fed, PLAN.W_IH, PLAN)
    hr = project.load(w_hr_ptrs, option_ptrs, lane, block, part, H, PLAN)
    lane = lane.to(tl.int64)
    own_ptr = exchange_ptr + 8 * lane * SLOT
    own_dc_ptr = dc_ptr + lane * B * H
    sent = given_ptrs + (partial_ptr + lane * PLAN.SPLIT * B * P, block_ptr, last, drawn)
    meeting = option_ptrs, all_ptr, programs, block * PLAN.SPLIT + part
    for wave in tl.range(0, end - begin if PLAN.PERSISTENT else 1, disable_licm=PLAN.KEEP_LOOP):
        t = T - 1 - ((begin + wave).to(tl.int64) - (PLAN.LANES - 1 - lane if PLAN.CHAIN else 0))
        alive, first, now, after = lanes.place(t, lane, steps, PLAN)
        here = t, lane, first
        for turn in range(lanes.sums(alive, first_batch, block, PLAN)):
            batch = first_batch + turn
            b, mask, at, _ = lanes.block_of(batch, row, alive, P, PLAN.W_HH, PLAN)
            x_ptr = lanes.slot_of(own_ptr, part * (4 // PLAN.SPLIT), batch, PLAN.W_HH)
            acc = tl.full((PLAN.UNITS, PLAN.BLOCK_B), 0.0, PLAN.ACC)
            if PLAN.CHAIN:
                # The top lane reads its own dgates(t+1): see the forward kernel.
                slot = tl.where(lane < PLAN.LANES - 1, 2 + now, after)
                acc = product.transposed(acc, w_ih, x_ptr, slot, PLAN.W_IH, PLAN)
            if PLAN.DROPOUT:
                acc *= philox.multiplier(seed_ptr, first * P + at, rates[0], rates[1]).to(PLAN.ACC)
            if PLAN.SENT:
                above, acc = acc, tl.zeros_like(acc)
                if PLAN.CHAIN and PLAN.KEEP:  # of the top lane: see the forward kernel
                    above = tl.where(lane < PLAN.LANES - 1, above, 0.0)
            acc = product.transposed(acc, w_hh, x_ptr, after, PLAN.W_HH, PLAN)
            if PLAN.SENT:
                acc = added.add_sent(above, acc, drawn, here, b, at, mask, steps, PLAN)
            part_at = ((lane * PLAN.SPLIT + part) * B + b)[None, :] * P + row[:, None]
            tl.store(partial_ptr + part_at, acc, mask=mask)
        barrier.arrive(block_ptr, PLAN.PERSISTENT)
        if PLAN.PROJECTED:
            project.gather(hr, meeting, sent, here, unit, alive, first_batch, wave, steps, PLAN)
        for turn in range(lanes.turns(alive, first_batch, PLAN.FINISHES, PLAN)):
            batch = first_batch + turn
            b, mask, at, slot_at = lanes.block_of(batch, unit, alive, H, PLAN.W_HH, PLAN)
            gates_at = (first + b)[None, :] * (4 * H) + unit[:, None]
            # First what no other program writes: it arrives while the others finish.
            gates = product.load_gates(gates_ptr, gates_at, mask, H, PLAN.ACC)
            c_prev = lanes.load_state(c0_ptr, c_ptr, keep_ptr, here, b, unit, mask, steps, PLAN)
            c = tl.load(c_ptr + first * H + at, mask=mask, other=0.0)
            dc = lanes.load_dc(dc_ptr, here, b, unit, mask, last, steps, PLAN)
            own = added.load(drawn, here, b, unit, steps, PLAN)
            dh = project.dh_of(hr, batch, sent, here, b, unit, mask, wave, turn, steps, PLAN)
            whole = meeting, here, b, unit, alive, turn, wave, steps
            dgates = step.backward(gates, c_prev, c, dh, dc, own, whole, at, mask, CELL, PLAN)
            gates, by_h, dc = dgates
            dc = added.begun(dc, drawn, here, b, steps, PLAN)
            product.store_gates(own_ptr, now * 4 * SLOT + slot_at, mask, by_h, SLOT)
            lanes.arrive(all_ptr, turn, PLAN)  # the others wait for dgates alone
            product.store_gates(dgates_ptr, gates_at, mask, gates, H)
            tl.store(own_dc_ptr + at, dc, mask=mask)
        lanes.meet(all_ptr, wave, end - begin, programs, PLAN)


# --- host launchers: the kernels' arguments; all contiguous ---


class Options(NamedTuple):
    """What not every sweep has: OPTIONS above, and what its cell is."""

    seed: Tensor | None = None
    offset: Tensor | None = None
    keep: Tensor | None = None
    between: Tensor | None = None
    dh: Tensor | None = None
    w_ch: Tensor | None = None
    fed: Tensor | None = None
    carried: Tensor | None = None
    raw: Tensor | None = None
    gains: Tensor | None = None
    shares: Tensor | None = None
    stats: Tensor | None = None
    by_h: Tensor | None = None
    dseen: Tensor | None = None
    cell: variant.Cell = variant.PLAIN
    first_lane: int = 0

    def used(self, p: float) -> tuple:
        """DROPOUT, ROWS, KEEP, the cell and whether it draws; p: of dropout between the lanes."""
        given = self.offset is not None, self.keep is not None
        return p > 0, *given, self.cell, self.seed is not None

    def pointers(self, other: Tensor) -> tuple[Tensor, ...]:
        own = self[: 14 if self.cell.layer_norm else 8]
        return tuple(other if t is None else t for t in own)


class Weights(NamedTuple):
    """Each lane's; hr: any where h is not projected."""

    ih: Sequence[Tensor]
    hh: Sequence[Tensor]
    hr: Sequence[Tensor]


def forward(
    plan: Plan,
    cell: Cell,
    gates: Tensor,
    weights: Weights,
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
    given, used, rates = options.pointers(counters), options.used(p), launch.rates(p, options.cell)
    for begin, end in plan.launches(plan.waves(T)):
        for phases in plan.phases():
            lstm_sweep_fwd_kernel[(plan.programs,)](
                gates, *weights, bias, c0, h, y, c, exchange, given, counters,
                begin, end, T, plan.batch, options.first_lane, rates, CELL=cell,
                PLAN=launch.constants(plan, save, phases, *used),
                **launch.options(plan),
            )  # fmt: skip


def backward(
    plan: Plan,
    cell: Cell,
    dy: Tensor,
    dh_n: Tensor | None,
    gates: Tensor,
    weights: Weights,
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
    """A plan's lanes, all steps: writes dgates, dc and, where h is projected, dh. Without dh_n, dc
    is not read either.
    """
    last, given = 0 if dh_n is None else plan.batch, options.pointers(counters)
    used, rates = options.used(p), launch.rates(p, options.cell)
    by = dy, dy if dh_n is None else dh_n
    for begin, end in plan.launches(plan.waves(T)):
        for phases in plan.phases():
            lstm_sweep_bwd_kernel[(plan.programs,)](
                by, gates, *weights, c0, c, dc, dgates, exchange,
                partial, given, counters, begin, end, T, plan.batch, last, options.first_lane,
                rates, CELL=cell, PLAN=launch.constants(plan, True, phases, *used),
                **launch.options(plan),
            )  # fmt: skip
