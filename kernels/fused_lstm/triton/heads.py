"""The operators `recurrence` and `recurrence_backward`: a program takes all steps of a head's rows.

Heads do not wait for each other, nor do rows, so there is no barrier but a program's own: it writes
h, and backwards the gates' gradients, to memory, and reads them there at the next step. Products go
in blocks of BLOCK_K units, so that a head may have any number; its weights come from the caches.

T, B, H, N, K: time steps, batch, hidden size, heads, units of a head. R: rows of all steps. G:
gates. S: states beside h, 0 for an RNN. V: columns that are saved a unit, 0 for an RNN, whose h is
enough. Step t's rows begin at first[t]; row b of a step is row b of the batch.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..recurrence import Cell
from ..reference import recurrent_product_backward, recurrent_product_by_weight, state_dtype
from ..spec import PLAIN, Spec
from . import launch, tile
from .cells import slstm
from .helper import helper
from .interpreter import is_interpreted
from .precision import matmul_as_rnn, tf32

# --- kernels ---


@helper
def multiply(a, b, acc, PRECISION: tl.constexpr):
    if PRECISION == "upcast":  # half precision in the interpreter, which cannot multiply it
        return tl.dot(a.to(acc.dtype), b.to(acc.dtype), acc, out_dtype=acc.dtype)
    return tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=acc.dtype)


@helper
def rows_at(first_ptr, t, exists):
    """Return a step's first row and how many it has; none where it does not exist."""
    begin = tl.load(first_ptr + t, mask=exists, other=0)
    return begin, tl.load(first_ptr + t + 1, mask=exists, other=0) - begin


@triton.jit
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
    T,
    B,
    R,
    K,
    CELL: tl.constexpr,  # cells.Cell; None for an sLSTM
    SLSTM: tl.constexpr,
    EXPONENTIAL: tl.constexpr,  # an sLSTM's forget gate is exp
    G: tl.constexpr,
    S: tl.constexpr,
    V: tl.constexpr,
    REVERSE: tl.constexpr,
    KEEP: tl.constexpr,
    BIAS: tl.constexpr,
    SAVE: tl.constexpr,
    ROUND: tl.constexpr,
    PRECISION: tl.constexpr,
    DTYPE: tl.constexpr,  # the state dtype, in which everything is computed
    HAS: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    head = tl.program_id(0).to(tl.int64)
    H = tl.num_programs(0) * K
    b = tl.program_id(1).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    for place in range(T):
        t = T - 1 - place if REVERSE else place
        begin, size = rows_at(first_ptr, t, place >= 0)
        before, size_before = rows_at(first_ptr, t + 1 if REVERSE else t - 1, place > 0)
        alive, row, row_before = b < size, begin + b, before + b
        kept = alive
        if KEEP:
            kept = alive & (tl.load(keep_ptr + row, mask=alive, other=0) != 0)
        continued, begins = kept & (b < size_before), kept & (b >= size_before)
        for block in range(0, K, BLOCK_K):
            unit = block + tl.arange(0, BLOCK_K)
            by_h = ()
            for g in tl.static_range(G):
                acc = tl.full((BLOCK_B, BLOCK_K), 0.0, DTYPE)
                for k in range(0, K, BLOCK_K):
                    col = k + tl.arange(0, BLOCK_K)
                    at, exists = head * K + col[None, :], (col < K)[None, :]
                    h = tl.load(
                        y_ptr + row_before[:, None] * H + at,
                        mask=continued[:, None] & exists, other=0.0, cache_modifier=".cg",
                    )  # fmt: skip
                    first = tl.load(
                        h0_ptr + b[:, None] * H + at, mask=begins[:, None] & exists, other=0.0
                    )
                    h = tl.where(begins[:, None], first, h)
                    w = tl.load(
                        w_ptr + ((head * G + g) * K + unit)[None, :] * K + col[:, None],
                        mask=(unit < K)[None, :] & (col < K)[:, None], other=0.0,
                    )  # fmt: skip
                    acc = multiply(tile.rounded(h, ROUND), tile.rounded(w, ROUND), acc, PRECISION)
                by_h = by_h + (acc,)
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
            if SLSTM:
                gates = tile.sums(x, by_h, G)
                h, c_next, saved = slstm.forward(gates, c, EXPONENTIAL)
            else:
                bias_m = 0.0
                if BIAS:
                    bias_m = tl.load(bias_m_ptr + column, mask=exists, other=0.0).to(DTYPE)
                gates = CELL.combine(x, by_h, bias_m)
                state = x[0]  # which an RNN does not look at
                if S > 0:
                    state = c[0]
                saved, made, next_state = CELL.forward(gates, state, ((), 0.0, 0.0), HAS)
                h, c_next = CELL.output(saved, made), (next_state,)
            tl.store(y_ptr + row[:, None] * H + column, h.to(y_ptr.dtype.element_ty), mask=mask)
            tile.store_columns(c_ptr, own + row[:, None] * S * K, mask, c_next, K, S)
            if SAVE:
                at = head * R * V * K + row[:, None] * V * K + unit[None, :]
                tile.store_columns(gates_ptr, at, mask, saved, K, V)
        tl.debug_barrier()


@triton.jit
def heads_backward_kernel(
    dy_ptr,  # [R, H]
    dh_n_ptr,  # [B, H]
    c0_ptr,  # [B, S*H] state dtype
    w_ptr,  # [N, G*K, K]
    first_ptr,  # [T + 1] int64
    keep_ptr,  # [R] uint8, where KEEP
    y_ptr,  # [R, H]
    c_ptr,  # [N, R, S*K] state dtype
    gates_ptr,  # [N, R, V*K]
    dx_ptr,  # [R, G*H] out, by x's part of the gates
    dgates_ptr,  # [R, G*H] out, by h's part of the gates: dx where they are one
    dc_ptr,  # [B, S*H] dc_n at first, dc0 at last, state dtype
    T,
    B,
    R,
    K,
    clip,
    CELL: tl.constexpr,  # cells.Cell; None for an sLSTM
    SLSTM: tl.constexpr,
    G: tl.constexpr,
    S: tl.constexpr,
    V: tl.constexpr,
    APART: tl.constexpr,  # whether dgates is not dx
    REVERSE: tl.constexpr,
    KEEP: tl.constexpr,
    CLIP: tl.constexpr,
    ROUND: tl.constexpr,
    PRECISION: tl.constexpr,
    DTYPE: tl.constexpr,
    HAS: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    head = tl.program_id(0).to(tl.int64)
    H = tl.num_programs(0) * K
    b = tl.program_id(1).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    for i in range(T):
        place = T - 1 - i
        t = i if REVERSE else place
        begin, size = rows_at(first_ptr, t, i >= 0)
        before, size_before = rows_at(first_ptr, t + 1 if REVERSE else t - 1, place > 0)
        after, size_after = rows_at(first_ptr, t - 1 if REVERSE else t + 1, i > 0)
        alive, row, row_before, row_after = b < size, begin + b, before + b, after + b
        ends = alive & (b >= size_after)
        crosses = alive & (b < size_after)
        kept = alive
        if KEEP:
            crosses = crosses & (tl.load(keep_ptr + row_after, mask=crosses, other=0) != 0)
            kept = alive & (tl.load(keep_ptr + row, mask=alive, other=0) != 0)
        continued, begins = kept & (b < size_before), kept & (b >= size_before)
        for block in range(0, K, BLOCK_K):
            unit = block + tl.arange(0, BLOCK_K)
            exists = (unit < K)[None, :]
            mask, column = alive[:, None] & exists, head * K + unit[None, :]
            dh = tl.full((BLOCK_B, BLOCK_K), 0.0, DTYPE)
            for g in tl.static_range(G):
                for k in range(0, K, BLOCK_K):
                    col = k + tl.arange(0, BLOCK_K)
                    da = tl.load(
                        dgates_ptr + row_after[:, None] * G * H + g * H + head * K + col[None, :],
                        mask=crosses[:, None] & (col < K)[None, :], other=0.0,
                        cache_modifier=".cg",
                    )  # fmt: skip
                    w = tl.load(
                        w_ptr + ((head * G + g) * K + col)[:, None] * K + unit[None, :],
                        mask=(col < K)[:, None] & exists, other=0.0,
                    )  # fmt: skip
                    dh = multiply(tile.rounded(da, ROUND), tile.rounded(w, ROUND), dh, PRECISION)
            if CLIP:
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
            if SLSTM:
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
                    saved, state, dnext, do, dmade, ((), 0.0, 0.0), HAS
                )
                dc = (dstate,)
            tile.store_columns(dx_ptr, row[:, None] * G * H + column, mask, dx, H, G)
            if APART:
                tile.store_columns(dgates_ptr, row[:, None] * G * H + column, mask, dgates, H, G)
            dc_kept = ()
            for s in tl.static_range(S):
                dc_kept = dc_kept + (tl.where(kept[:, None], dc[s], 0.0),)
            tile.store_columns(dc_ptr, running, mask, dc_kept, H, S)
        tl.debug_barrier()


# --- host launchers ---

WARPS = 8  # with BLOCK_K at 32 neither kernel spills on sm_80 and sm_90; four warps do


def constants(cell: Cell, K: int, dtype: torch.dtype, keep: bool) -> dict[str, Any]:
    """Return the constants that both kernels are compiled with."""
    is_slstm, rnn = cell.name.startswith("slstm"), cell.name.startswith("rnn")
    kernels = None if is_slstm else launch.kernel_cell(Spec(cell.name))
    half, rounds = dtype.itemsize == 2, dtype == torch.float32 and tf32() and not is_interpreted()
    return {
        "CELL": kernels,
        "SLSTM": is_slstm,
        "G": 4 if kernels is None else kernels.gates,
        "S": 3 if is_slstm else 0 if rnn else 1,
        "V": 5 if kernels is None else 0 if rnn else kernels.saved,
        "REVERSE": cell.reverse,
        "KEEP": keep,
        "ROUND": rounds,
        "PRECISION": "upcast" if half and is_interpreted() else "tf32" if rounds else "ieee",
        "DTYPE": tl.float64 if dtype == torch.float64 else tl.float32,
        "HAS": launch.has(PLAIN, False),
        "BLOCK_B": 16,
        "BLOCK_K": 32 if K > 16 else 16,
        "num_warps": WARPS,
    }


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
    told = constants(Cell(cell, reverse), K, dtype, keep is not None)
    S, V, R = told["S"], told["V"], x_part.numel() // x_part.shape[-1]
    order = Order(rows, B, batch_sizes, x_part.device)
    y, own_c0 = x_part.new_zeros(R, H), c0.to(sums).contiguous()
    c = x_part.new_empty(N, R, S * K, dtype=sums)
    kept_dtype = sums if S > 1 else dtype  # an sLSTM's gradients by i are differences
    gates = x_part.new_empty((N, R, V * K) if save else (0,), dtype=kept_dtype)
    own = {"EXPONENTIAL": cell == "slstm_exponential", "SAVE": save and V > 0}
    told |= own | {"BIAS": bias_m is not None}
    grid = N, triton.cdiv(B, told["BLOCK_B"])
    heads_forward_kernel[grid](
        x_part.contiguous(), h0.contiguous(), own_c0, weight_hh.contiguous(),
        h0 if bias_m is None else bias_m.contiguous(), order.first, flat_mask(keep, x_part), y, c,
        gates, order.T, B, R, K, **told,
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
    told = constants(Cell(cell, reverse), K, dtype, keep is not None)
    apart = cell == "gru"
    order = Order(rows, B, batch_sizes, y.device)
    dx = y.new_zeros(R, N * columns)
    dgates = torch.zeros_like(dx) if apart else dx
    has_c = not cell.startswith(("rnn", "gru"))
    dc = torch.zeros_like(c0, dtype=sums)
    if dc_n is not None and has_c:
        dc = dc_n.to(sums, copy=True).contiguous()
    weight, by_y = weight_hh.contiguous(), torch.zeros_like(y) if dy is None else dy.contiguous()
    by_last = torch.zeros_like(h0) if dh_n is None else dh_n.contiguous()
    grid, told = (N, triton.cdiv(B, told["BLOCK_B"])), told | {"APART": apart, "CLIP": clip > 0}
    heads_backward_kernel[grid](
        by_y, by_last, c0.to(sums).contiguous(), weight, order.first, flat_mask(keep, y),
        y.contiguous(), c, gates, dx, dgates, dc, order.T, B, R, K, float(clip), **told,
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
