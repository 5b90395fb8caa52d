"""The operators `recurrence` and `recurrence_backward`: all steps of a head's rows in one launch.

Heads do not wait for each other, nor do tiles of BLOCK_B rows. A small head's tile has one program,
and no barrier but this program's own. PARTS programs share a large head's tile: each takes blocks
of BLOCK_K units, with all of their gates, in turn, and these programs alone meet once a step. A
program writes h, and backwards the gates' gradients, to memory; it reads those of all of the head's
units there at the next step.

T, B, H, N, K: time steps, batch, hidden size, heads, units of a head. R: rows of all steps. G:
gates. S: states beside h, 0 for an RNN. V: columns that are saved a unit, 0 for an RNN, whose h is
enough. Step t's rows begin at first[t]; row b of a step is row b of the batch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..recurrence import Cell
from ..reference import recurrent_product_backward, recurrent_product_by_weight, state_dtype
from ..spec import PLAIN, Spec
from . import barrier, cells, devices, launch, tile, tuned
from . import heads_plan as planning
from . import heads_product as product
from .cells import slstm
from .heads_plan import HeadsPlan
from .helper import helper
from .interpreter import is_interpreted
from .precision import matmul_as_rnn, tf32

# --- kernels ---


@helper
def rows_at(first_ptr, t, exists):
    """Return a step's first row and how many it has; none where it does not exist."""
    begin = tl.load(first_ptr + t, mask=exists, other=0)
    return begin, tl.load(first_ptr + t + 1, mask=exists, other=0) - begin


@helper
def place_of(counters_ptr, PLAN: tl.constexpr):
    """Return a program's first block of units, and the counter of the programs that it meets."""
    first_block, counter_ptr = 0, counters_ptr
    if PLAN.PARTS > 1:
        first_block = tl.program_id(2) * PLAN.BLOCK_K
        of_tile = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
        counter_ptr += of_tile * barrier.APART
    return first_block, counter_ptr


@triton.jit(do_not_specialize=["begin", "end"])
def heads_forward_kernel(
    x_part_ptr,  # [R, G*H]
    h0_ptr,  # [B, H]
    c0_ptr,  # [B, S*H] state dtype
    w_ptr,  # [N, G*K, K]
    bias_m_ptr,  # [H], of a GRU with biases
    first_ptr,  # [T + 1] int64
    keep_ptr,  # [R] uint8, where KEEP
    y_ptr,  # [R, H] out
    c_ptr,  # [N, R, S*K] out, state dtype
    gates_ptr,  # [N, R, V*K] out, where SAVE
    counters_ptr,  # [N, tiles of batch, APART] int32, zero, where MEETS
    begin,  # steps of this launch
    end,
    T,
    B,
    R,
    K,
    CELL: tl.constexpr,  # cells.Cell; None for an sLSTM
    PLAN: tl.constexpr,  # Constants
):
    G: tl.constexpr = PLAN.G
    S: tl.constexpr = PLAN.S
    V: tl.constexpr = PLAN.V
    DTYPE: tl.constexpr = PLAN.DTYPE
    head = tl.program_id(0).to(tl.int64)
    H = tl.num_programs(0) * K
    b = tl.program_id(1).to(tl.int64) * PLAN.BLOCK_B + tl.arange(0, PLAN.BLOCK_B)
    first_block, counter_ptr = place_of(counters_ptr, PLAN)
    weights = product.load_weights(w_ptr, head, first_block, K, False, PLAN)
    if PLAN.PARTS == 1:  # a launch has all steps
        begin, end = 0, T
    for place in range(begin, end):
        t = T - 1 - place if PLAN.REVERSE else place
        first, size = rows_at(first_ptr, t, place >= 0)
        before, size_before = rows_at(first_ptr, t + 1 if PLAN.REVERSE else t - 1, place > 0)
        alive, row, row_before = b < size, first + b, before + b
        kept = alive
        if PLAN.KEEP:
            kept = alive & (tl.load(keep_ptr + row, mask=alive, other=0) != 0)
        continued, begins = kept & (b < size_before), kept & (b >= size_before)
        barrier.wait(counter_ptr, place * PLAN.PARTS, PLAN.MEETS, PLAN.NVIDIA, PLAN.POLLS)
        for block in range(first_block, K, PLAN.PARTS * PLAN.BLOCK_K):
            unit = block + tl.arange(0, PLAN.BLOCK_K)
            if PLAN.K_PARTS == 1:
                by_h = product.gates_by_blocks(
                    y_ptr, h0_ptr, w_ptr, head, row_before, b, continued, begins, unit, H, K, PLAN
                )  # fmt: skip
            exists = (unit < K)[None, :]
            mask, column = alive[:, None] & exists, head * K + unit[None, :]
            x = tile.load_columns(x_part_ptr, row[:, None] * G * H + column, mask, H, G, DTYPE)
            own = head * R * S * K + unit[None, :]
            c = tile.load_columns(
                c_ptr, own + row_before[:, None] * S * K, continued[:, None] & exists, K, S, DTYPE
            )
            c0 = tile.load_columns(
                c0_ptr, b[:, None] * S * H + column, begins[:, None] & exists, H, S, DTYPE
            )
            c = tile.sums(c, c0, S)
            if PLAN.K_PARTS > 1:  # what no other program writes arrives meanwhile
                h_ptr = tl.where(continued, y_ptr + row_before * H, h0_ptr + b * H) + head * K
                by_h = product.gates_in_parts(weights, w_ptr, head, h_ptr, kept, block, K, PLAN)
            if PLAN.SLSTM:
                gates = tile.sums(x, by_h, G)
                h, c_next, saved = slstm.forward(gates, c, PLAN.EXPONENTIAL)
            else:
                bias_m = 0.0
                if PLAN.BIAS:
                    bias_m = tl.load(bias_m_ptr + column, mask=exists, other=0.0).to(DTYPE)
                gates = CELL.combine(x, by_h, bias_m)
                state = x[0]  # which an RNN does not look at
                if S > 0:
                    state = c[0]
                saved, made, next_state = CELL.forward(gates, state, ((), 0.0, 0.0), PLAN.HAS)
                h, c_next = CELL.output(saved, made), (next_state,)
            tl.store(y_ptr + row[:, None] * H + column, h.to(y_ptr.dtype.element_ty), mask=mask)
            tile.store_columns(c_ptr, own + row[:, None] * S * K, mask, c_next, K, S)
            if PLAN.SAVE:
                at = head * R * V * K + row[:, None] * V * K + unit[None, :]
                tile.store_columns(gates_ptr, at, mask, saved, K, V)
        barrier.arrive(counter_ptr, PLAN.MEETS)


@triton.jit(do_not_specialize=["begin", "end"])
def heads_backward_kernel(
    dy_ptr,  # [R, H]
    dh_n_ptr,  # [B, H]
    c0_ptr,  # [B, S*H] state dtype
    w_ptr,  # [N, G*K, K]
    first_ptr,  # [T + 1] int64
    keep_ptr,  # [R] uint8, where PLAN.KEEP
    y_ptr,  # [R, H]
    c_ptr,  # [N, R, S*K] state dtype
    gates_ptr,  # [N, R, V*K]
    dx_ptr,  # [R, G*H] out, by x's part of the gates
    dgates_ptr,  # [R, G*H] out, by h's part of the gates: dx where they are one
    dc_ptr,  # [B, S*H] dc_n at first, dc0 at last, state dtype
    counters_ptr,  # [N, tiles of batch, PLAN.APART] int32, zero, where MEETS
    begin,  # steps of this launch, counted from the last one back
    end,
    T,
    B,
    R,
    K,
    clip,
    CELL: tl.constexpr,  # cells.Cell; None for an sLSTM
    PLAN: tl.constexpr,  # Constants
):
    G: tl.constexpr = PLAN.G
    S: tl.constexpr = PLAN.S
    V: tl.constexpr = PLAN.V
    DTYPE: tl.constexpr = PLAN.DTYPE
    head = tl.program_id(0).to(tl.int64)
    H = tl.num_programs(0) * K
    b = tl.program_id(1).to(tl.int64) * PLAN.BLOCK_B + tl.arange(0, PLAN.BLOCK_B)
    first_block, counter_ptr = place_of(counters_ptr, PLAN)
    weights = product.load_weights(w_ptr, head, first_block, K, True, PLAN)
    if PLAN.PARTS == 1:  # a launch has all steps
        begin, end = 0, T
    for i in range(begin, end):
        place = T - 1 - i
        t = i if PLAN.REVERSE else place
        first, size = rows_at(first_ptr, t, i >= 0)
        before, size_before = rows_at(first_ptr, t + 1 if PLAN.REVERSE else t - 1, place > 0)
        after, size_after = rows_at(first_ptr, t - 1 if PLAN.REVERSE else t + 1, i > 0)
        alive, row, row_before, row_after = b < size, first + b, before + b, after + b
        ends = alive & (b >= size_after)
        crosses = alive & (b < size_after)
        kept = alive
        if PLAN.KEEP:
            crosses = crosses & (tl.load(keep_ptr + row_after, mask=crosses, other=0) != 0)
            kept = alive & (tl.load(keep_ptr + row, mask=alive, other=0) != 0)
        continued, begins = kept & (b < size_before), kept & (b >= size_before)
        barrier.wait(counter_ptr, i * PLAN.PARTS, PLAN.MEETS, PLAN.NVIDIA, PLAN.POLLS)
        for block in range(first_block, K, PLAN.PARTS * PLAN.BLOCK_K):
            unit = block + tl.arange(0, PLAN.BLOCK_K)
            exists = (unit < K)[None, :]
            mask, column = alive[:, None] & exists, head * K + unit[None, :]
            if PLAN.K_PARTS == 1:
                dh = product.dh_by_blocks(
                    dgates_ptr, w_ptr, head, row_after, crosses, unit, H, K, PLAN
                )
            else:
                da_ptr = dgates_ptr + row_after * G * H + head * K
                dh = product.dh_in_parts(weights, w_ptr, head, da_ptr, crosses, block, H, K, PLAN)
            if PLAN.CLIP:
                dh = tl.minimum(tl.maximum(dh, -clip), clip)
            dh += tl.load(dy_ptr + row[:, None] * H + column, mask=mask, other=0.0).to(DTYPE)
            dh += tl.load(
                dh_n_ptr + b[:, None] * H + column, mask=ends[:, None] & exists, other=0.0
            ).to(DTYPE)
            own = head * R * S * K + unit[None, :]
            c = tile.load_columns(
                c_ptr, own + row_before[:, None] * S * K, continued[:, None] & exists, K, S, DTYPE
            )
            c0 = tile.load_columns(
                c0_ptr, b[:, None] * S * H + column, begins[:, None] & exists, H, S, DTYPE
            )
            c = tile.sums(c, c0, S)
            c_next = tile.load_columns(c_ptr, own + row[:, None] * S * K, mask, K, S, DTYPE)
            running = b[:, None] * S * H + column
            dc_next = tile.load_columns(dc_ptr, running, mask, H, S, DTYPE)
            at = head * R * V * K + row[:, None] * V * K + unit[None, :]
            saved = tile.load_columns(gates_ptr, at, mask, K, V, DTYPE)
            if PLAN.SLSTM:
                dgates, dc = slstm.backward(
                    saved, c, c_next, dh, dc_next, ends[:, None], (b >= size_before)[:, None]
                )
                dx = dgates
            else:
                state, next_state, dnext = dh, dh, tl.zeros_like(dh)  # an RNN has none
                if S > 0:
                    state, next_state, dnext = c[0], c_next[0], dc_next[0]
                if V == 0:
                    saved = tile.load_columns(y_ptr, row[:, None] * H + column, mask, H, 1, DTYPE)
                do, dmade = CELL.output_backward(saved, next_state, dh)
                dx, dgates, dstate = CELL.backward(
                    saved, state, dnext, do, dmade, ((), 0.0, 0.0), PLAN.HAS
                )
                dc = (dstate,)
            tile.store_columns(dx_ptr, row[:, None] * G * H + column, mask, dx, H, G)
            if PLAN.APART:
                tile.store_columns(dgates_ptr, row[:, None] * G * H + column, mask, dgates, H, G)
            dc_kept = ()
            for s in tl.static_range(S):
                dc_kept = dc_kept + (tl.where(kept[:, None], dc[s], 0.0),)
            tile.store_columns(dc_ptr, running, mask, dc_kept, H, S)
        barrier.arrive(counter_ptr, PLAN.MEETS)


# --- host launchers ---


@dataclass(frozen=True, eq=False)
class Constants:
    """A kernel's PLAN."""

    SLSTM: bool
    EXPONENTIAL: bool  # forward: an sLSTM's forget gate is exp
    G: int
    S: int
    V: int
    REVERSE: bool
    KEEP: bool
    BIAS: bool  # forward: a GRU has bias_m
    SAVE: bool  # forward: keep what a backward needs
    APART: bool  # backward: h's part of the gates has gradients of its own
    CLIP: bool  # backward
    ROUND: bool  # factors of products are rounded to TF32
    PRECISION: str
    DTYPE: tl.dtype  # the state dtype, in which everything is computed
    HAS: launch.Has
    BLOCK_B: int
    BLOCK_K: int  # units of a block
    ROWS: int  # of a block's gates, in a product of all of them
    PARTS: int  # programs that share a head's tile of batch
    MEETS: bool  # they meet once a step
    NVIDIA: bool  # else AMD
    POLLS: int  # of a counter, after which a launch traps; 0: never
    K_PARTS: int  # of a product's sum, each a warp's; 1: warps share rows and columns instead
    PART_K: int
    CHUNKS: int  # of PART_K, of a part
    RESIDENT: bool  # a program has one block, whose weights stay on chip
    STAGES: int  # of a loop over weights that stream


@lru_cache(1024)
def constants(
    cell: Cell,
    plan: HeadsPlan,
    dtype: torch.dtype,
    *,
    keep: bool,
    bias: bool = False,
    save: bool = True,
    rounds: bool = False,
) -> Constants:
    """Return PLAN of both kernels; rounds: whether float32 products may round to TF32."""
    half, (G, S, V) = dtype.itemsize == 2, columns_of(cell)
    found = {
        "SLSTM": kernel_cell(cell) is None,
        "EXPONENTIAL": cell.name == "slstm_exponential",
        "G": G,
        "S": S,
        "V": V,
        "REVERSE": cell.reverse,
        "KEEP": keep,
        "BIAS": bias,
        "SAVE": save and V > 0,
        "APART": cell.name == "gru",
        "CLIP": cell.clip > 0,
        "ROUND": rounds,
        "PRECISION": "upcast" if half and is_interpreted() else "tf32" if rounds else "ieee",
        "DTYPE": tl.float64 if dtype == torch.float64 else tl.float32,
        "HAS": launch.has(PLAIN, False),
        "BLOCK_B": planning.BLOCK_B,
        "BLOCK_K": plan.block,
        "ROWS": plan.block * (1 if G == 1 else 4),
        "PARTS": plan.parts,
        "MEETS": plan.meets,
        "NVIDIA": not plan.amd,
        "POLLS": int(os.environ.get(launch.POLLS, "0")),
        "K_PARTS": plan.k_parts,
        "PART_K": plan.part_k,
        "CHUNKS": plan.chunks,
        "RESIDENT": plan.resident,
        "STAGES": plan.stages,
    }
    return Constants(**launch.wrapped(found))


def kernel_cell(cell: Cell) -> cells.Cell | None:
    """Return the kernels' cell, None of an sLSTM."""
    return None if cell.name.startswith("slstm") else launch.kernel_cell(Spec(cell.name))


def columns_of(cell: Cell) -> tuple[int, int, int]:
    """Return G, S and V."""
    kernels = kernel_cell(cell)
    if kernels is None:
        return 4, 3, 5
    if cell.name.startswith("rnn"):
        return kernels.gates, 0, 0
    return kernels.gates, 1, kernels.saved


def may_round(dtype: torch.dtype) -> bool:
    """Return whether products may round their factors to TF32."""
    return dtype == torch.float32 and tf32() and not is_interpreted()


def plan_of(direction: str, weight_hh: Tensor, B: int, rounds: bool) -> HeadsPlan:
    """Return the launch for these weights [N, G*K, K] and B rows of batch."""
    N, columns, K = weight_hh.shape
    card = tuned.measured(devices.current(weight_hh.device))
    return planning.plan(
        direction, heads=N, units=K, batch=B, gates=columns // K,
        dtype=launch.NAMES[weight_hh.dtype], device=card, tf32=rounds,
    )  # fmt: skip


def run(kernel: Any, plan: HeadsPlan, N: int, pointers: tuple, numbers: tuple, *told: Any) -> None:
    """Launch a kernel on all steps: numbers are T, B and those that follow them."""
    T, B, *_ = numbers
    grid = N, triton.cdiv(B, planning.BLOCK_B), plan.parts
    size = grid[0] * grid[1] * barrier.APART.value if plan.meets else 0
    counters = torch.zeros(size, dtype=torch.int32, device=pointers[0].device)
    options = {} if is_interpreted() else planning.options(plan)
    for begin, end in plan.launches(T):
        kernel[grid](*pointers, counters, begin, end, *numbers, *told, **options)


class Order:
    """Positions of the rows of T steps, in [T, B] or packed."""

    def __init__(self, rows: tuple[int, ...], B: int, sizes: Tensor | None, device: torch.device):
        self.sizes = torch.full((rows[0],), B) if sizes is None else sizes
        first = torch.cat([self.sizes.new_zeros(1), self.sizes.cumsum(0)])
        self.T, self.live, self.first = len(self.sizes), int(first[-1]), first.to(device)
        self.lengths = (self.sizes > torch.arange(B)[:, None]).sum(1)
        self.b = torch.arange(B)

    def at(self, step: Tensor) -> Tensor:
        """Return the row of each row's step."""
        return self.first[step] + self.b.to(self.first.device)

    def last(self, reverse: bool) -> Tensor:
        """Return each row's last row in a lane's order."""
        return self.at(torch.zeros_like(self.lengths) if reverse else self.lengths - 1)

    def begin(self, reverse: bool) -> Tensor:
        """Return each row's first row in a lane's order."""
        return self.last(not reverse)

    def before(self, h: Tensor, h0: Tensor, reverse: bool) -> Tensor:
        """Return the h that each live row [n, H] started from, of h [R, H] and h0 [B, H]."""
        step = torch.repeat_interleave(torch.arange(self.T), self.sizes)
        b = (
            torch.arange(self.live)
            - torch.cat([self.sizes.new_zeros(1), self.sizes.cumsum(0)])[step]
        )
        step, b = step.to(h.device), b.to(h.device)
        before = step + 1 if reverse else step - 1
        sizes = self.sizes.to(h.device)
        continued = (before >= 0) & (before < self.T)
        before = before.clamp(0, self.T - 1)
        continued &= b < sizes[before]
        rows = torch.where(continued, self.first[before] + b, 0)
        return torch.where(continued[:, None], h[rows], h0[b])


def flat_mask(keep: Tensor | None, like: Tensor) -> Tensor:
    return like.new_empty(0, dtype=torch.uint8) if keep is None else keep.flatten().to(torch.uint8)


def recurrence(
    x_part: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_hh: Tensor,
    bias_m: Tensor | None,
    cell: str,
    save: bool,
    reverse: bool = False,
    batch_sizes: Tensor | None = None,
    keep: Tensor | None = None,
    clip: float = 0.0,
    precision: str | None = None,
) -> tuple[Tensor, ...]:
    """Run the forward operator, as fused_lstm.ops describes it."""
    N, _, K = weight_hh.shape
    rows, B, H, dtype = x_part.shape[:-1], len(h0), N * K, x_part.dtype
    sums = state_dtype(dtype)
    told, rounds = Cell(cell, reverse), may_round(dtype)
    (_, S, V), R = columns_of(told), x_part.numel() // x_part.shape[-1]
    plan = plan_of("forward", weight_hh, B, rounds)
    order = Order(rows, B, batch_sizes, x_part.device)
    y, own_c0 = x_part.new_zeros(R, H), c0.to(sums).contiguous()
    c = x_part.new_empty(N, R, S * K, dtype=sums)
    kept_dtype = sums if S > 1 else dtype  # an sLSTM's gradients by i are differences
    gates = x_part.new_empty((N, R, V * K) if save else (0,), dtype=kept_dtype)
    run(
        heads_forward_kernel, plan, N,
        (x_part.contiguous(), h0.contiguous(), own_c0, weight_hh.contiguous(),
         h0 if bias_m is None else bias_m.contiguous(), order.first, flat_mask(keep, x_part), y, c,
         gates),
        (order.T, B, R, K),
        kernel_cell(told),
        constants(told, plan, dtype, keep=keep is not None, bias=bias_m is not None, save=save,
                  rounds=rounds),
    )  # fmt: skip
    last = order.last(reverse)
    c_n = c0.new_empty(0)
    if not cell.startswith(("rnn", "gru")):
        by_state = c[:, last].unflatten(-1, (S, K)).movedim(0, -2)  # [B, S, N, K]
        c_n = by_state.flatten(1).to(c0.dtype)
    kept = save and V > 0
    return (
        y.view(*rows, H),
        y[last],
        c_n,
        c.view(N, *rows, S * K) if kept else c.new_empty(0),
        gates.view(N, *rows, V * K) if kept else gates.new_empty(0),
    )


def recurrence_backward(
    dy: Tensor | None,
    dh_n: Tensor | None,
    dc_n: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    weight_hh: Tensor,
    bias_m: Tensor | None,
    y: Tensor,
    c: Tensor,
    gates: Tensor,
    cell: str,
    reverse: bool = False,
    batch_sizes: Tensor | None = None,
    keep: Tensor | None = None,
    clip: float = 0.0,
    precision: str | None = None,
) -> tuple[Tensor, ...]:
    """Run the backward operator, as fused_lstm.ops describes it."""
    N, columns, K = weight_hh.shape
    rows, B, H, dtype = y.shape[:-1], len(h0), N * K, y.dtype
    sums, R = state_dtype(dtype), y.numel() // (N * K)
    told, rounds = Cell(cell, reverse, float(clip > 0)), may_round(dtype)  # compiled for any clip
    plan, apart = plan_of("backward", weight_hh, B, rounds), cell == "gru"
    order = Order(rows, B, batch_sizes, y.device)
    dx = y.new_zeros(R, N * columns)
    dgates = torch.zeros_like(dx) if apart else dx
    has_c = not cell.startswith(("rnn", "gru"))
    dc = torch.zeros_like(c0, dtype=sums)
    if dc_n is not None and has_c:
        dc = dc_n.to(sums, copy=True).contiguous()
    weight, by_y = weight_hh.contiguous(), torch.zeros_like(y) if dy is None else dy.contiguous()
    by_last = torch.zeros_like(h0) if dh_n is None else dh_n.contiguous()
    run(
        heads_backward_kernel, plan, N,
        (by_y, by_last, c0.to(sums).contiguous(), weight, order.first, flat_mask(keep, y),
         y.contiguous(), c, gates, dx, dgates, dc),
        (order.T, B, R, K, float(clip)),
        kernel_cell(told),
        constants(told, plan, dtype, keep=keep is not None, rounds=rounds),
    )  # fmt: skip
    # What needs no order in time: the gradients of weights, and by h0 of the rows that begin.
    begin, h = order.begin(reverse), y.flatten(0, -2)
    with matmul_as_rnn(dtype):
        dh0 = recurrent_product_backward(dgates[begin], weight)
        if clip > 0:
            dh0 = dh0.clamp(-clip, clip)
        before, live = order.before(h, h0, reverse), dgates[: order.live]
        if keep is not None:
            kept = keep.flatten()
            dh0 = torch.where(kept[begin][:, None], dh0, 0.0)
            before = torch.where(kept[: order.live, None], before, 0.0)
        dweight = recurrent_product_by_weight(live, before, weight)
    dbias_m = y.new_empty(0) if bias_m is None else live[:, 2 * H :].sum(0)
    return dx.view(*rows, N * columns), dh0, dc.to(c0.dtype), dweight, dbias_m
