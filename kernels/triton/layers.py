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

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import barrier, dropout, launch, tiles
from . import gates as math
from .plan import Plan

# --- kernels ---


@triton.jit
def _pick(pointers, index, L: tl.constexpr):
    """pointers[index] for an index known at run time only."""
    found = pointers[0]
    for i in tl.static_range(1, L):
        found = tl.where(index == i, pointers[i], found)
    return found


@triton.jit(do_not_specialize=["w_begin", "w_end", "T", "B", "stride_c_l", "stride_c_t", "p", "scale"])
def lstm_layers_fwd_kernel(
    gates_ptr,  # [L, T, B, 4H] in: layer 0's input products; out, where SAVE: activated
    w_ih_ptrs,  # L x [4H, H]; the first is not read
    w_hh_ptrs,  # L x [4H, H]
    bias_ptr,  # [L, 4H] both biases' sum, zero for layer 0
    h0_ptr,  # [L, B, H]
    c0_ptr,  # [L, B, H] state dtype
    h_ptr,  # [L-1, T, B, H] out
    y_ptr,  # [T, B, H] out
    c_ptr,  # [L, T, B, H] out, state dtype; [L, B, H] and stride_c_t = 0 where not SAVE
    dropped_ptr,  # [L-1, 2, B, H] scratch: what the layer above reads, where DROPOUT
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
    UNITS: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BATCH_BLOCKS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,  # chunks of w_hh that stay on chip
    RESIDENT_IH: tl.constexpr,  # and of w_ih
    AHEAD: tl.constexpr,
    STAGES: tl.constexpr,
    PERSISTENT: tl.constexpr,
    SAVE: tl.constexpr,
    DROPOUT: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BITS: tl.constexpr,
):
    blocks = tl.num_programs(0) // L
    layer, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    row, row_unit = tiles.gate_rows(block, H, UNITS)
    row_mask, ih_mask = row_unit < H, row_unit < tl.where(layer > 0, H, 0)
    unit = block * UNITS + tl.arange(0, UNITS)
    # Pointers to this program's layer: everything below is that of one layer.
    w_hh_ptr, w_ih_ptr = _pick(w_hh_ptrs, layer, L), _pick(w_ih_ptrs, layer, L)
    layer = layer.to(tl.int64)
    w_hh = tiles.load_resident(w_hh_ptr, row, row_mask, H, H, 1, BLOCK_K, RESIDENT)
    w_ih = tiles.load_resident(w_ih_ptr, row, ih_mask, H, H, 1, BLOCK_K, RESIDENT_IH)
    out_ptr = tl.where(layer == L - 1, y_ptr, h_ptr + layer * T * B * H)
    below_ptr = h_ptr + (layer - 1) * T * B * H
    gates_ptr += layer * T * B * (4 * H)
    c_ptr += layer * stride_c_l
    for wave in range(w_end - w_begin if PERSISTENT else 1):
        t = (w_begin + wave).to(tl.int64) - layer
        # Rows of batch that there are: none where this layer has not begun or is done.
        live = tl.where((t >= 0) & (t < T), B, 0)
        h_prev_ptr = tl.where(t == 0, h0_ptr + layer * B * H, out_ptr + (t - 1) * B * H)
        c_prev_ptr = tl.where(t == 0, c0_ptr + layer * B * H, c_ptr + (t - 1) * stride_c_t)
        x_ptr = below_ptr + t * B * H
        if DROPOUT:
            x_ptr = dropped_ptr + ((layer - 1) * 2 + t % 2) * B * H
        for batch in range(BATCH_BLOCKS):
            b = batch * BLOCK_B + tl.arange(0, BLOCK_B).to(tl.int64)
            mask = (unit < H)[:, None] & (b < live)[None, :]
            at = b[None, :] * H + unit[:, None]
            gates_at = (t * B + b)[None, :] * (4 * H) + unit[:, None]
            first = (b < tl.where(layer == 0, B, 0))[None, :]
            i, f, g, o = tiles.load_gates(gates_ptr, gates_at, mask & first, H, ACC)
            c = tl.load(c_prev_ptr + at, mask=mask, other=0.0)
            acc = tiles.product(
                tl.full((4 * UNITS, BLOCK_B), 0.0, ACC), w_hh, w_hh_ptr, row, row_mask,
                h_prev_ptr, b, b < live,
                H, H, H, 1, BLOCK_K, RESIDENT, AHEAD, STAGES, PRECISION, BITS,
            )  # fmt: skip
            acc = tiles.product(
                acc, w_ih, w_ih_ptr, row, ih_mask, x_ptr, b,
                b < tl.where(layer > 0, live, 0),
                H, H, H, 1, BLOCK_K, RESIDENT_IH, AHEAD, STAGES, PRECISION, BITS,
            )  # fmt: skip
            ri, rf, rg, ro = tiles.split_gates(acc, UNITS, BLOCK_B)
            bi, bf, bg, bo = tiles.load_gates(
                bias_ptr, layer * (4 * H) + unit[:, None], (unit < H)[:, None], H, ACC
            )
            i, f, g, o, h, c = math.cell_forward(
                i + ri + bi, f + rf + bf, g + rg + bg, o + ro + bo, c
            )
            tl.store(out_ptr + t * B * H + at, h.to(y_ptr.dtype.element_ty), mask=mask)
            if DROPOUT:
                n = (layer * T + t) * B * H + at
                h = h.to(y_ptr.dtype.element_ty) * dropout.multiplier(seed_ptr, n, p, scale)
                dropped_at = (layer * 2 + t % 2) * B * H + at
                keep = mask & (b < tl.where(layer < L - 1, B, 0))[None, :]
                tl.store(dropped_ptr + dropped_at, h.to(y_ptr.dtype.element_ty), mask=keep)
            if batch == BATCH_BLOCKS - 1:  # the others wait for h alone
                barrier.arrive(barrier_ptr, PERSISTENT)
            tl.store(c_ptr + t * stride_c_t + at, c, mask=mask)
            if SAVE:
                tiles.store_gates(gates_ptr, gates_at, mask, i, f, g, o, H)
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
    UNITS: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BATCH_BLOCKS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,
    RESIDENT_IH: tl.constexpr,
    AHEAD: tl.constexpr,
    STAGES: tl.constexpr,
    PERSISTENT: tl.constexpr,
    PHASE: tl.constexpr,
    DROPOUT: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BITS: tl.constexpr,
):
    K_PART: tl.constexpr = 4 * H // SPLIT
    blocks = tl.num_programs(0) // (L * SPLIT)
    group, part = tl.program_id(0) // SPLIT, tl.program_id(0) % SPLIT
    layer, block = group // blocks, group % blocks
    row = block.to(tl.int64) * UNITS + tl.arange(0, UNITS)
    unit = block * UNITS + part * (UNITS // SPLIT) + tl.arange(0, UNITS // SPLIT)
    w_hh_ptr = _pick(w_hh_ptrs, layer, L) + part.to(tl.int64) * K_PART * H
    w_ih_ptr = _pick(w_ih_ptrs, layer + 1, L) + part.to(tl.int64) * K_PART * H
    layer = layer.to(tl.int64)
    ih_mask = row < tl.where(layer < L - 1, H, 0)
    w_hh = tiles.load_resident(w_hh_ptr, row, row < H, K_PART, 1, H, BLOCK_K, RESIDENT)
    w_ih = tiles.load_resident(w_ih_ptr, row, ih_mask, K_PART, 1, H, BLOCK_K, RESIDENT_IH)
    above_ptr = dgates_ptr + (layer + 1) * T * B * (4 * H) + part * K_PART
    dgates_ptr += layer * T * B * (4 * H)
    partial_ptr += layer * SPLIT * B * H
    for wave in range(w_end - w_begin if PERSISTENT else 1):
        t = T - 1 - ((w_begin + wave).to(tl.int64) - (L - 1 - layer))
        live = tl.where((t >= 0) & (t < T), B, 0)
        if PHASE != 1:
            for batch in range(BATCH_BLOCKS):
                b = batch * BLOCK_B + tl.arange(0, BLOCK_B).to(tl.int64)
                mask = (row < H)[:, None] & (b < live)[None, :]
                acc = tiles.product(
                    tl.full((UNITS, BLOCK_B), 0.0, ACC), w_ih, w_ih_ptr, row, ih_mask,
                    above_ptr + t * B * (4 * H), b,
                    b < tl.where(layer < L - 1, live, 0),
                    4 * H, K_PART, 1, H, BLOCK_K, RESIDENT_IH, AHEAD, STAGES, PRECISION, BITS,
                )  # fmt: skip
                if DROPOUT:
                    n = ((layer * T + t) * B + b)[None, :] * H + row[:, None]
                    acc *= dropout.multiplier(seed_ptr, n, p, scale).to(ACC)
                acc = tiles.product(
                    acc, w_hh, w_hh_ptr, row, row < H,
                    dgates_ptr + (t + 1) * B * (4 * H) + part * K_PART, b,
                    b < tl.where(t + 1 < T, live, 0),
                    4 * H, K_PART, 1, H, BLOCK_K, RESIDENT, AHEAD, STAGES, PRECISION, BITS,
                )  # fmt: skip
                at = (part * B + b)[None, :] * H + row[:, None]
                tl.store(partial_ptr + at, acc, mask=mask)
            barrier.arrive(barrier_ptr + 1 + group, PERSISTENT)
        if PHASE != 0:
            for batch in range(BATCH_BLOCKS):
                b = batch * BLOCK_B + tl.arange(0, BLOCK_B).to(tl.int64)
                mask = (unit < H)[:, None] & (b < live)[None, :]
                at = b[None, :] * H + unit[:, None]
                gates_at = (t * B + b)[None, :] * (4 * H) + unit[:, None]
                state_at = layer * B * H + at
                i, f, g, o = tiles.load_gates(
                    gates_ptr + layer * T * B * (4 * H), gates_at, mask, H, ACC
                )
                c_at = (layer * T + t) * B * H + at
                c_prev_ptr = tl.where(
                    t == 0, c0_ptr + layer * B * H, c_ptr + (layer * T + t - 1) * B * H
                )
                c_prev = tl.load(c_prev_ptr + at, mask=mask, other=0.0)
                c = tl.load(c_ptr + c_at, mask=mask, other=0.0)
                dc = tl.load(dc_ptr + state_at, mask=mask, other=0.0)
                top = mask & (b < tl.where(layer == L - 1, B, 0))[None, :]
                dh = tl.load(dy_ptr + t * B * H + at, mask=top, other=0.0).to(ACC)
                last = mask & (b < tl.where(t == T - 1, B, 0))[None, :]
                dh += tl.load(dh_n_ptr + state_at, mask=last, other=0.0).to(ACC)
                if batch == 0:
                    barrier.wait(barrier_ptr + 1 + group, (wave + 1) * SPLIT, PERSISTENT)
                dh += tiles.sum_partials(partial_ptr + at, B * H, mask, SPLIT)
                i, f, g, o, dc = math.cell_backward(i, f, g, o, c_prev, c, dh, dc)
                tiles.store_gates(dgates_ptr, gates_at, mask, i, f, g, o, H)
                if batch == BATCH_BLOCKS - 1:  # the others wait for dgates alone
                    barrier.arrive(barrier_ptr, PERSISTENT)
                tl.store(dc_ptr + state_at, dc, mask=mask)
        if wave + 1 < w_end - w_begin:
            barrier.wait(barrier_ptr, (wave + 1) * tl.num_programs(0), PERSISTENT)


# --- host launchers ---


def forward(
    plan: Plan,
    gates: Tensor,
    w_ih: Sequence[Tensor],
    w_hh: Sequence[Tensor],
    bias: Tensor,
    h0: Tensor,
    c0: Tensor,
    p: float,
    seed: Tensor | None,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """All layers' steps.

    Args:
        gates: [L, T, B, 4H]; the first is layer 0's input product with its biases. Becomes the
            activated gates where `save` is true; only [1, T, B, 4H] is needed otherwise.
        w_ih, w_hh: one weight a layer; bias: [L, 4H], the sum of both, zero for layer 0.
        h0: [L, B, H]; c0: [L, B, H] in the state dtype. All contiguous.
        p: probability of dropping what a layer hands to the next; seed: [1] int64 where p > 0.

    Returns:
        h [L-1, T, B, H], y [T, B, H] and, in the state dtype, c [L, T, B, H] or the last ones.
    """
    (L, B, H), T = h0.shape, gates.shape[1]
    y = gates.new_empty(T, B, H)
    h = gates.new_empty(L - 1, T, B, H)
    c = c0.new_empty(L, T if save else 1, B, H)
    dropped = gates.new_empty(L - 1, 2, B, H) if p > 0 else h
    counters = launch.counters(plan, gates.device)
    for w_begin, w_end in plan.launches(T + L - 1):
        lstm_layers_fwd_kernel[(plan.programs,)](
            gates, tuple(w_ih), tuple(w_hh), bias, h0, c0, h, y, c, dropped,
            counters if seed is None else seed, counters, w_begin, w_end, T, B,
            c.stride(0), c.stride(1) if save else 0, p, dropout.scale_of(p),
            L=L, RESIDENT_IH=plan.resident_ih, SAVE=save, DROPOUT=p > 0, **launch.options(plan),
        )  # fmt: skip
    return h, y, c


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
    p: float,
    seed: Tensor | None,
) -> Tensor:
    """Gradients by all layers' gates before activation, [L, T, B, 4H].

    dy: [T, B, H]; dh_n: [L, B, H]; dc: [L, B, H] in the state dtype, the gradients by the last
    cell states, become those by c0; the rest are the forward's, c with all T states.
    """
    L, T, B, H = c.shape
    dgates = torch.empty_like(gates)
    partial = c.new_empty(L, plan.split, B, H)
    counters = launch.counters(plan, dy.device)
    for w_begin, w_end in plan.launches(T + L - 1):
        for phase in plan.phases():
            lstm_layers_bwd_kernel[(plan.programs,)](
                dy, dh_n, gates, tuple(w_ih), tuple(w_hh), c0, c, dc, dgates, partial,
                counters if seed is None else seed, counters, w_begin, w_end, T, B,
                p, dropout.scale_of(p), L=L, SPLIT=plan.split, RESIDENT_IH=plan.resident_ih,
                PHASE=phase, DROPOUT=p > 0, **launch.options(plan),
            )  # fmt: skip
    return dgates
