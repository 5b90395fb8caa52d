"""All T steps of a layer in one launch, or of all layers, or of a layer's two directions: forward.

T, B, H, P: time steps, batch, hidden size, size of h (H unless PROJECTED). X, G: gates that x has a
part in, and that h has. S: a cell's states. V: columns that a step saves beside them. L: lanes, a
layer in one direction each, or a head. N: rows of batch at all times, T * B, or fewer where rows
end early (VARLEN).

A program owns a block, UNITS hidden units of one lane: G * UNITS rows of its weights, which stay on
chip. In wave w a lane works on step w, or, of a CHAIN, lane i on step w - i, while the lane below
works on the step after it: T + L - 1 waves. A program multiplies its rows of w_ih by the output of
the lane below at t (the lowest lane's inputs have been multiplied before the launch) and its rows
of w_hh by h(t-1), both written a wave ago; does the cell's pointwise work; writes h(t); and meets
the others at a barrier. Where PROJECTED, it is not h(t) yet: see project.py. The two lanes of BOTH
directions do not depend on each other: lane 1's step t is at time T - 1 - t. Nor do HEADS.

Rows of batch do not wait for each other: ROW_GROUPS groups of programs share them out. A row that
is not alive is not written: a lane backwards in time finds h0 in the slot of the row's own last
step, and none of its blocks that are dead is multiplied. Where RESETS, a state that is not kept is
zero.

Where all of a lane's weights fit into one program, it has the lane ALONE: its ROW_GROUPS programs
keep h and c on chip too, exchange nothing and never wait. So do all programs of a cell whose gates
h has no part in (G is 0): a scan.

A launch covers the waves from `begin` to `end`. PERSISTENT: all of them, with barriers, all
programs at once on the GPU. Otherwise one, which needs no barrier, or some phases of one with no
meeting between them: FINISHES the cell, or its first phase, RUNS others (see inner.py), PROJECTS.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from . import inner, norm, options, phase, philox, position, project, tile
from .helper import helper

# --- kernel ---


@triton.jit(do_not_specialize=["begin", "end", "T", "B", "first_lane", "top"])
def lstm_forward_kernel(
    gates_ptr,  # [L, N, COLUMNS*H] in: x's parts with biases, the last X columns, of lane 0 or of
    # lanes that do not depend on each other; out: the first V columns. Where not SAVE those of the
    # launch's lanes alone. Of some told cells state dtype
    w_ih_ptrs,  # of each lane of the launch [G*H, P]; the lowest one's is not read
    w_hh_ptrs,  # of each [G*H, P]
    w_hr_ptrs,  # of each [P, H], where PROJECTED
    w_inner_ptrs,  # of each, where there are PRODUCTS: see inner.py
    bias_ptrs,  # of each [(X + OF_H) * H]: of x's parts, then of h's that stay alone
    c0_ptr,  # [L, B, S*H] state dtype
    c_ptr,  # [L, N, S*H] state dtype, out; [L, B, S*H] where not SAVE
    h_n_ptr,  # [L, B, P] out: h after each row's last step
    c_n_ptr,  # [L, B, S*H] out, in its own dtype: the states
    h_ptr,  # [L-1, N, P] out: of lanes below the top one; [L/2-1, N, 2P] where BOTH
    y_ptr,  # [N, P] out: of the top lane; [N, 2P] where BOTH; of HEADS rows are WIDTH apart
    exchange_ptr,  # [L, SLOTS, B_PAD, PAD] h(t-1) in slot t % 2; in: h0 in slot 0, where VARLEN in
    # both, where PHASE in slot 2; and, where UP, the same again as the lane above reads it
    barrier_ptr,  # [launches, ROW_GROUPS, 1 + LANES * blocks, APART] int32, zero: all programs'
    # counter, others; of HEADS [launches, LANES, ROW_GROUPS, 1 + blocks, APART]
    offset_ptr,  # [T + 2 + B] int64, where VARLEN: the first row of each step, the end of all, and
    # N; then how many steps each row of batch has
    not_reset_ptr,  # [D, N] uint8, where RESETS: 0 where a row's state is zero before a step
    between_ptr,  # [L, B_PAD, PAD] zero, where PROJECTED: what w_hr is multiplied by; or inner.py's
    seed_ptr,  # [1] int64, where a mask is drawn
    weight_ptr,  # [L, WEIGHTS * H], where a cell has weights of a unit
    h_mask_ptr,  # [L, B, P] state dtype, where RECURRENT: what h is multiplied by before w_hh
    h_old_ptr,  # [L, B, P] state dtype, where ZONE_H: in: h0; out: h after the last step
    raw_ptr,  # [L, N, G*H] state dtype, out, where NORM and SAVE: w_hh times h
    gain_ptr,  # [L, (G+2) * H] state dtype, where NORM
    shares_ptr,  # [L, 2, 2, PARTS, B] state dtype, where NORM; or inner.py's
    numbers_ptr,  # [L, N, NUMBERS] state dtype, out, where there are sums: see inner.py
    begin,  # waves of this launch
    end,
    T,
    B,
    first_lane,  # the number in the stack of the launch's first
    top,  # the number of the top lane, of which y is
    dropout_p,  # between lanes
    dropout_scale,  # 1 / (1 - p)
    zone_h,  # probability that h is kept, as float32, and the rest that float32 cannot hold
    zone_h_rest,
    zone_c,
    zone_c_rest,
    CELL: tl.constexpr,
    PLAN: tl.constexpr,
):
    H: tl.constexpr = PLAN.H
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
    unit = share.block * PLAN.UNITS + tl.arange(0, PLAN.UNITS)
    # Weights and biases, once.
    if PLAN.GATES > 0:
        row, row_unit = tile.gate_rows(share.block, PLAN.ROWS, PLAN.GATES, PLAN)
        w_hh_ptr = position.pick(w_hh_ptrs, lane, first_lane, G * H * PLAN.P, PLAN)
        w_hh = tile.load_weight(w_hh_ptr, row, row_unit < H, PLAN.W_HH, PLAN)
    if PLAN.CHAIN or PLAN.OF_H > 0:
        bias_ptr = position.pick(bias_ptrs, lane, first_lane, (X + PLAN.OF_H) * H, PLAN)
        bias_ptr += unit[:, None]
    if PLAN.CHAIN:  # lane 0 adds w_ih = 0 times what it reads
        fed = tl.where(lane > 0, H, 0)
        w_ih_ptr = position.pick(w_ih_ptrs, lane, first_lane, X * H * PLAN.P, PLAN)
        w_ih = tile.load_weight(w_ih_ptr, row, row_unit < fed, PLAN.W_IH, PLAN)
        x_bias = tile.load_columns(bias_ptr, 0, (unit < fed)[:, None], H, X, PLAN.ACC)
    h_bias = ()
    if PLAN.OF_H > 0:
        there = (unit < H)[:, None]
        h_bias = tile.load_columns(bias_ptr + X * H, 0, there, H, PLAN.OF_H, PLAN.ACC)
    if PLAN.PROJECTED:
        w_hr_ptr = position.pick(w_hr_ptrs, lane, first_lane, H * PLAN.P, PLAN)
        w_hr = project.load_weight(w_hr_ptr, share.block * PLAN.UNITS, PLAN.P, PLAN)
    if PLAN.CALL_COUNT > 0:
        w_inner = ()
    if PLAN.PRODUCTS > 0:
        last: tl.constexpr = PLAN.INNER[PLAN.PRODUCTS - 1]
        of_all: tl.constexpr = (last.FIRST + last.MADE) * H * H
        w_inner_ptr = position.pick(w_inner_ptrs, lane, first_lane, of_all, PLAN)
        w_inner = inner.load_weights(w_inner_ptr, share.block, 0, PLAN)
    lane = (first_lane + lane).to(tl.int64)
    if not (PLAN.SAVE or PLAN.HEADS):
        gates_ptr -= position.first_row(lane * 0 + first_lane, rows, PLAN) * (PLAN.COLUMNS * H)
    h_in_ptr = exchange_ptr + PLAN.SLOTS * lane * PLAN.W_HH.SLOT  # this lane's h
    up_ptr = h_in_ptr + (2 * PLAN.LANES * PLAN.W_HH.SLOT if PLAN.UP else 0)
    out = Out(
        h_in_ptr=h_in_ptr, up_ptr=up_ptr, h_ptr=h_ptr, y_ptr=y_ptr, h_n_ptr=h_n_ptr, top=top,
        h_mask_ptr=h_mask_ptr, h_old_ptr=h_old_ptr, all_ptr=share.all_ptr,
        first_unit=share.block * PLAN.UNITS,
    )  # fmt: skip
    if PLAN.PROJECTED:
        between_ptr += lane * PLAN.W_HR.SLOT
    if PLAN.PRODUCTS > 0:
        between_ptr += lane * PLAN.PRODUCTS * PLAN.W_HR.SLOT
    if PLAN.CALL_COUNT > 0:
        inside = inner.Inside(
            weights=w_inner, between_ptr=between_ptr, shares_ptr=shares_ptr,
            numbers_ptr=numbers_ptr, by_ptr=None, part=share.block, all_ptr=share.all_ptr,
        )  # fmt: skip
    if PLAN.ALONE:  # states on chip, from h0 and c0
        every = position.block_of(first_batch, unit, B, H, PLAN.W_HH, PLAN)
        h_kept = 0.0
        if PLAN.GATES > 0:
            h_kept = tl.load(h_in_ptr + every.slot_at)
        c0_at = lane * B * SIZE + position.states_at(every, PLAN)
        c_kept = tile.load_columns(c0_ptr, c0_at, every.mask, H, PLAN.STATES, PLAN.ACC)
    waves = end - begin if PLAN.PERSISTENT else 1
    if PLAN.TWO_AHEAD:
        begin, waves = position.waves_of_scan(begin, waves, lane, first_batch, rows, PLAN)
        first_step = position.step_of(begin.to(tl.int64), lane, rows, PLAN)
        early = read(gates_ptr, first_step, first_batch, unit, rows, PLAN)
        second_step = position.step_of(begin.to(tl.int64) + 1, lane, rows, PLAN)
        later = read(gates_ptr, second_step, first_batch, unit, rows, PLAN)
    elif PLAN.EARLY:
        first = position.first_of_all(lane, rows, PLAN)
        x_early = load_x_gates(gates_ptr, lane, first, B, first_batch, unit, PLAN)
    for wave in tl.range(0, waves, loop_unroll_factor=PLAN.UNROLL, disable_licm=PLAN.KEEP_LOOP):
        t = (begin + wave).to(tl.int64) - (lane if PLAN.CHAIN else 0)
        if PLAN.TWO_AHEAD:
            step = position.followed(early.step, later.step)
            coming = position.step_of(t + 2, lane, rows, PLAN)
        else:
            step = position.step_of(t, lane, rows, PLAN)
        now, after = t & 1, (t & 1) ^ 1
        for turn in range(position.turns(step.alive, first_batch, PLAN.FINISHES, PLAN)):
            batch = first_batch + turn
            block = position.block_of(batch, unit, step.alive, H, PLAN.W_HR, PLAN)
            count = tile.count_of(step.alive, batch, PLAN)
            by_x = tile.zeros(PLAN.ROWS, PLAN) if PLAN.GATES > 0 else 0.0
            if PLAN.CHAIN:
                # Lane 0 reads its own h(t-1), since no other's is written yet, and 0 * NaN is NaN.
                slot = tl.where(lane > 0, after - 2, now)
                x_ptr = position.slot_of(up_ptr, slot, batch, PLAN.W_IH)
                by_x = tile.product(by_x, w_ih, (x_ptr,), count, PLAN.W_IH, PLAN)
            # What no other program writes: it arrives while a product runs, or the program waits.
            if PLAN.TWO_AHEAD:
                x_early = early.x_gates
            elif not PLAN.EARLY:
                x_early = load_x_gates(gates_ptr, lane, step.first, step.alive, batch, unit, PLAN)
            x_gates = tile.widened(x_early, X, PLAN.ACC)
            if PLAN.ALONE:
                if PLAN.GATES > 0:
                    h_kept = position.unless_reset(h_kept, t, lane, block.b, rows, PLAN)
                if PLAN.TWO_AHEAD:
                    c_kept = position.where_kept(c_kept, early.not_reset, PLAN)
                else:
                    c_kept = position.each_unless_reset(c_kept, t, lane, block.b, rows, PLAN)
                c = c_kept
            else:
                c = position.load_states(c0_ptr, c_ptr, step, block, rows, PLAN)
            cell_options = options.of_cell(weight_ptr, draws, step, block, rows, PLAN)
            if PLAN.GATES == 0:
                by_h = ()
            elif PLAN.ALONE:
                by_h = tile.product_on_chip(by_x, w_hh, (h_kept,), PLAN.W_HH, PLAN)
                by_h = tile.gates_of(by_h, PLAN.ROWS, PLAN)
            elif PLAN.SEPARATE:  # what x makes of a gate, and what h makes
                by_h = tile.zeros(PLAN.ROWS, PLAN)
                by_h = product_of_h(by_h, w_hh, h_in_ptr, now, step, batch, count, rows, PLAN)
                by_h = position.unless_reset(by_h, t, lane, block.b, rows, PLAN)
                by_h = tile.gates_of(by_h, PLAN.ROWS, PLAN)
                if PLAN.CHAIN:
                    # What lane 0 read may be a NaN from before a reset, and 0 times it is one too.
                    by_x = tl.where(lane > 0, by_x, 0.0)
                    x_gates = tile.sums(x_gates, tile.gates_of(by_x, PLAN.ROWS, PLAN), X)
            else:
                by_h = product_of_h(by_x, w_hh, h_in_ptr, now, step, batch, count, rows, PLAN)
                by_h = tile.gates_of(by_h, PLAN.ROWS, PLAN)
            if PLAN.CHAIN:
                x_gates = tile.sums(x_gates, x_bias, X)
            if PLAN.HAS.NORM:
                norms = norm.Norms(
                    gain_ptr=gain_ptr, shares_ptr=shares_ptr, stats_ptr=None,
                    all_ptr=share.all_ptr, programs=share.programs, part=share.block,
                    wave=wave, turn=turn,
                )  # fmt: skip
                by_h = norm.of_product(by_h, raw_ptr, norms, step, block, rows, PLAN)
            if PLAN.HAS.NORM_C:
                h, c, saved = norm.lstm_step(
                    x_gates, by_h, c, cell_options, norms, step, block, rows, PLAN
                )
            else:
                h, c, saved = CELL.step(x_gates, by_h, h_bias, c, cell_options, PLAN.HAS)
            if PLAN.PROJECTED:
                m = tile.rounded(h.to(y_ptr.dtype.element_ty), PLAN.ROUNDS)
                tl.store(between_ptr + block.slot_at, m, mask=block.mask)
                position.arrive(share.all_ptr, turn, PLAN)
            elif PLAN.INSIDE > 0:
                inner.hand_on(h, 0, inside, step, block, turn, rows, PLAN)
            else:
                h_next = hand_out(h, out, step, turn, batch, unit, rows, draws, PLAN)
            if PLAN.ALONE:
                if PLAN.GATES > 0:
                    (h_kept,) = position.kept_where_dead((h_next,), (h_kept,), block.mask, 1, PLAN)
                c_kept = position.kept_where_dead(c, c_kept, block.mask, PLAN.STATES, PLAN)
            if PLAN.INSIDE == 0:
                store_states(c, c_ptr, c_n_ptr, step, block, rows, PLAN)
            if PLAN.SAVE:
                gates_at = position.columns_at(step, block, PLAN.COLUMNS, PLAN)
                if PLAN.GATES == 0 and PLAN.VARLEN:
                    # Of a scan with fewer elements than threads several warps hold the same one:
                    # each has read x's parts before any stores what is saved there.
                    tl.debug_barrier()
                saves: tl.constexpr = CELL.counts[0] if PLAN.INSIDE > 0 else PLAN.SAVED
                tile.store_columns(gates_ptr, gates_at, block.mask, saved, H, saves)
                if PLAN.KEEPS_M:
                    m_ptr = gates_ptr + PLAN.SAVED * H
                    tile.store_columns(m_ptr, gates_at, block.mask, (h,), H, 1)
            if PLAN.TWO_AHEAD:
                early = later
                later = read(gates_ptr, coming, batch, unit, rows, PLAN)
            elif PLAN.EARLY:
                next_rows = tl.where(t + 1 < T, B, 0)
                next_first = step.first + position.ahead(lane, B, PLAN)
                x_early = load_x_gates(gates_ptr, lane, next_first, next_rows, batch, unit, PLAN)
        if PLAN.PROJECTED:
            position.wait(share, (wave + 1) * PLAN.MEETINGS - 1, PLAN)
            for turn in range(position.turns(step.alive, first_batch, PLAN.PROJECTS, PLAN)):
                h = project.multiply(w_hr, between_ptr, step, first_batch + turn, PLAN)
                hand_out(h, out, step, turn, first_batch + turn, unit, rows, draws, PLAN)
        for k in tl.static_range(PLAN.INSIDE):  # RUNS
            position.wait(share, wave * PLAN.MEETINGS + k + 1, PLAN)
            for turn in range(position.turns(step.alive, first_batch, PLAN.RUNS[k], PLAN)):
                batch = first_batch + turn
                block = position.block_of(batch, unit, step.alive, H, PLAN.W_HR, PLAN)
                made = inner.made(k + 1, inside, step, block, rows, PLAN)
                x_gates = load_x_gates(gates_ptr, lane, step.first, step.alive, batch, unit, PLAN)
                x_gates = tile.widened(x_gates, X, PLAN.ACC)
                c = position.load_states(c0_ptr, c_ptr, step, block, rows, PLAN)
                cell_options = options.of_cell(weight_ptr, draws, step, block, rows, PLAN)
                gates_at = position.columns_at(step, block, PLAN.COLUMNS, PLAN)
                known: tl.constexpr = CELL.known[k + 1]
                saved = tile.load_columns(gates_ptr, gates_at, block.mask, H, known, PLAN.ACC)
                before: tl.constexpr = CELL.known_numbers[k + 1]
                numbers = inner.load_numbers(before, inside, step, block, PLAN)
                h, c, saved, numbers = CELL.steps[k](
                    x_gates, made, numbers, saved, c, cell_options, PLAN.HAS
                )
                new: tl.constexpr = CELL.numbers[k + 1]
                inner.store_numbers(numbers, before, new, inside, step, block, PLAN)
                if k + 1 < PLAN.INSIDE:
                    inner.hand_on(h, k + 1, inside, step, block, turn, rows, PLAN)
                else:
                    hand_out(h, out, step, turn, batch, unit, rows, draws, PLAN)
                    store_states(c, c_ptr, c_n_ptr, step, block, rows, PLAN)
                gates_at += known * H
                tile.store_columns(gates_ptr, gates_at, block.mask, saved, H, CELL.counts[k + 1])
        position.wait_for_next(share, wave, end - begin, PLAN)


class Read(NamedTuple):
    """A block of what a scan reads in a step, in the memory's dtype: nothing has waited for it."""

    step: Any
    x_gates: Any
    not_reset: Any  # where RESETS


@helper
def read(gates_ptr, step, batch, unit, rows, PLAN: tl.constexpr):
    """Load what a scan reads in a step, beside its states."""
    not_reset = ()
    if PLAN.RESETS:
        b = batch * PLAN.BLOCK_B + tl.arange(0, PLAN.BLOCK_B).to(tl.int64)
        not_reset = position.load_not_reset(step, b, rows, PLAN)
    x_gates = load_x_gates(gates_ptr, step.lane, step.first, step.alive, batch, unit, PLAN)
    return Read(step=step, x_gates=x_gates, not_reset=not_reset)


class Out(NamedTuple):
    """Destinations of a lane's h."""

    h_in_ptr: Any  # the lane's part of the exchange
    up_ptr: Any  # and as the lane above reads it
    h_ptr: Any  # of lanes below the top one
    y_ptr: Any
    h_n_ptr: Any
    top: Any
    h_mask_ptr: Any
    h_old_ptr: Any
    all_ptr: Any  # the counter of the programs that wait for it
    first_unit: Any  # of the program's block


@helper
def load_x_gates(gates_ptr, lane, first, count, batch, unit, PLAN: tl.constexpr):
    """Load a block of x's part of X gates, in the step with `count` rows from row `first` on.

    It is in the memory's dtype, so that nothing waits for what is loaded steps ahead.
    In a chain only the lowest lane has this part.
    """
    if PLAN.CHAIN:
        count = tl.where(lane == 0, count, 0)
    block = position.block_of(batch, unit, count, PLAN.H, PLAN.W_HH, PLAN)
    X: tl.constexpr = PLAN.SUMMED + PLAN.OF_X
    at = (first + block.b)[None, :] * (PLAN.COLUMNS * PLAN.H) + unit[:, None]
    x_ptr = gates_ptr + (PLAN.COLUMNS - X) * PLAN.H
    return tile.load_ahead(x_ptr, at, block.mask, PLAN.H, X)


@helper
def product_of_h(acc, w_hh, h_in_ptr, now, step, batch, count, rows, PLAN: tl.constexpr):
    """Return acc + w_hh . h(t-1), of a block of batch."""
    if PLAN.PHASE:
        acc = phase.product(acc, w_hh, h_in_ptr, now, step, batch, rows, PLAN)
    else:
        h_ptr = position.slot_of(h_in_ptr, now, batch, PLAN.W_HH)
        acc = tile.product(acc, w_hh, (h_ptr,), count, PLAN.W_HH, PLAN)
    return acc


@helper
def store_states(c, c_ptr, c_n_ptr, step, block, rows, PLAN: tl.constexpr):
    """Store a block's states after a step, those of a row's last step in `c_n_ptr` too."""
    SIZE: tl.constexpr = PLAN.STATES * PLAN.H
    lane, B = step.lane, rows.B
    c_at = (step.first if PLAN.SAVE else lane * B) * SIZE
    c_at += position.states_at(block, PLAN)
    tile.store_columns(c_ptr, c_at, block.mask, c, PLAN.H, PLAN.STATES)
    more = position.ending(step, rows, PLAN)
    if more < step.alive:
        ends = block.mask & (block.b >= more)[None, :]
        c_at = lane * B * SIZE + position.states_at(block, PLAN)
        tile.store_columns(c_n_ptr, c_at, ends, c, PLAN.H, PLAN.STATES)


@helper
def hand_out(
    h,  # [UNITS, BLOCK_B] what the step has made
    out,
    step,
    turn,
    batch,
    unit,
    rows,
    draws,
    PLAN: tl.constexpr,
):
    """Hand a block of h(t) to the programs that wait for it; then store it in y, or in `h_ptr`.

    Return the block that w_hh multiplies in the next step.
    """
    lane, first = step.lane, step.first
    after = ((step.t & 1) ^ 1) * PLAN.W_HH.SLOT
    block = position.block_of(batch, unit, step.alive, PLAN.P, PLAN.W_HH, PLAN)
    if PLAN.HAS.ZONE_H:
        h = options.zone_out(h, out.h_old_ptr, draws, step, block, rows, PLAN)
    dtype = out.y_ptr.dtype.element_ty
    h = h.to(dtype)
    h_in = h
    if PLAN.HAS.RECURRENT:
        h_in = (h * options.h_mask(out.h_mask_ptr, step, block, rows, PLAN)).to(dtype)
    h_in = tile.rounded(h_in, PLAN.ROUNDS)
    if PLAN.PHASE:
        phase.give(h_in, out.h_in_ptr, step, block, out.first_unit, rows, PLAN)
    elif not PLAN.ALONE:
        tl.store(out.h_in_ptr + after + block.slot_at, h_in, mask=block.mask)
    if PLAN.UP:
        up = h
        if PLAN.DROPOUT:
            n = first * PLAN.P + block.at
            up = h * philox.multiplier(draws.seed_ptr, n, draws.dropout_p, draws.dropout_scale)
            up = up.to(dtype)
        tl.store(out.up_ptr + after + block.slot_at, tile.rounded(up, PLAN.ROUNDS), mask=block.mask)
    position.arrive(out.all_ptr, turn, PLAN)  # the others wait for h alone
    if PLAN.HEADS:
        out_ptr = out.y_ptr + position.output_of(step, block, rows, PLAN)
    elif PLAN.BOTH:
        below_ptr = out.h_ptr + position.first_row(lane // 2, rows, PLAN) * PLAN.WIDTH
        out_ptr = tl.where(lane >= out.top - 1, out.y_ptr, below_ptr)
        out_ptr += position.output_of(step, block, rows, PLAN)
    else:
        y_ptr = out.y_ptr - position.first_row(lane, rows, PLAN) * PLAN.P
        out_ptr = tl.where(lane == out.top, y_ptr, out.h_ptr)
        out_ptr += first * PLAN.P + (block.b[None, :] * PLAN.P + unit[:, None])
    tl.store(out_ptr, h, mask=block.mask)
    more = position.ending(step, rows, PLAN)
    if more < step.alive:
        ends = block.mask & (block.b >= more)[None, :]
        tl.store(out.h_n_ptr + lane * rows.B * PLAN.P + block.at, h, mask=ends)
    return h_in
