"""All T steps of a layer in one launch, or of all layers, or of a layer's two directions: backward.

Names and waves as in forward.py, from the top lane down and from T - 1 back. dh(t) of a lane sums
w_ih^T . dgates(t) of the lane above, through the mask that dropped its output (of the top lane:
dy(t)), and w_hh^T . dgates(t+1) of its own.

A block is UNITS elements of h. SPLIT = G programs share it: each sums over one of the gates, all G
programs meet, and then each finishes OWN of the block's units. Or SPLIT is 1: a program sums over
all gates for a G-th as many elements, and meets no program before it finishes them, but reads G
times as much. Either way its weights are as many as in the forward. Where PROJECTED, a program
finishes elements of dh(t) first; all meet, and then its units' dh are rows of w_hr^T . dh(t). ALONE
as in the forward: dgates stay on chip instead of in the exchange, and dc too.

A launch's phases: it SUMS, GATHERS dh where PROJECTED, FINISHES.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import attrgetter

import triton
import triton.language as tl
from torch import Tensor

from . import barrier, norm, options, philox, position, project, tile
from .cells import lstm
from .helper import helper
from .launch import Call

# --- kernel ---


@triton.jit(do_not_specialize=["begin", "end", "T", "B", "last", "first_lane"])
def lstm_backward_kernel(
    dy_ptr,  # [N, P]; [N, 2P] where BOTH
    dh_n_ptr,  # [L, B, P]
    gates_ptr,  # [L, N, COLUMNS*H] what the forward saved
    w_ih_ptrs,  # of each lane [G*H, P]; the lowest one's is not read
    w_hh_ptrs,  # of each lane [G*H, P]
    w_hr_ptrs,  # of each lane [P, H], where PROJECTED
    c0_ptr,  # [L, B, S*H] state dtype
    c_ptr,  # [L, N, S*H] state dtype
    dc_ptr,  # [L, B, S*H] state dtype; in: gradient by a row's last states; out: by the first ones
    dgates_ptr,  # [L, N, DCOLUMNS*H] out: by x's parts of the gates, and, where NORM, by h's that
    # stay alone, normalized
    exchange_ptr,  # [L, 2, EXCHANGED, B_PAD, PAD] by h's part of the gates at t in slot t % 2, and,
    # of a CHAIN, by x's parts that stay alone; in: zero
    partial_ptr,  # [L, SPLIT, B, P] scratch, state dtype, where SPLIT is not 1
    barrier_ptr,  # [ROW_GROUPS, 1 + L * blocks, APART] int32, zero: all programs', each block's
    offset_ptr,  # [T + 2] int64, where VARLEN
    not_reset_ptr,  # [D, N] uint8, where RESETS
    between_ptr,  # [L, B_PAD, PAD] zero, where PROJECTED: dh, as w_hr^T is multiplied by it
    dh_ptr,  # [L, N, P] out, where PROJECTED: dh, for w_hr's gradient
    seed_ptr,  # [1] int64, where a mask is drawn
    weight_ptr,  # [L, WEIGHTS * H], where a cell has weights of a unit
    h_mask_ptr,  # [L, B, P] state dtype, where RECURRENT
    dh_old_ptr,  # [L, B, P] state dtype, where ZONE_H; in: zero; out: by h0, past the gates
    by_h_ptr,  # [L, N, G*H] out, where NORM or APART: by h's part of the gates, as multiplied
    raw_ptr,  # [L, N, G*H] state dtype, where NORM: w_hh times h
    gain_ptr,  # [L, (G+2) * H] state dtype, where NORM
    shares_ptr,  # [L, 2, 2, PARTS, B] state dtype, where NORM
    stats_ptr,  # [L, N, 4] state dtype, where NORM
    dseen_ptr,  # [L, N, H] state dtype, out, where NORM_C: by what h sees of c
    dweight_ptr,  # [L, N, WEIGHTS * H] state dtype, out: a step's part of the gradients by weights
    begin,
    end,
    T,
    B,
    last,  # rows of dh_n and dc that there are: B, or 0 where both are zero and nobody wrote them
    first_lane,
    dropout_p,
    dropout_scale,
    candidate_p,
    candidate_scale,
    zone_h,
    zone_h_rest,
    zone_c,
    zone_c_rest,
    clip,  # the largest gradient by h(t-1) that comes through w_hh, where CLIP
    CELL: tl.constexpr,
    PLAN: tl.constexpr,
):
    H: tl.constexpr = PLAN.H
    P: tl.constexpr = PLAN.P
    G: tl.constexpr = PLAN.GATES
    X: tl.constexpr = PLAN.SUMMED + PLAN.OF_X
    SIZE: tl.constexpr = PLAN.STATES * PLAN.H
    SLOT: tl.constexpr = PLAN.W_HH.SLOT
    rows = T, B, offset_ptr, not_reset_ptr
    masks = seed_ptr, first_lane
    programs, lane, block, part, first_batch, all_ptr, block_ptr = position.share(barrier_ptr, PLAN)
    # Elements of h that a program sums, and units that it finishes.
    element = block.to(tl.int64) * PLAN.UNITS + tl.arange(0, PLAN.ROWS)
    element_mask = elements_of(element, block, P, PLAN)
    first_unit = block * PLAN.UNITS + part * PLAN.OWN
    unit = first_unit + tl.arange(0, PLAN.OWN)
    # Weights, once: of this program's gates.
    of_part = part.to(tl.int64) * (PLAN.SUMMED_GATES * H * P)
    w_hh = ()
    if PLAN.GATES > 0:
        w_hh_ptr = position.pick(w_hh_ptrs, lane, G * H * P, PLAN) + of_part
        w_hh = tile.load_weight(w_hh_ptr, element, element_mask, PLAN.W_HH, PLAN)
    w_ih = w_hh
    if PLAN.CHAIN:  # the top lane adds 0 times what it reads
        is_fed = elements_of(element, block, tl.where(lane < PLAN.LANES - 1, P, 0), PLAN)
        w_ih_ptr = position.pick(w_ih_ptrs, lane + 1, G * H * P, PLAN) + of_part
        w_ih = tile.load_weight(w_ih_ptr, element, is_fed, PLAN.W_IH, PLAN)
    if PLAN.PROJECTED:
        w_hr_ptr = position.pick(w_hr_ptrs, lane, H * P, PLAN)
        w_hr = project.load_weight(w_hr_ptr, first_unit, H, PLAN)
    lane = lane.to(tl.int64)
    lane_ptr = exchange_ptr + 2 * lane * PLAN.EXCHANGED * SLOT
    first_gate = part.to(tl.int64) * PLAN.SUMMED_GATES
    sums_ptr = partial_ptr + lane * PLAN.SPLIT * B * P if PLAN.SPLIT > 1 else partial_ptr
    if PLAN.PROJECTED:
        between_ptr += lane * PLAN.W_HR.SLOT
    sent = ()  # of a lane ALONE: by h's part of the gates at t + 1
    if PLAN.ALONE:
        b, mask, at, _ = position.block_of(first_batch, unit, B, H, PLAN.W_HH, PLAN)
        dc_kept_at, kept_mask = lane * B * SIZE + position.states_at(b, unit, PLAN), mask
        given = mask & (b < last)[None, :]
        dc_kept = tile.load_columns(dc_ptr, dc_kept_at, given, H, PLAN.STATES, PLAN.ACC)
        for _i in tl.static_range(G):
            sent = sent + (tl.full((PLAN.UNITS, PLAN.BLOCK_B), 0.0, dgates_ptr.dtype.element_ty),)
    for wave in tl.range(0, end - begin if PLAN.PERSISTENT else 1, disable_licm=PLAN.KEEP_LOOP):
        t = T - 1 - ((begin + wave).to(tl.int64) - (PLAN.LANES - 1 - lane if PLAN.CHAIN else 0))
        first, alive = position.place(t, lane, rows, PLAN)
        step = t, lane, first, alive
        now = t & 1
        # SUMS: a part of dh, for the programs that share a block.
        if PLAN.SPLIT > 1:
            for turn in range(position.turns(alive, first_batch, PLAN.SUMS, PLAN)):
                batch = first_batch + turn
                sums, at, mask = sum_of_gates(
                    w_hh, w_ih, sent, lane_ptr, first_gate, element, element_mask, seed_ptr,
                    h_mask_ptr, dropout_p, dropout_scale, step, batch, rows, PLAN,
                )  # fmt: skip
                tl.store(sums_ptr + part * B * P + at, sums, mask=mask)
            barrier.arrive(block_ptr, PLAN.PERSISTENT)
        # GATHERS: dh whole, for all programs to multiply and for w_hr's gradient.
        if PLAN.PROJECTED:
            for turn in range(position.turns(alive, first_batch, PLAN.GATHERS, PLAN)):
                batch = first_batch + turn
                b, mask, at, slot_at = position.block_of(batch, unit, alive, P, PLAN.W_HR, PLAN)
                if PLAN.SPLIT == 1:
                    sums, at, mask = sum_of_gates(
                        w_hh, w_ih, sent, lane_ptr, first_gate, element, element_mask, seed_ptr,
                        h_mask_ptr, dropout_p, dropout_scale, step, batch, rows, PLAN,
                    )  # fmt: skip
                dh = dh_of(
                    sums if PLAN.SPLIT == 1 else 0.0, dy_ptr, dh_n_ptr, sums_ptr, block_ptr,
                    dh_old_ptr, zone_h, zone_h_rest, clip, masks, step, b, unit, mask, last, wave,
                    turn, rows, PLAN,
                )  # fmt: skip
                dh = dh.to(dh_ptr.dtype.element_ty)
                tl.store(between_ptr + slot_at, tile.rounded(dh, PLAN.ROUNDS), mask=mask)
                position.arrive(all_ptr, turn, PLAN)  # the others wait for dh alone
                tl.store(dh_ptr + first * P + at, dh, mask=mask)
            position.wait(all_ptr, wave * PLAN.MEETINGS + 1, programs, PLAN)
        # FINISHES: the cell.
        for turn in range(position.turns(alive, first_batch, PLAN.FINISHES, PLAN)):
            batch = first_batch + turn
            b, mask, at, slot_at = position.block_of(batch, unit, alive, H, PLAN.W_HH, PLAN)
            row = (first + b)[None, :]
            gates_at = row * (G * H) + unit[:, None]
            # First what no other program writes: it arrives while the others finish.
            saved_at = row * (PLAN.COLUMNS * H) + unit[:, None]
            saved = tile.load_columns(gates_ptr, saved_at, mask, H, PLAN.SAVED, PLAN.ACC)
            c_before = position.load_states(c0_ptr, c_ptr, step, b, unit, mask, rows, PLAN)
            c_at = position.states_at(b, unit, PLAN)
            c = tile.load_columns(c_ptr + first * SIZE, c_at, mask, H, PLAN.STATES, PLAN.ACC)
            dc_at = lane * B * SIZE + c_at
            if PLAN.ALONE:
                dc = dc_kept
            else:
                is_sent = mask & (b < tl.where(t == T - 1, last, B))[None, :]
                dc = tile.load_columns(dc_ptr, dc_at, is_sent, H, PLAN.STATES, PLAN.ACC)
            edges = 0.0, 0.0
            if PLAN.HAS.EDGES:
                edges = position.edges(t, lane, b, rows, PLAN)
            cell_options = options.of_cell(
                weight_ptr, candidate_p, candidate_scale, zone_c, zone_c_rest, masks, step, b,
                unit, rows, PLAN,
            )  # fmt: skip
            if PLAN.PROJECTED:
                dm = project.multiply(w_hr, between_ptr, batch, PLAN)
            else:
                sums = 0.0
                if PLAN.SPLIT == 1 and PLAN.GATES > 0:
                    sums, at, mask = sum_of_gates(
                        w_hh, w_ih, sent, lane_ptr, first_gate, element, element_mask, seed_ptr,
                        h_mask_ptr, dropout_p, dropout_scale, step, batch, rows, PLAN,
                    )  # fmt: skip
                dm = dh_of(
                    sums, dy_ptr, dh_n_ptr, sums_ptr, block_ptr, dh_old_ptr, zone_h, zone_h_rest,
                    clip, masks, step, b, unit, mask, last, wave, turn, rows, PLAN,
                )  # fmt: skip
            meeting = all_ptr, shares_ptr, programs, block * PLAN.SPLIT + part, wave, turn
            if PLAN.HAS.NORM_C:
                made = lstm.made_again(saved, c_before[0], c[0], cell_options, PLAN.HAS)
                hat, seen = norm.of_state_again(made, gain_ptr, stats_ptr, unit, step, b, PLAN)
                do, dmade = lstm.output_backward(saved, seen, dm, PLAN.HAS)
                tl.store(dseen_ptr + first * H + at, dmade, mask=mask)
                dmade = norm.of_state_backward(
                    dmade, hat, gain_ptr, stats_ptr, unit, meeting, step, b, rows, PLAN
                )
                by_x, dc_before, dweights = lstm.inner_backward(
                    saved, c_before[0], made, dc[0], do, dmade, cell_options, PLAN.HAS
                )
                by_h, dc = by_x, (dc_before,)
            else:
                by_x, by_h, dc, dweights = CELL.backward(
                    saved, c_before, c, dm, dc, edges, cell_options, PLAN.HAS
                )
            if PLAN.HAS.WEIGHTS > 0:
                count: tl.constexpr = PLAN.HAS.WEIGHTS
                dweight_at = row * (count * H) + unit[:, None]
                tile.store_columns(dweight_ptr, dweight_at, mask, dweights, H, count)
            dgates_at = row * (PLAN.DCOLUMNS * H) + unit[:, None]
            if PLAN.HAS.NORM:
                for i in tl.static_range(PLAN.DCOLUMNS - X):
                    of_h = by_h[PLAN.SUMMED + i].to(dgates_ptr.dtype.element_ty)
                    tl.store(dgates_ptr + dgates_at + (X + i) * H, of_h, mask=mask)
                by_h = norm.of_product_backward(
                    by_h, raw_ptr, gain_ptr, stats_ptr, unit, mask, gates_at, meeting, step, b,
                    rows, PLAN,
                )  # fmt: skip
            dc = position.each_unless_reset(dc, t, lane, b, rows, PLAN)
            out_ptr = lane_ptr + now * PLAN.EXCHANGED * SLOT + slot_at
            if PLAN.ALONE:
                sent = ()
                for i in tl.static_range(G):
                    of_gate = tl.where(mask, by_h[i], 0.0).to(dgates_ptr.dtype.element_ty)
                    sent = sent + (tile.rounded(of_gate, PLAN.ROUNDS),)
                dc_kept = position.kept_where_dead(dc, dc_kept, mask, PLAN.STATES, PLAN)
            else:
                store_exchange(out_ptr, by_x, by_h, mask, PLAN)
            position.arrive(all_ptr, turn, PLAN)  # the others wait for by_h alone
            tile.store_columns(dgates_ptr, dgates_at, mask, by_x, H, X)
            if PLAN.HAS.NORM or PLAN.APART:
                tile.store_columns(by_h_ptr, gates_at, mask, by_h, H, G)
            if not PLAN.ALONE:
                tile.store_columns(dc_ptr, dc_at, mask, dc, H, PLAN.STATES)
        position.wait_for_next(all_ptr, wave, end - begin, programs, PLAN)
    if PLAN.ALONE:
        tile.store_columns(dc_ptr, dc_kept_at, kept_mask, dc_kept, H, PLAN.STATES)


@helper
def elements_of(element, block, count, PLAN: tl.constexpr):
    """Return a mask [ROWS] of the block's elements, of `count` in all.

    A tile may have more rows than the block has elements.
    """
    if PLAN.ROWS > PLAN.UNITS:
        count = tl.minimum(count, (block + 1) * PLAN.UNITS)
    return element < count


@helper
def sum_of_gates(
    w_hh,
    w_ih,  # the lane above's, of a CHAIN
    sent,  # of a lane ALONE: by h's part of the gates at t + 1
    lane_ptr,  # this lane's part of the exchange
    first_gate,
    element,
    element_mask,
    seed_ptr,
    h_mask_ptr,
    dropout_p,
    dropout_scale,
    step,
    batch,
    rows,
    PLAN: tl.constexpr,
):
    """Sum the gradients that reach a block [ROWS, BLOCK_B] of h(t) from the gates that read it.

    A program sums over its own part of these gates. Return the sum, its offsets in [B, P], and the
    mask of the elements that exist.
    """
    t, lane, first, alive = step
    now, after = t & 1, (t & 1) ^ 1
    b, mask, at, _ = position.block_of(batch, element, alive, PLAN.P, PLAN.W_HH, PLAN)
    if PLAN.ROWS > PLAN.UNITS:
        mask = mask & element_mask[:, None]
    in_ptr = position.slot_of(lane_ptr, 0, batch, PLAN.W_HH)
    acc = tile.zeros(PLAN.ROWS, PLAN)
    if PLAN.CHAIN:
        # The top lane reads its own dgates(t+1): see the forward kernel.
        slot = tl.where(lane < PLAN.LANES - 1, 2 + now, after)
        by_x = tile.gate_ptrs(in_ptr, slot, first_gate, True, PLAN.W_IH, PLAN)
        acc = tile.product(acc, w_ih, by_x, PLAN.W_IH, PLAN)
    if PLAN.DROPOUT:
        n = first * PLAN.P + at
        acc *= philox.multiplier(seed_ptr, n, dropout_p, dropout_scale).to(PLAN.ACC)
    if PLAN.SENT:
        from_above = tile.summed(acc, PLAN.ROWS, PLAN)
        if PLAN.CHAIN and PLAN.RESETS:  # 0 times a NaN, as in the forward kernel
            from_above = tl.where(lane < PLAN.LANES - 1, from_above, 0.0)
        acc = tile.zeros(PLAN.ROWS, PLAN)
    if PLAN.ALONE:
        acc = tile.product_on_chip(acc, w_hh, sent, PLAN.W_HH, PLAN)
    else:
        by_h = tile.gate_ptrs(in_ptr, after, first_gate, False, PLAN.W_HH, PLAN)
        acc = tile.product(acc, w_hh, by_h, PLAN.W_HH, PLAN)
    acc = tile.summed(acc, PLAN.ROWS, PLAN)
    if PLAN.HAS.RECURRENT:
        acc *= options.h_mask(h_mask_ptr, lane, b, element, mask, rows, PLAN)
    if PLAN.SENT:
        acc = from_above + position.unless_reset(acc, t + 1, lane, b, rows, PLAN)
    return acc, at, mask


@helper
def store_exchange(ptr, by_x, by_h, mask, PLAN: tl.constexpr):
    """Store a block's gradients by the gates in the exchange, for the programs that wait."""
    dtype = ptr.dtype.element_ty
    for i in tl.static_range(PLAN.GATES):
        of_gate = tile.rounded(by_h[i].to(dtype), PLAN.ROUNDS)
        tl.store(ptr + i * PLAN.W_HH.SLOT, of_gate, mask=mask)
    for i in tl.static_range(PLAN.EXCHANGED - PLAN.GATES):
        of_x = tile.rounded(by_x[PLAN.SUMMED + i].to(dtype), PLAN.ROUNDS)
        tl.store(ptr + (PLAN.GATES + i) * PLAN.W_HH.SLOT, of_x, mask=mask)


@helper
def dh_of(
    sums,  # [UNITS, BLOCK_B] where SPLIT is 1
    dy_ptr,
    dh_n_ptr,
    sums_ptr,  # [SPLIT, B, P]
    block_ptr,
    dh_old_ptr,
    zone_h,
    zone_h_rest,
    clip,
    masks,
    step,
    b,
    unit,
    mask,
    last,
    wave,
    turn,
    rows,
    PLAN: tl.constexpr,
):
    """Return a block's dh of a step: the given gradients plus the sums over its gates.

    The first turn waits for the sums of other programs. With zoneout, return the part of dh that
    the step itself receives.
    """
    t, lane, _, _ = step
    T, B, _, _ = rows
    at = b[None, :] * PLAN.P + unit[:, None]
    is_last = mask & (b < tl.where(t == T - 1, last, 0))[None, :]
    if PLAN.VARLEN:  # a row ends with this step where it is not alive in the next
        _, alive_next = position.place(t + 1, lane, rows, PLAN)
        is_last = mask & (b >= alive_next)[None, :]
    dh = tl.load(dh_n_ptr + (lane * B * PLAN.P + at), mask=is_last, other=0.0).to(PLAN.ACC)
    top = tl.where(lane == PLAN.LANES - 1, B, 0) if PLAN.CHAIN else B
    dy_at = position.output_of(step, b, unit, rows, PLAN)
    dh += tl.load(dy_ptr + dy_at, mask=mask & (b < top)[None, :], other=0.0).to(PLAN.ACC)
    if PLAN.SPLIT > 1:
        if turn == 0:
            barrier.wait(
                block_ptr, (wave + 1) * PLAN.SPLIT, PLAN.PERSISTENT, PLAN.NVIDIA, PLAN.POLLS
            )
        sums = tile.sum_partials(sums_ptr + at, B * PLAN.P, mask, PLAN.SPLIT)
    if PLAN.HAS.CLIP:
        sums = tl.minimum(tl.maximum(sums, -clip), clip)
    dh += sums
    if PLAN.HAS.ZONE_H:
        dh = options.zone_out_backward(
            dh, dh_old_ptr, zone_h, zone_h_rest, masks, step, b, unit, mask, rows, PLAN
        )
    return dh


# --- launcher ---


@dataclass(kw_only=True, eq=False, slots=True)
class Arguments:
    """The kernel's arguments by its own names, as its parameters describe them.

    All tensors are contiguous. A pointer that the kernel has no use for is None.
    """

    dy_ptr: Tensor
    dh_n_ptr: Tensor
    gates_ptr: Tensor
    w_ih_ptrs: tuple[Tensor, ...] | None = None
    w_hh_ptrs: tuple[Tensor, ...]
    w_hr_ptrs: tuple[Tensor, ...] | None = None
    c0_ptr: Tensor
    c_ptr: Tensor
    dc_ptr: Tensor
    dgates_ptr: Tensor
    exchange_ptr: Tensor
    partial_ptr: Tensor | None = None
    barrier_ptr: Tensor
    offset_ptr: Tensor | None = None
    not_reset_ptr: Tensor | None = None
    between_ptr: Tensor | None = None
    dh_ptr: Tensor | None = None
    seed_ptr: Tensor | None = None
    weight_ptr: Tensor | None = None
    h_mask_ptr: Tensor | None = None
    dh_old_ptr: Tensor | None = None
    by_h_ptr: Tensor | None = None
    raw_ptr: Tensor | None = None
    gain_ptr: Tensor | None = None
    shares_ptr: Tensor | None = None
    stats_ptr: Tensor | None = None
    dseen_ptr: Tensor | None = None
    dweight_ptr: Tensor | None = None
    begin: int = 0  # set by Call.run
    end: int = 0
    T: int
    B: int
    last: int
    first_lane: int = 0
    dropout_p: float = 0.0
    dropout_scale: float = 1.0
    candidate_p: float = 0.0
    candidate_scale: float = 1.0
    zone_h: float = 0.0
    zone_h_rest: float = 0.0
    zone_c: float = 0.0
    zone_c_rest: float = 0.0
    clip: float = 0.0

    def values(self) -> tuple:
        """Return the values in the kernel's order, without its constants."""
        return VALUES(self)


VALUES = attrgetter(*(field.name for field in fields(Arguments)))


def backward(call: Call, arguments: Arguments) -> None:
    """Run all steps of a call's lanes: write dgates, dc and the kernel's other outputs."""
    call.run(lstm_backward_kernel, arguments)
