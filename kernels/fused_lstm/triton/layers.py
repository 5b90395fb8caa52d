"""fuse="layers": one launch runs all steps of all layers, as a wavefront.

T, B, H, L: time steps, batch, hidden size, layers. Gate order i, f, g, o. A block is UNITS hidden
units of one layer; programs and their split are those of steps.py, for each layer.

Forward: in wave w, layer l works on step w - l, while the layer below works on the step after it.
A program of layer l > 0 multiplies its rows of w_hh by h(t-1) and its rows of w_ih by the output
of the layer below at t, both written a wave ago: one barrier a wave, T + L - 1 waves. The input
product of layer 0 is hoisted.

Backward: the same from the top layer down and from T - 1 back. dh(t) of layer l sums
w_hh^T . dgates(t+1) of its own and w_ih^T . dgates(t) of the layer above, through the mask that
dropped its output; of the top layer, dy(t) instead of the latter.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from . import barrier, dropout, launch, tiles
from . import gates as math
from .helper import KEEP_LOOP, helper
from .plan import Plan

# --- kernels ---


@helper
def _pick(pointers, index, L: tl.constexpr):
    """pointers[index] for an index known at run time only."""
    found = pointers[0]
    for i in tl.static_range(1, L):
        found = tl.where(index == i, pointers[i], found)
    return found


@triton.jit(
    do_not_specialize=["w_begin", "w_end", "T", "B", "stride_c_l", "stride_c_t", "p", "scale"]
)
def lstm_layers_fwd_kernel(
    gates_ptr,  # [L, T, B, 4H] in: layer 0's input products; out, where SAVE: activated
    w_ih_ptrs,  # L x [4H, H]; the first is not read
    w_hh_ptrs,  # L x [4H, H]
    bias_ptrs,  # L x [4H] both biases' sum; the first is not read
    c0_ptr,  # [L, B, H] state dtype
    h_ptr,  # [L-1, T, B, H] out
    y_ptr,  # [T, B, H] out
    c_ptr,  # [L, T, B, H] out, state dtype; [L, B, H] and stride_c_t = 0 where not SAVE
    exchange_ptr,  # [L, 2, B_PAD, H_PAD] h(t-1) in slot t % 2; in: h0 in slot 0; and, where
    # DROPOUT, the same again as the layer above reads it
    seed_ptr,  # [1] int64, where DROPOUT
    barrier_ptr,  # [1] int32, zero
    w_begin,  # waves of this launch
    w_end,
    T,
    B,
    stride_c_l,
    stride_c_t,
    p,
    scale,  # 1 / (1 - p)
    L: tl.constexpr,
    H: tl.constexpr,
    H_PAD: tl.constexpr,
    UNITS: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BATCH_BLOCKS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,  # chunks of w_hh that stay on chip
    RESIDENT_IH: tl.constexpr,  # and of w_ih
    AHEAD: tl.constexpr,
    STAGES: tl.constexpr,
    HOLD: tl.constexpr,
    PERSISTENT: tl.constexpr,
    SAVE: tl.constexpr,
    DROPOUT: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BITS: tl.constexpr,
):
    SIZE: tl.constexpr = BATCH_BLOCKS * BLOCK_B * H_PAD
    blocks = tl.num_programs(0) // L
    layer, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    row, row_unit = tiles.gate_rows(block, H, UNITS)
    ih_mask = row_unit < tl.where(layer > 0, H, 0)  # layer 0 adds w_ih = 0 times what it reads
    unit = block * UNITS + tl.arange(0, UNITS)
    w_hh_ptr, w_ih_ptr = _pick(w_hh_ptrs, layer, L), _pick(w_ih_ptrs, layer, L)
    bias_ptr = _pick(bias_ptrs, layer, L)
    w_hh = tiles.load_resident(w_hh_ptr, row, row_unit < H, H, 1, H, BLOCK_K, RESIDENT)
    w_ih = tiles.load_resident(w_ih_ptr, row, ih_mask, H, 1, H, BLOCK_K, RESIDENT_IH)
    layer = layer.to(tl.int64)
    dropped_ptr = exchange_ptr + (2 * L * SIZE if DROPOUT else 0)
    for wave in tl.range(0, w_end - w_begin if PERSISTENT else 1, disable_licm=KEEP_LOOP):
        t = (w_begin + wave).to(tl.int64) - layer
        now, after = (t + 2 * L) % 2, (t + 1 + 2 * L) % 2  # slots, of a t that may be < 0
        own = 2 * layer
        # Layer 0 reads its own h(t-1) a second time: no other is its own, and 0 * NaN is NaN.
        below = tl.where(layer > 0, own - 2 + after, now)
        # Rows of batch that there are: none where this layer has not begun or is done.
        live = tl.where((t >= 0) & (t < T), B, 0)
        for batch in range(BATCH_BLOCKS):
            b = batch * BLOCK_B + tl.arange(0, BLOCK_B).to(tl.int64)
            mask = (unit < H)[:, None] & (b < live)[None, :]
            at = b[None, :] * H + unit[:, None]
            tile_at = batch * BLOCK_B * H_PAD
            acc = tiles.product(
                tl.full((4 * UNITS, BLOCK_B), 0.0, ACC), w_hh, w_hh_ptr, row, row_unit < H,
                exchange_ptr + (own + now) * SIZE + tile_at,
                H, 1, H, H_PAD, BLOCK_B, BLOCK_K, RESIDENT, AHEAD, STAGES, HOLD, PRECISION,
                BITS,
            )  # fmt: skip
            # What no other program writes: it arrives while the second product runs.
            gates_at = ((layer * T + t) * B + b)[None, :] * (4 * H) + unit[:, None]
            first = mask & (b < tl.where(layer == 0, B, 0))[None, :]
            i, f, g, o = math.load_gates(gates_ptr, gates_at, first, H, ACC)
            c_prev_ptr = c_ptr + layer * stride_c_l + (t - 1) * stride_c_t
            c_prev_ptr = tl.where(t == 0, c0_ptr + layer * B * H, c_prev_ptr)
            c = tl.load(c_prev_ptr + at, mask=mask, other=0.0)
            acc = tiles.product(
                acc, w_ih, w_ih_ptr, row, ih_mask, dropped_ptr + below * SIZE + tile_at,
                H, 1, H, H_PAD, BLOCK_B, BLOCK_K, RESIDENT_IH, AHEAD, STAGES, HOLD, PRECISION,
                BITS,
            )  # fmt: skip
            ri, rf, rg, ro = tiles.split_gates(acc, UNITS, BLOCK_B)
            bias_mask = (unit < tl.where(layer > 0, H, 0))[:, None]
            bi, bf, bg, bo = math.load_gates(bias_ptr, unit[:, None], bias_mask, H, ACC)
            i, f, g, o, h, c = math.cell_forward(
                i + ri + bi, f + rf + bf, g + rg + bg, o + ro + bo, c
            )
            h = h.to(y_ptr.dtype.element_ty)
            next_at = (own + after) * SIZE + b[None, :] * H_PAD + unit[:, None]
            tl.store(exchange_ptr + next_at, h, mask=mask)
            if DROPOUT:
                n = (layer * T + t) * B * H + at
                dropped = h * dropout.multiplier(seed_ptr, n, p, scale)
                tl.store(dropped_ptr + next_at, dropped.to(h.dtype), mask=mask)
            if batch == BATCH_BLOCKS - 1:  # the others wait for h alone
                barrier.arrive(barrier_ptr, PERSISTENT)
            out_ptr = tl.where(layer == L - 1, y_ptr, h_ptr + layer * T * B * H)
            tl.store(out_ptr + t * B * H + at, h, mask=mask)
            tl.store(c_ptr + layer * stride_c_l + t * stride_c_t + at, c, mask=mask)
            if SAVE:
                math.store_gates(gates_ptr, gates_at, mask, i, f, g, o, H)
        if wave + 1 < w_end - w_begin:
            barrier.wait(barrier_ptr, (wave + 1) * tl.num_programs(0), PERSISTENT)


@triton.jit(do_not_specialize=["w_begin", "w_end", "T", "B", "p", "scale"])
def lstm_layers_bwd_kernel(
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
    barrier_ptr,  # [1 + L * blocks] int32, zero: all programs, then those of a block
    w_begin,
    w_end,
    T,
    B,
    p,
    scale,
    L: tl.constexpr,
    H: tl.constexpr,
    H_PAD: tl.constexpr,
    UNITS: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BATCH_BLOCKS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,
    RESIDENT_IH: tl.constexpr,
    AHEAD: tl.constexpr,
    STAGES: tl.constexpr,
    HOLD: tl.constexpr,
    PERSISTENT: tl.constexpr,
    PHASE: tl.constexpr,
    DROPOUT: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BITS: tl.constexpr,
):
    SIZE: tl.constexpr = BATCH_BLOCKS * BLOCK_B * H_PAD
    blocks = tl.num_programs(0) // (L * SPLIT)
    group, part = tl.program_id(0) // SPLIT, tl.program_id(0) % SPLIT
    layer, block = group // blocks, group % blocks
    row = block.to(tl.int64) * UNITS + tl.arange(0, UNITS)
    unit = block * UNITS + part * (UNITS // SPLIT) + tl.arange(0, UNITS // SPLIT)
    ih_mask = row < tl.where(layer < L - 1, H, 0)  # the top layer adds 0 times what it reads
    w_hh_ptr = _pick(w_hh_ptrs, layer, L) + part.to(tl.int64) * (H * H)
    w_ih_ptr = _pick(w_ih_ptrs, layer + 1, L) + part.to(tl.int64) * (H * H)
    w_hh = tiles.load_resident(w_hh_ptr, row, row < H, 1, H, H, BLOCK_K, RESIDENT)
    w_ih = tiles.load_resident(w_ih_ptr, row, ih_mask, 1, H, H, BLOCK_K, RESIDENT_IH)
    layer = layer.to(tl.int64)
    for wave in tl.range(0, w_end - w_begin if PERSISTENT else 1, disable_licm=KEEP_LOOP):
        t = T - 1 - ((w_begin + wave).to(tl.int64) - (L - 1 - layer))
        now, after = (t + 2 * L) % 2, (t + 1 + 2 * L) % 2  # slots, of a t that may be < 0
        own = 2 * layer
        # The top layer reads its own dgates(t+1) a second time: see the forward kernel.
        above = own + tl.where(layer < L - 1, 2 + now, after)
        live = tl.where((t >= 0) & (t < T), B, 0)
        if PHASE != 1:
            for batch in range(BATCH_BLOCKS):
                b = batch * BLOCK_B + tl.arange(0, BLOCK_B).to(tl.int64)
                mask = (row < H)[:, None] & (b < live)[None, :]
                tile_ptr = exchange_ptr + part * SIZE + batch * BLOCK_B * H_PAD
                acc = tl.full((UNITS, BLOCK_B), 0.0, ACC)
                for gate in tl.static_range(4 // SPLIT):
                    x_ptr = tile_ptr + (above * 4 + gate) * SIZE
                    acc = tiles.product(
                        acc, w_ih, w_ih_ptr + gate * H * H, row, ih_mask, x_ptr, 1, H, H, H_PAD,
                        BLOCK_B, BLOCK_K, RESIDENT_IH, AHEAD, STAGES, HOLD, PRECISION,
                        BITS,
                    )  # fmt: skip
                if DROPOUT:
                    n = ((layer * T + t) * B + b)[None, :] * H + row[:, None]
                    acc *= dropout.multiplier(seed_ptr, n, p, scale).to(ACC)
                for gate in tl.static_range(4 // SPLIT):
                    x_ptr = tile_ptr + ((own + after) * 4 + gate) * SIZE
                    acc = tiles.product(
                        acc, w_hh, w_hh_ptr + gate * H * H, row, row < H, x_ptr, 1, H, H, H_PAD,
                        BLOCK_B, BLOCK_K, RESIDENT, AHEAD, STAGES, HOLD, PRECISION,
                        BITS,
                    )  # fmt: skip
                at = ((layer * SPLIT + part) * B + b)[None, :] * H + row[:, None]
                tl.store(partial_ptr + at, acc, mask=mask)
            barrier.arrive(barrier_ptr + 1 + group, PERSISTENT)
        if PHASE != 0:
            for batch in range(BATCH_BLOCKS):
                b = batch * BLOCK_B + tl.arange(0, BLOCK_B).to(tl.int64)
                mask = (unit < H)[:, None] & (b < live)[None, :]
                at = b[None, :] * H + unit[:, None]
                gates_at = ((layer * T + t) * B + b)[None, :] * (4 * H) + unit[:, None]
                # First what no other program writes: it arrives while the others finish.
                i, f, g, o = math.load_gates(gates_ptr, gates_at, mask, H, ACC)
                c_prev_ptr = c_ptr + (layer * T + t - 1) * B * H
                c_prev_ptr = tl.where(t == 0, c0_ptr + layer * B * H, c_prev_ptr)
                c_prev = tl.load(c_prev_ptr + at, mask=mask, other=0.0)
                c = tl.load(c_ptr + (layer * T + t) * B * H + at, mask=mask, other=0.0)
                state_at = layer * B * H + at
                dc = tl.load(dc_ptr + state_at, mask=mask, other=0.0)
                top = mask & (b < tl.where(layer == L - 1, B, 0))[None, :]
                dh = tl.load(dy_ptr + t * B * H + at, mask=top, other=0.0).to(ACC)
                last = mask & (b < tl.where(t == T - 1, B, 0))[None, :]
                dh += tl.load(dh_n_ptr + state_at, mask=last, other=0.0).to(ACC)
                if batch == 0:
                    barrier.wait(barrier_ptr + 1 + group, (wave + 1) * SPLIT, PERSISTENT)
                own_ptr = partial_ptr + layer * SPLIT * B * H
                dh += tiles.sum_partials(own_ptr + at, B * H, mask, SPLIT)
                i, f, g, o, dc = math.cell_backward(i, f, g, o, c_prev, c, dh, dc)
                next_ptr = exchange_ptr + (own + now) * (4 * SIZE)
                next_at = b[None, :] * H_PAD + unit[:, None]
                math.store_gates(next_ptr, next_at, mask, i, f, g, o, SIZE)
                if batch == BATCH_BLOCKS - 1:  # the others wait for dgates alone
                    barrier.arrive(barrier_ptr, PERSISTENT)
                math.store_gates(dgates_ptr, gates_at, mask, i, f, g, o, H)
                tl.store(dc_ptr + state_at, dc, mask=mask)
        if wave + 1 < w_end - w_begin:
            barrier.wait(barrier_ptr, (wave + 1) * tl.num_programs(0), PERSISTENT)


# --- host launchers ---


def forward(
    plan: Plan,
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
    p: float,
    seed: Tensor | None,
    save: bool,
) -> None:
    """All layers' steps.

    Args:
        gates: [L, T, B, 4H]; the first is layer 0's input product with its biases. Becomes the
            activated gates where `save` is true; only [1, T, B, 4H] is needed otherwise.
        w_ih, w_hh, bias: one a layer, [4H, H] and [4H], the sum of both; the first w_ih and the
            first bias are not read.
        c0: [L, B, H] in the state dtype. All contiguous.
        h: [L-1, T, B, H] out; y: [T, B, H] out.
        c: [L, T, B, H] out, in the state dtype; only the last ones, [L, 1, B, H], where not `save`.
        exchange: [1 or, where p > 0, 2, L, 2, B_PAD, H_PAD], h0 in slot 0 of the first.
        p: probability of dropping what a layer hands to the next; seed: [1] int64 where p > 0.
    """
    (L, B, _), T = c0.shape, gates.shape[1]
    for w_begin, w_end in plan.launches(T + L - 1):
        lstm_layers_fwd_kernel[(plan.programs,)](
            gates, tuple(w_ih), tuple(w_hh), tuple(bias), c0, h, y, c, exchange,
            counters if seed is None else seed, counters, w_begin, w_end, T, B,
            c.stride(0), c.stride(1) if save else 0, p, dropout.scale_of(p),
            L=L, RESIDENT_IH=plan.resident_ih, SAVE=save, DROPOUT=p > 0, **launch.options(plan),
        )  # fmt: skip


def backward(
    plan: Plan,
    dy: Tensor,
    dh_n: Tensor,
    dc: Tensor,
    gates: Tensor,
    w_ih: Sequence[Tensor],
    w_hh: Sequence[Tensor],
    c0: Tensor,
    c: Tensor,
    dgates: Tensor,
    partial: Tensor,
    exchange: Tensor,
    counters: Tensor,
    p: float,
    seed: Tensor | None,
) -> None:
    """Gradients by all layers' gates before activation: dgates, [L, T, B, 4H] out.

    dy: [T, B, H]; dh_n: [L, B, H]; dc: [L, B, H] in the state dtype, the gradients by the last
    cell states, become those by c0; the rest are the forward's, c with all T states. partial:
    [L, SPLIT, B, H] scratch in the state dtype; exchange: [L, 2, 4, B_PAD, H_PAD].
    """
    L, T, B, _ = c.shape
    for w_begin, w_end in plan.launches(T + L - 1):
        for phase in plan.phases():
            lstm_layers_bwd_kernel[(plan.programs,)](
                dy, dh_n, gates, tuple(w_ih), tuple(w_hh), c0, c, dc, dgates, exchange,
                partial, counters if seed is None else seed, counters, w_begin, w_end, T, B,
                p, dropout.scale_of(p), L=L, SPLIT=plan.split, RESIDENT_IH=plan.resident_ih,
                PHASE=phase, DROPOUT=p > 0, **launch.options(plan),
            )  # fmt: skip
