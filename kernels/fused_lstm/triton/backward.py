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

A launch's phases: it SUMS, GATHERS dh where PROJECTED, RUNS those of products inside the step (see
inner.py), FINISHES.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from . import barrier, inner, norm, options, philox, position, project, tile
from .helper import helper

# --- kernel ---


@triton.jit(do_not_specialize=["begin", "end", "T", "B", "last", "first_lane"])
def lstm_backward_kernel(
    dy_ptr,  # [N, P]; [N, 2P] where BOTH; of a CHAIN [L, N, P] where BY_STATES
    dh_n_ptr,  # [L, B, P]
    gates_ptr,  # [L, N, COLUMNS*H] what the forward saved
    w_ih_ptrs,  # of each lane of the launch [G*H, P]; the lowest one's is not read
    w_hh_ptrs,  # of each [G*H, P]
    w_hr_ptrs,  # of each [P, H], where PROJECTED
    w_inner_ptrs,  # of each, where there are PRODUCTS: see inner.py
    c0_ptr,  # [L, B, S*H] state dtype
    c_ptr,  # [L, N, S*H] state dtype
    dc_ptr,  # [L, B, S*H] state dtype; in: gradient by a row's last states; out: by the first ones
    dstates_ptr,  # [L, N, S*H] state dtype, where BY_STATES: by the states after each step
    dgates_ptr,  # [L, N, DCOLUMNS*H] out: by x's parts of the gates, and, where NORM, by h's that
    # stay alone, normalized
    exchange_ptr,  # [L, 2, EXCHANGED, B_PAD, PAD] by h's part of the gates at t in slot t % 2, and,
    # of a CHAIN, by x's parts that stay alone; in: zero
    partial_ptr,  # [LANES, SPLIT, B, P] scratch, state dtype, where SPLIT is not 1
    barrier_ptr,  # [launches, ROW_GROUPS, 1 + LANES * blocks, APART] int32, zero: all programs',
    # each block's
    offset_ptr,  # [T + 2] int64, where VARLEN
    not_reset_ptr,  # [D, N] uint8, where RESETS
    between_ptr,  # [L, B_PAD, PAD] zero, where PROJECTED: dh, as w_hr^T is multiplied by it; or
    # inner.py's
    dh_ptr,  # [L, N, P] out, where PROJECTED: dh, for w_hr's gradient
    seed_ptr,  # [1] int64, where a mask is drawn
    weight_ptr,  # [L, WEIGHTS * H], where a cell has weights of a unit
    h_mask_ptr,  # [L, B, P] state dtype, where RECURRENT
    dh_old_ptr,  # [L, B, P] state dtype, where ZONE_H; in: zero; out: by h0, past the gates
    by_h_ptr,  # [L, N, G*H] out, where NORM or APART: by h's part of the gates, as multiplied
    raw_ptr,  # [L, N, G*H] state dtype, where NORM: w_hh times h
    gain_ptr,  # [L, (G+2) * H] state dtype, where NORM
    shares_ptr,  # [L, 2, 2, PARTS, B] state dtype, where NORM; or inner.py's
    numbers_ptr,  # [L, N, NUMBERS] state dtype, where there are sums: see inner.py
    stats_ptr,  # [L, N, 4] state dtype, where NORM
    dseen_ptr,  # [L, N, H] state dtype, out, where NORM_C: by what h sees of c
    dweight_ptr,  # [L, N, WEIGHTS * H] state dtype, out: a step's part of the gradients by weights
    by_ptr,  # scratch, state dtype, where programs meet inside a step: see inner.py
    begin,
    end,
    T,
    B,
    last,  # valid rows of dh_n and dc: B, or 0 where both are zero and not written
    first_lane,
    dropout_p,
    dropout_scale,
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
    rows = position.Rows(  # here, since Triton 3.6 has no function that returns a pointer of None
        T=T, B=B, offset_ptr=offset_ptr, not_reset_ptr=not_reset_ptr,
        N=position.rows_of_a_lane(T, offset_ptr, PLAN),
    )  # fmt: skip
    draws = options.Draws(
        seed_ptr=seed_ptr,
        dropout_p=dropout_p, dropout_scale=dropout_scale,
        zone_h=zone_h, zone_h_rest=zone_h_rest, zone_c=zone_c, zone_c_rest=zone_c_rest,
    )  # fmt: skip
    share = position.share(barrier_ptr, first_lane, PLAN)
    lane, first_batch = share.lane, share.first_batch
    # Elements of h that a program sums, and units that it finishes.
    element = share.block.to(tl.int64) * PLAN.UNITS + tl.arange(0, PLAN.ROWS)
    first_unit = share.block * PLAN.UNITS + share.part * PLAN.OWN
    unit = first_unit + tl.arange(0, PLAN.OWN)
    # Weights, once: of this program's gates.
    of_part = share.part.to(tl.int64) * (PLAN.SUMMED_GATES * H * P)
    is_element = elements_of(element, share.block, P, PLAN)
    w_hh = ()
    if PLAN.GATES > 0:
        w_hh_ptr = position.pick(w_hh_ptrs, lane, first_lane, G * H * P, PLAN) + of_part
        w_hh = tile.load_weight(w_hh_ptr, element, is_element, PLAN.W_HH, PLAN)
    w_ih = w_hh
    if PLAN.CHAIN:  # the lane above's; the top lane adds 0 times what it reads
        is_fed = elements_of(element, share.block, tl.where(lane < PLAN.LANES - 1, P, 0), PLAN)
        w_ih_ptr = position.pick(w_ih_ptrs, lane + 1, first_lane, G * H * P, PLAN) + of_part
        w_ih = tile.load_weight(w_ih_ptr, element, is_fed, PLAN.W_IH, PLAN)
    if PLAN.PROJECTED:
        w_hr_ptr = position.pick(w_hr_ptrs, lane, first_lane, H * P, PLAN)
        w_hr = project.load_weight(w_hr_ptr, first_unit, H, PLAN)
    if PLAN.CALL_COUNT > 0:
        w_inner = ()
    if PLAN.PRODUCTS > 0:
        last_product: tl.constexpr = PLAN.INNER[PLAN.PRODUCTS - 1]
        planes: tl.constexpr = last_product.FIRST + last_product.MADE
        w_inner_ptr = position.pick(w_inner_ptrs, lane, first_lane, planes * H * H, PLAN)
        w_inner = inner.load_weights(w_inner_ptr, share.block, first_unit, PLAN)
    if PLAN.SPLIT > 1:
        partial_ptr += lane.to(tl.int64) * PLAN.SPLIT * B * P
    lane = (first_lane + lane).to(tl.int64)
    sums = Sums(
        w_hh=w_hh, w_ih=w_ih, element=element, mask=is_element, h_mask_ptr=h_mask_ptr,
        exchange_ptr=exchange_ptr + 2 * lane * PLAN.EXCHANGED * PLAN.W_HH.SLOT,
        first_gate=share.part.to(tl.int64) * PLAN.SUMMED_GATES,
        partial_ptr=partial_ptr,
    )  # fmt: skip
    given = Incoming(
        dy_ptr=dy_ptr, dh_n_ptr=dh_n_ptr, last=last, clip=clip, dh_old_ptr=dh_old_ptr
    )  # fmt: skip
    if PLAN.PROJECTED:
        between_ptr += lane * PLAN.W_HR.SLOT
    if PLAN.PRODUCTS > 0:
        between_ptr += lane * planes * PLAN.W_HR.SLOT
    if PLAN.CALL_COUNT > 0:
        inside = inner.Inside(
            weights=w_inner, between_ptr=between_ptr, shares_ptr=shares_ptr,
            numbers_ptr=numbers_ptr, by_ptr=by_ptr, part=share.block * PLAN.SPLIT + share.part,
            all_ptr=share.all_ptr,
        )  # fmt: skip
    sent = ()  # of a lane ALONE: by h's part of the gates at t + 1
    if PLAN.ALONE:
        every = position.block_of(first_batch, unit, B, H, PLAN.W_HH, PLAN)
        is_given = every.mask & (every.b < last)[None, :]
        kept_at = lane * B * SIZE + position.states_at(every, PLAN)
        dc_kept = tile.load_columns(dc_ptr, kept_at, is_given, H, PLAN.STATES, PLAN.ACC)
        for _i in tl.static_range(G):
            sent = sent + (tl.full((PLAN.UNITS, PLAN.BLOCK_B), 0.0, dgates_ptr.dtype.element_ty),)
    waves = end - begin if PLAN.PERSISTENT else 1
    if PLAN.TWO_AHEAD:
        memory = Memory(
            dy_ptr=dy_ptr, gates_ptr=gates_ptr, c0_ptr=c0_ptr, c_ptr=c_ptr, dstates_ptr=dstates_ptr
        )  # fmt: skip
        begin, waves = position.waves_of_scan(begin, waves, lane, first_batch, rows, PLAN)
        start = (T - 1 - begin).to(tl.int64)
        last_step = position.step_of(start, lane, rows, PLAN)
        before_last = position.step_of(start - 1, lane, rows, PLAN)
        coming = position.step_of(start - 2, lane, rows, PLAN)
        early = read(memory, last_step, before_last, every, rows, PLAN)
        later = read(memory, before_last, coming, every, rows, PLAN)
        ends = position.block_of(first_batch, unit, last_step.alive, H, PLAN.W_HH, PLAN)
        after_at = last_step.first * SIZE + position.states_at(ends, PLAN)
        after = tile.load_ahead(c_ptr, after_at, ends.mask, H, PLAN.STATES)
        dh_n = tl.load(dh_n_ptr + lane * B * P + every.at, mask=is_given, other=0.0)
        alive_after = last_step.alive * 0  # rows of the step after
    for wave in tl.range(0, waves, loop_unroll_factor=PLAN.UNROLL, disable_licm=PLAN.KEEP_LOOP):
        t = T - 1 - ((begin + wave).to(tl.int64) - (PLAN.LANES - 1 - lane if PLAN.CHAIN else 0))
        if PLAN.TWO_AHEAD:
            step = early.step
            beyond = position.step_of(t - 3, lane, rows, PLAN)
        else:
            step = position.step_of(t, lane, rows, PLAN)
        if PLAN.SPLIT > 1:
            sum_parts(sums, share, sent, step, rows, draws, PLAN)
        if PLAN.PROJECTED:
            gather(
                dh_ptr, between_ptr, unit, given, sums, share, sent, step, wave, rows, draws, PLAN
            )
        # RUNS: the cell's phases before the last.
        for k in tl.static_range(PLAN.INSIDE):
            if k > 0:
                position.wait(share, wave * PLAN.MEETINGS + k, PLAN)
            for turn in range(position.turns(step.alive, first_batch, PLAN.RUNS[k], PLAN)):
                batch = first_batch + turn
                block = position.block_of(batch, unit, step.alive, H, PLAN.W_HR, PLAN)
                saved, before, after = stored(
                    gates_ptr, c0_ptr, c_ptr, step, block, rows, PLAN
                )  # fmt: skip
                numbers = inner.load_numbers(PLAN.NUMBERS, inside, step, block, PLAN)
                dc = dc_of(dc_ptr, last, step, block, rows, PLAN)
                dc = plus_given(dc, given_by_states(dstates_ptr, step, block, PLAN), PLAN)
                cell_options = options.of_cell(weight_ptr, draws, step, block, rows, PLAN)
                dh = 0.0
                if k == 0:
                    dh = dh_of(given, sums, share, sent, step, block, wave, turn, rows, draws, PLAN)
                by = inner.gradients(dh, k, inside, step, block, rows, PLAN)
                made = CELL.backs[k](saved, numbers, before, after, by, dc, cell_options, PLAN.HAS)
                inner.hand_on(made, k, inside, step, block, turn, rows, PLAN)
        if PLAN.INSIDE > 0:
            position.wait(share, wave * PLAN.MEETINGS + PLAN.INSIDE, PLAN)
        # FINISHES: the cell, or its last phase.
        for turn in range(position.turns(step.alive, first_batch, PLAN.FINISHES, PLAN)):
            batch = first_batch + turn
            block = position.block_of(batch, unit, step.alive, H, PLAN.W_HH, PLAN)
            # First what no other program writes: it arrives while the others finish.
            if PLAN.TWO_AHEAD:
                saved = tile.widened(early.saved, PLAN.SAVED, PLAN.ACC)
                before = position.where_kept(early.before, early.not_reset, PLAN)
                by_states = early.by_states
            else:
                saved, before, after = stored(gates_ptr, c0_ptr, c_ptr, step, block, rows, PLAN)
                by_states = given_by_states(dstates_ptr, step, block, PLAN)
            dc = dc_kept if PLAN.ALONE else dc_of(dc_ptr, last, step, block, rows, PLAN)
            dc = plus_given(dc, by_states, PLAN)
            cell_options = options.of_cell(weight_ptr, draws, step, block, rows, PLAN)
            if PLAN.PROJECTED:
                dh = project.multiply(w_hr, between_ptr, step, batch, PLAN)
            elif PLAN.INSIDE > 0:
                dh = 0.0
            elif PLAN.TWO_AHEAD:
                is_last = (block.b >= alive_after)[None, :] if PLAN.VARLEN else t == T - 1
                dh = early.dy.to(PLAN.ACC) + tl.where(is_last, dh_n.to(PLAN.ACC), 0.0)
                if PLAN.HAS.ZONE_H:
                    dh = options.zone_out_backward(dh, dh_old_ptr, draws, step, block, rows, PLAN)
            else:
                dh = dh_of(given, sums, share, sent, step, block, wave, turn, rows, draws, PLAN)
            if PLAN.HAS.NORM:
                norms = norm.Norms(
                    gain_ptr=gain_ptr, shares_ptr=shares_ptr, stats_ptr=stats_ptr,
                    all_ptr=share.all_ptr, programs=share.programs,
                    part=share.block * PLAN.SPLIT + share.part, wave=wave, turn=turn,
                )  # fmt: skip
            if PLAN.HAS.NORM_C:
                by_x, by_h, dc, dweights = norm.lstm_backward(
                    saved, before, after, dh, dc, cell_options, dseen_ptr, norms, step, block, rows,
                    PLAN,
                )  # fmt: skip
            elif PLAN.CALL_COUNT > 0:
                numbers = inner.load_numbers(PLAN.NUMBERS, inside, step, block, PLAN)
                by = inner.gradients(dh, PLAN.INSIDE, inside, step, block, rows, PLAN)
                by_x, by_h, dc, dweights = CELL.backward(
                    saved, numbers, before, after, by, dc, cell_options, PLAN.HAS
                )
            else:
                by_x, by_h, dc, dweights = CELL.backward(
                    saved, before, after, dh, dc, cell_options, PLAN.HAS
                )
            if PLAN.HAS.WEIGHTS > 0:
                weights: tl.constexpr = PLAN.HAS.WEIGHTS
                dweight_at = position.columns_at(step, block, weights, PLAN)
                tile.store_columns(dweight_ptr, dweight_at, block.mask, dweights, H, weights)
            dgates_at = position.columns_at(step, block, PLAN.DCOLUMNS, PLAN)
            if PLAN.HAS.NORM:
                for i in tl.static_range(PLAN.DCOLUMNS - X):
                    of_gate = by_h[PLAN.SUMMED + i].to(dgates_ptr.dtype.element_ty)
                    tl.store(dgates_ptr + dgates_at + (X + i) * H, of_gate, mask=block.mask)
                by_h = norm.of_product_backward(by_h, raw_ptr, norms, step, block, rows, PLAN)
            if PLAN.TWO_AHEAD:
                dc = position.where_kept(dc, early.not_reset, PLAN)
            else:
                dc = position.each_unless_reset(dc, t, lane, block.b, rows, PLAN)
            if PLAN.ALONE:
                sent = ()
                for i in tl.static_range(G):
                    of_gate = tl.where(block.mask, by_h[i], 0.0).to(dgates_ptr.dtype.element_ty)
                    sent = sent + (tile.rounded(of_gate, PLAN.ROUNDS),)
                dc_kept = position.kept_where_dead(dc, dc_kept, block.mask, PLAN.STATES, PLAN)
            else:
                send(sums.exchange_ptr, by_x, by_h, step, block, PLAN)
            position.arrive(share.all_ptr, turn, PLAN)  # the others wait for by_h alone
            tile.store_columns(dgates_ptr, dgates_at, block.mask, by_x, H, X)
            if PLAN.HAS.NORM or PLAN.APART:
                by_h_at = position.columns_at(step, block, G, PLAN)
                tile.store_columns(by_h_ptr, by_h_at, block.mask, by_h, H, G)
            if not PLAN.ALONE:
                dc_at = lane * B * SIZE + position.states_at(block, PLAN)
                tile.store_columns(dc_ptr, dc_at, block.mask, dc, H, PLAN.STATES)
            if PLAN.TWO_AHEAD:
                after, alive_after = early.before, step.alive
                early = later
                later = read(memory, coming, beyond, every, rows, PLAN)
                coming = beyond
        position.wait_for_next(share, wave, end - begin, PLAN)
    if PLAN.ALONE:
        tile.store_columns(dc_ptr, kept_at, every.mask, dc_kept, H, PLAN.STATES)


class Incoming(NamedTuple):
    """Gradients that come from outside."""

    dy_ptr: Any
    dh_n_ptr: Any
    last: Any  # rows of dh_n that there are
    clip: Any
    dh_old_ptr: Any


class Sums(NamedTuple):
    """A program's sums of dh: its elements of h, their weights, the exchange."""

    w_hh: Any
    w_ih: Any  # the lane above's, of a CHAIN
    element: Any  # [ROWS]
    mask: Any  # of elements that exist
    exchange_ptr: Any  # this lane's part
    partial_ptr: Any  # [SPLIT, B, P], this lane's
    first_gate: Any
    h_mask_ptr: Any


# --- what a step reads, beside its dh ---


class Memory(NamedTuple):
    """Hold the tensors that no step of a backward writes."""

    dy_ptr: Any
    gates_ptr: Any
    c0_ptr: Any
    c_ptr: Any
    dstates_ptr: Any


class Read(NamedTuple):
    """A block of Memory in a step, in the memory's dtypes: nothing has waited for it."""

    step: Any
    dy: Any
    saved: Any
    before: Any  # the states after the step before
    by_states: Any  # where BY_STATES
    not_reset: Any  # where RESETS


@helper
def read(memory, step, before, every, rows, PLAN: tl.constexpr):
    """Load what a scan reads in a step of a block of `every` row, or nothing before step 0.

    before: the step before. The states after it are read of its rows too, some of which end there.
    """
    block = position.block_of(every.batch, every.unit, step.alive, PLAN.H, PLAN.W_HH, PLAN)
    wide = block
    if PLAN.VARLEN:
        alive = tl.maximum(step.alive, before.alive)
        wide = position.block_of(every.batch, every.unit, alive, PLAN.H, PLAN.W_HH, PLAN)
    dy_at = position.output_of(step, block, rows, PLAN)
    saved_at = position.columns_at(step, block, PLAN.COLUMNS, PLAN)
    not_reset = ()
    if PLAN.RESETS:
        not_reset = position.load_not_reset(step, block.b, rows, PLAN)
    return Read(
        step=step,
        dy=tl.load(memory.dy_ptr + dy_at, mask=block.mask, other=0.0),
        saved=tile.load_ahead(memory.gates_ptr, saved_at, block.mask, PLAN.H, PLAN.SAVED),
        before=position.states_after(memory.c0_ptr, memory.c_ptr, before, wide, rows, PLAN),
        by_states=given_by_states(memory.dstates_ptr, step, block, PLAN),
        not_reset=not_reset,
    )  # fmt: skip


@helper
def stored(gates_ptr, c0_ptr, c_ptr, step, block, rows, PLAN: tl.constexpr):
    """Load a block's saved columns of a step, and its states before and after it."""
    SIZE: tl.constexpr = PLAN.STATES * PLAN.H
    saved_at = position.columns_at(step, block, PLAN.COLUMNS, PLAN)
    saved = tile.load_columns(gates_ptr, saved_at, block.mask, PLAN.H, PLAN.SAVED, PLAN.ACC)
    before = position.load_states(c0_ptr, c_ptr, step, block, rows, PLAN)
    c_at = step.first * SIZE + position.states_at(block, PLAN)
    after = tile.load_columns(c_ptr, c_at, block.mask, PLAN.H, PLAN.STATES, PLAN.ACC)
    return saved, before, after


@helper
def dc_of(dc_ptr, last, step, block, rows, PLAN: tl.constexpr):
    """Load a block's gradients by the states after a step."""
    T, B = rows.T, rows.B
    dc_at = step.lane * B * (PLAN.STATES * PLAN.H) + position.states_at(block, PLAN)
    is_sent = block.mask & (block.b < tl.where(step.t == T - 1, last, B))[None, :]
    return tile.load_columns(dc_ptr, dc_at, is_sent, PLAN.H, PLAN.STATES, PLAN.ACC)


@helper
def given_by_states(dstates_ptr, step, block, PLAN: tl.constexpr):
    """Load a block's gradients by the states after a step that come from outside."""
    given = ()
    if PLAN.BY_STATES:
        at = step.first * (PLAN.STATES * PLAN.H) + position.states_at(block, PLAN)
        given = tile.load_ahead(dstates_ptr, at, block.mask, PLAN.H, PLAN.STATES)
    return given


@helper
def plus_given(dc, by_states, PLAN: tl.constexpr):
    """Return gradients by the states after a step with those that come from outside."""
    if PLAN.BY_STATES:
        by_states = tile.widened(by_states, PLAN.STATES, PLAN.ACC)
        dc = tile.sums(dc, by_states, PLAN.STATES)
    return dc


# --- phases before the cell's ---


@helper
def sum_parts(sums, share, sent, step, rows, draws, PLAN: tl.constexpr):
    """Store a part of dh, for the programs that share a block: the phase SUMS."""
    part_ptr = sums.partial_ptr + share.part * rows.B * PLAN.P
    for turn in range(position.turns(step.alive, share.first_batch, PLAN.SUMS, PLAN)):
        batch = share.first_batch + turn
        part, block = sum_of_gates(sums, sent, step, batch, rows, draws, PLAN)
        tl.store(part_ptr + block.at, part, mask=block.mask)
    barrier.arrive(share.block_ptr, PLAN.PERSISTENT, PLAN)


@helper
def gather(
    dh_ptr,
    between_ptr,  # this lane's
    unit,  # elements of h
    given,
    sums,
    share,
    sent,
    step,
    wave,
    rows,
    draws,
    PLAN: tl.constexpr,
):
    """Store dh, for all programs to multiply and for w_hr's gradient, and wait: GATHERS."""
    for turn in range(position.turns(step.alive, share.first_batch, PLAN.GATHERS, PLAN)):
        batch = share.first_batch + turn
        block = position.block_of(batch, unit, step.alive, PLAN.P, PLAN.W_HR, PLAN)
        dh = dh_of(given, sums, share, sent, step, block, wave, turn, rows, draws, PLAN)
        dh = dh.to(dh_ptr.dtype.element_ty)
        tl.store(between_ptr + block.slot_at, tile.rounded(dh, PLAN.ROUNDS), mask=block.mask)
        position.arrive(share.all_ptr, turn, PLAN)  # the others wait for dh alone
        tl.store(dh_ptr + step.first * PLAN.P + block.at, dh, mask=block.mask)
    position.wait(share, wave * PLAN.MEETINGS + 1, PLAN)


# --- a step's dh, and what it sends on ---


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
    sums,
    sent,  # of a lane ALONE: by h's part of the gates at t + 1
    step,
    batch,
    rows,
    draws,
    PLAN: tl.constexpr,
):
    """Sum dh of a step over the gates that this program has; return also where it belongs."""
    now = step.t & 1
    b = batch * PLAN.BLOCK_B + tl.arange(0, PLAN.BLOCK_B).to(tl.int64)
    at = b[None, :] * PLAN.P + sums.element[:, None]
    slot_at = b[None, :] * PLAN.W_HH.PAD + sums.element[:, None]
    mask = sums.mask[:, None] & (b < step.alive)[None, :]
    block = position.Block(
        batch=batch, b=b, unit=sums.element, mask=mask, at=at, slot_at=slot_at
    )  # fmt: skip
    in_ptr = position.slot_of(sums.exchange_ptr, 0, batch, PLAN.W_HH)
    count = tile.count_of(step.alive, batch, PLAN)
    acc = tile.zeros(PLAN.ROWS, PLAN)
    if PLAN.CHAIN:
        # The top lane reads its own dgates(t+1): see the forward kernel.
        slot = tl.where(step.lane < PLAN.LANES - 1, 2 + now, now ^ 1)
        by_x = tile.gate_ptrs(in_ptr, slot, sums.first_gate, True, PLAN.W_IH, PLAN)
        acc = tile.product(acc, sums.w_ih, by_x, count, PLAN.W_IH, PLAN)
    if PLAN.SENT:  # what comes from above is a sum of its own
        acc = tile.summed(acc, PLAN.ROWS, PLAN)
    if PLAN.DROPOUT:
        n = step.first * PLAN.P + block.at
        kept = philox.multiplier(draws.seed_ptr, n, draws.dropout_p, draws.dropout_scale)
        acc *= kept.to(PLAN.ACC)
    if PLAN.SENT:
        from_above = acc
        if PLAN.CHAIN and PLAN.RESETS:  # 0 times a NaN, as in the forward kernel
            from_above = tl.where(step.lane < PLAN.LANES - 1, from_above, 0.0)
        acc = tile.zeros(PLAN.ROWS, PLAN)
    if PLAN.ALONE:
        acc = tile.product_on_chip(acc, sums.w_hh, sent, PLAN.W_HH, PLAN)
    else:
        by_h = tile.gate_ptrs(in_ptr, now ^ 1, sums.first_gate, False, PLAN.W_HH, PLAN)
        acc = tile.product(acc, sums.w_hh, by_h, count, PLAN.W_HH, PLAN)
    acc = tile.summed(acc, PLAN.ROWS, PLAN)
    if PLAN.HAS.RECURRENT:
        acc *= options.h_mask(sums.h_mask_ptr, step, block, rows, PLAN)
    if PLAN.SENT:
        acc = from_above + position.unless_reset(acc, step.t + 1, step.lane, block.b, rows, PLAN)
    return acc, block


@helper
def dh_of(given, sums, share, sent, step, block, wave, turn, rows, draws, PLAN: tl.constexpr):
    """Return a block's dh of a step: the given gradients plus the sums over its gates.

    The first turn waits for the sums of other programs. With zoneout, return the part of dh that
    the step itself receives.
    """
    received = 0.0
    if PLAN.SPLIT == 1 and PLAN.GATES > 0:
        received, _ = sum_of_gates(sums, sent, step, block.batch, rows, draws, PLAN)
    b, lane = block.b, step.lane
    dh = last_dh(given, step, block, rows, PLAN)
    if PLAN.CHAIN and PLAN.BY_STATES:  # each lane has its own
        is_given, dy_at = block.mask, step.first * PLAN.P + block.at
    else:
        top = tl.where(lane == PLAN.LANES - 1, rows.B, 0) if PLAN.CHAIN else rows.B
        is_given = block.mask & (b < top)[None, :]
        dy_at = position.output_of(step, block, rows, PLAN)
    dh += tl.load(given.dy_ptr + dy_at, mask=is_given, other=0.0).to(PLAN.ACC)
    if PLAN.SPLIT > 1:
        if turn == 0:
            target = (wave + 1) * PLAN.SPLIT
            barrier.wait(share.block_ptr, target, PLAN.PERSISTENT, PLAN)
        stride = rows.B * PLAN.P
        received = tile.sum_partials(sums.partial_ptr + block.at, stride, block.mask, PLAN.SPLIT)
    if PLAN.HAS.CLIP:
        received = tl.minimum(tl.maximum(received, -given.clip), given.clip)
    dh += received
    if PLAN.HAS.ZONE_H:
        dh = options.zone_out_backward(dh, given.dh_old_ptr, draws, step, block, rows, PLAN)
    return dh


@helper
def last_dh(given, step, block, rows, PLAN: tl.constexpr):
    """Load a block's gradients by h_n of rows whose last step it is, zero in others."""
    b, lane = block.b, step.lane
    is_last = block.mask & (b < tl.where(step.t == rows.T - 1, given.last, 0))[None, :]
    if PLAN.VARLEN:  # a row ends with this step where it is not alive in the next
        _, alive_next = position.place(step.t + 1, lane, rows, PLAN)
        is_last = block.mask & (b >= alive_next)[None, :]
    dh_n_at = lane * rows.B * PLAN.P + block.at
    return tl.load(given.dh_n_ptr + dh_n_at, mask=is_last, other=0.0).to(PLAN.ACC)


@helper
def send(exchange_ptr, by_x, by_h, step, block, PLAN: tl.constexpr):
    """Store a block's gradients by the gates in the exchange, for the programs that wait."""
    ptr = exchange_ptr + (step.t & 1) * PLAN.EXCHANGED * PLAN.W_HH.SLOT + block.slot_at
    dtype = ptr.dtype.element_ty
    for i in tl.static_range(PLAN.GATES):
        of_gate = tile.rounded(by_h[i].to(dtype), PLAN.ROUNDS)
        tl.store(ptr + i * PLAN.W_HH.SLOT, of_gate, mask=block.mask)
    for i in tl.static_range(PLAN.EXCHANGED - PLAN.GATES):
        of_x = tile.rounded(by_x[PLAN.SUMMED + i].to(dtype), PLAN.ROUNDS)
        tl.store(ptr + (PLAN.GATES + i) * PLAN.W_HH.SLOT, of_x, mask=block.mask)
