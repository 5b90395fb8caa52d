"""fuse="steps": one launch runs all T steps of a layer, its recurrent weights resident on chip.

T, B, H: time steps, batch, hidden size. Gate order i, f, g, o. A block is UNITS hidden units.

Forward: a program owns one block, that is 4 * UNITS rows of w_hh. A step multiplies them by
h(t-1), does the cell's pointwise work, writes h(t) and meets the other programs at a barrier.

Backward: dh(t) = dy(t) + w_hh^T . dgates(t+1). SPLIT programs share a block, each sums over its
part of the 4H gates, and then finishes UNITS / SPLIT of the block's units: with SPLIT = 4 a
program reads a quarter of dgates, and its weights are as many as in the forward.

A launch covers the steps from t_begin to t_end. PERSISTENT: all of them, with barriers, all
programs at once on the GPU. Otherwise one, which needs no barrier (in the backward one PHASE of
one: 0 sums, 1 finishes, 2 does both, where SPLIT is 1).
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from . import barrier, launch, tiles
from . import gates as math
from .helper import KEEP_LOOP
from .plan import Plan

# --- kernels ---


@triton.jit(do_not_specialize=["t_begin", "t_end", "B", "stride_c_t"])
def lstm_steps_fwd_kernel(
    gates_ptr,  # [T, B, 4H] in: input products with both biases; out, where SAVE: activated
    w_hh_ptr,  # [4H, H]
    c0_ptr,  # [B, H] state dtype
    y_ptr,  # [T, B, H] out
    c_ptr,  # [T, B, H] out, state dtype; [B, H] and stride_c_t = 0 where not SAVE
    exchange_ptr,  # [2, B_PAD, H_PAD] h(t-1) in slot t % 2; in: h0 in slot 0
    barrier_ptr,  # [1] int32, zero
    t_begin,
    t_end,
    B,
    stride_c_t,  # B * H or 0
    H: tl.constexpr,
    H_PAD: tl.constexpr,
    UNITS: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BATCH_BLOCKS: tl.constexpr,  # ceil(B / BLOCK_B)
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,  # chunks of w_hh that stay on chip
    AHEAD: tl.constexpr,
    STAGES: tl.constexpr,
    HOLD: tl.constexpr,
    PERSISTENT: tl.constexpr,
    SAVE: tl.constexpr,
    ACC: tl.constexpr,  # the state dtype
    PRECISION: tl.constexpr,
    BITS: tl.constexpr,
):
    SLOT: tl.constexpr = BATCH_BLOCKS * BLOCK_B * H_PAD
    row, row_unit = tiles.gate_rows(tl.program_id(0), H, UNITS)
    w = tiles.load_resident(w_hh_ptr, row, row_unit < H, H, 1, H, BLOCK_K, RESIDENT)
    unit = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    for step in tl.range(
        0, t_end - t_begin if PERSISTENT else 1, disable_licm=KEEP_LOOP or UNITS > 16
    ):
        t = (t_begin + step).to(tl.int64)
        c_prev_ptr = tl.where(t == 0, c0_ptr, c_ptr + (t - 1) * stride_c_t)
        for batch in range(BATCH_BLOCKS):
            b = batch * BLOCK_B + tl.arange(0, BLOCK_B).to(tl.int64)
            mask = (unit < H)[:, None] & (b < B)[None, :]
            at = b[None, :] * H + unit[:, None]
            gates_at = (t * B + b)[None, :] * (4 * H) + unit[:, None]
            # First what no other program writes: it arrives while the product runs.
            i, f, g, o = math.load_gates(gates_ptr, gates_at, mask, H, ACC)
            c = tl.load(c_prev_ptr + at, mask=mask, other=0.0)
            acc = tiles.product(
                tl.full((4 * UNITS, BLOCK_B), 0.0, ACC), w, w_hh_ptr, row, row_unit < H,
                exchange_ptr + (t % 2) * SLOT + batch * BLOCK_B * H_PAD,
                H, 1, H, H_PAD, BLOCK_B, BLOCK_K, RESIDENT, AHEAD, STAGES, HOLD, PRECISION,
                BITS,
            )  # fmt: skip
            ri, rf, rg, ro = tiles.split_gates(acc, UNITS, BLOCK_B)
            i, f, g, o, h, c = math.cell_forward(i + ri, f + rf, g + rg, o + ro, c)
            h = h.to(y_ptr.dtype.element_ty)
            next_ptr = exchange_ptr + ((t + 1) % 2) * SLOT
            tl.store(next_ptr + b[None, :] * H_PAD + unit[:, None], h, mask=mask)
            if batch == BATCH_BLOCKS - 1:  # the others wait for h alone
                barrier.arrive(barrier_ptr, PERSISTENT)
            tl.store(y_ptr + t * B * H + at, h, mask=mask)
            tl.store(c_ptr + t * stride_c_t + at, c, mask=mask)
            if SAVE:
                math.store_gates(gates_ptr, gates_at, mask, i, f, g, o, H)
        if step + 1 < t_end - t_begin:
            barrier.wait(barrier_ptr, (step + 1) * tl.num_programs(0), PERSISTENT)


@triton.jit(do_not_specialize=["t_begin", "t_end", "T", "B"])
def lstm_steps_bwd_kernel(
    dy_ptr,  # [T, B, H]
    dh_n_ptr,  # [B, H]
    gates_ptr,  # [T, B, 4H] activated
    w_hh_ptr,  # [4H, H]
    c0_ptr,  # [B, H] state dtype
    c_ptr,  # [T, B, H] state dtype
    dc_ptr,  # [B, H] state dtype; in: gradient by c(T - 1); out, in the end: by c0
    dgates_ptr,  # [T, B, 4H] out
    exchange_ptr,  # [2, 4, B_PAD, H_PAD] dgates(t) in slot t % 2; in: zero
    partial_ptr,  # [SPLIT, B, H] scratch, state dtype
    barrier_ptr,  # [1 + blocks] int32, zero: all programs, then those of a block
    t_begin,
    t_end,
    T,
    B,
    H: tl.constexpr,
    H_PAD: tl.constexpr,
    UNITS: tl.constexpr,
    SPLIT: tl.constexpr,  # programs that share a block: 4, one a gate, or 1
    BLOCK_B: tl.constexpr,
    BATCH_BLOCKS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,
    AHEAD: tl.constexpr,
    STAGES: tl.constexpr,
    HOLD: tl.constexpr,
    PERSISTENT: tl.constexpr,
    PHASE: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BITS: tl.constexpr,
):
    SIZE: tl.constexpr = BATCH_BLOCKS * BLOCK_B * H_PAD
    block, part = tl.program_id(0) // SPLIT, tl.program_id(0) % SPLIT
    row = block.to(tl.int64) * UNITS + tl.arange(0, UNITS)
    w_ptr = w_hh_ptr + part.to(tl.int64) * (H * H)
    w = tiles.load_resident(w_ptr, row, row < H, 1, H, H, BLOCK_K, RESIDENT)
    unit = block * UNITS + part * (UNITS // SPLIT) + tl.arange(0, UNITS // SPLIT)
    for step in tl.range(0, t_end - t_begin if PERSISTENT else 1, disable_licm=KEEP_LOOP):
        t = (t_end - 1 - step).to(tl.int64)
        if PHASE != 1:
            for batch in range(BATCH_BLOCKS):
                b = batch * BLOCK_B + tl.arange(0, BLOCK_B).to(tl.int64)
                x_ptr = exchange_ptr + ((t + 1) % 2) * (4 * SIZE) + batch * BLOCK_B * H_PAD
                acc = tl.full((UNITS, BLOCK_B), 0.0, ACC)
                for gate in tl.static_range(4 // SPLIT):
                    acc = tiles.product(
                        acc, w, w_ptr + gate * H * H, row, row < H, x_ptr + (part + gate) * SIZE,
                        1, H, H, H_PAD, BLOCK_B, BLOCK_K, RESIDENT, AHEAD, STAGES, HOLD, PRECISION,
                        BITS,
                    )  # fmt: skip
                at = (part * B + b)[None, :] * H + row[:, None]
                tl.store(partial_ptr + at, acc, mask=(row < H)[:, None] & (b < B)[None, :])
            barrier.arrive(barrier_ptr + 1 + block, PERSISTENT)
        if PHASE != 0:
            for batch in range(BATCH_BLOCKS):
                b = batch * BLOCK_B + tl.arange(0, BLOCK_B).to(tl.int64)
                mask = (unit < H)[:, None] & (b < B)[None, :]
                at = b[None, :] * H + unit[:, None]
                gates_at = (t * B + b)[None, :] * (4 * H) + unit[:, None]
                # First what no other program writes: it arrives while the others finish.
                i, f, g, o = math.load_gates(gates_ptr, gates_at, mask, H, ACC)
                c_prev_ptr = tl.where(t == 0, c0_ptr, c_ptr + (t - 1) * B * H)
                c_prev = tl.load(c_prev_ptr + at, mask=mask, other=0.0)
                c = tl.load(c_ptr + t * B * H + at, mask=mask, other=0.0)
                dc = tl.load(dc_ptr + at, mask=mask, other=0.0)
                dh = tl.load(dy_ptr + t * B * H + at, mask=mask, other=0.0).to(ACC)
                last = mask & (b < tl.where(t == T - 1, B, 0))[None, :]
                dh += tl.load(dh_n_ptr + at, mask=last, other=0.0).to(ACC)
                if batch == 0:
                    barrier.wait(barrier_ptr + 1 + block, (step + 1) * SPLIT, PERSISTENT)
                dh += tiles.sum_partials(partial_ptr + at, B * H, mask, SPLIT)
                i, f, g, o, dc = math.cell_backward(i, f, g, o, c_prev, c, dh, dc)
                next_ptr = exchange_ptr + (t % 2) * (4 * SIZE)
                next_at = b[None, :] * H_PAD + unit[:, None]
                math.store_gates(next_ptr, next_at, mask, i, f, g, o, SIZE)
                if batch == BATCH_BLOCKS - 1:  # the others wait for dgates alone
                    barrier.arrive(barrier_ptr, PERSISTENT)
                math.store_gates(dgates_ptr, gates_at, mask, i, f, g, o, H)
                tl.store(dc_ptr + at, dc, mask=mask)
        if step + 1 < t_end - t_begin:
            barrier.wait(barrier_ptr, (step + 1) * tl.num_programs(0), PERSISTENT)


# --- host launchers ---


def forward(
    plan: Plan,
    gates: Tensor,
    w_hh: Tensor,
    c0: Tensor,
    y: Tensor,
    c: Tensor,
    exchange: Tensor,
    counters: Tensor,
    save: bool,
) -> None:
    """One layer's steps.

    Args:
        gates: [T * B, 4H] input products with both biases; becomes the activated gates where
            `save` is true, and scratch otherwise.
        w_hh: [4H, H]; c0: [B, H] in the state dtype. All contiguous.
        y: [T, B, H] out.
        c: [T, B, H] out, in the state dtype; only the last one, [1, B, H], where not `save`.
        exchange: [2, B_PAD, H_PAD], h0 in slot 0; counters: of a launch.
    """
    T, B, _ = y.shape
    for t_begin, t_end in plan.launches(T):
        lstm_steps_fwd_kernel[(plan.programs,)](
            gates, w_hh, c0, y, c, exchange, counters, t_begin, t_end, B,
            c.stride(0) if save else 0, SAVE=save, **launch.options(plan),
        )  # fmt: skip


def backward(
    plan: Plan,
    dy: Tensor,
    dh_n: Tensor,
    dc: Tensor,
    gates: Tensor,
    w_hh: Tensor,
    c0: Tensor,
    c: Tensor,
    dgates: Tensor,
    partial: Tensor,
    exchange: Tensor,
    counters: Tensor,
) -> None:
    """Gradients by one layer's gates before activation: dgates, [T, B, 4H] out.

    dy: [T * B, H]; dh_n: [B, H]; dc: [B, H] in the state dtype, the gradient by the last cell
    state, becomes the one by c0; the rest are the forward's, c with all T states. partial:
    [SPLIT, B, H] scratch in the state dtype; exchange: [2, 4, B_PAD, H_PAD]; counters: of a launch.
    """
    T, (B, _) = len(c), c0.shape
    for t_begin, t_end in reversed(plan.launches(T)):
        for phase in plan.phases():
            lstm_steps_bwd_kernel[(plan.programs,)](
                dy, dh_n, gates, w_hh, c0, c, dc, dgates, exchange, partial, counters,
                t_begin, t_end, T, B, PHASE=phase, SPLIT=plan.split, **launch.options(plan),
            )  # fmt: skip
