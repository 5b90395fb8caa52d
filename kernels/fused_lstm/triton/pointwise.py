"""fuse="pointwise": all of a cell's pointwise work in one launch, forward and backward.

B, H: batch, hidden size. Gate order i, f, g, o. One program takes BLOCK elements of [B, H].
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..call.spec import PLAIN
from . import launch, tile
from .cells import lstm
from .interpreter import is_interpreted

# --- kernels ---


@triton.jit
def lstm_cell_fwd_kernel(
    gates_ptr,  # [B, 4H] before activation
    c_ptr,  # [B, H] state dtype
    h_ptr,  # [B, H] out
    c_next_ptr,  # [B, H] out, state dtype
    size,  # B * H
    H,
    BLOCK: tl.constexpr,
    DTYPE: tl.constexpr,  # the state dtype, in which everything is computed
    HAS: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = n < size
    gates = tile.load_columns(gates_ptr, n + (n // H) * 3 * H, mask, H, 4, DTYPE)
    c = tl.load(c_ptr + n, mask=mask, other=0.0)
    activated, _, c_next = lstm.forward(gates, c, ((), 0.0), HAS)
    h = lstm.output(activated, c_next, HAS)
    tl.store(h_ptr + n, h.to(h_ptr.dtype.element_ty), mask=mask)
    tl.store(c_next_ptr + n, c_next, mask=mask)


@triton.jit
def lstm_cell_bwd_kernel(
    gates_ptr,  # [B, 4H] before activation
    c_ptr,  # [B, H] state dtype
    c_next_ptr,  # [B, H] state dtype
    dh_ptr,  # [B, H]
    dc_next_ptr,  # [B, H] state dtype
    dgates_ptr,  # [B, 4H] out, by the gates before activation
    dc_ptr,  # [B, H] out, state dtype
    size,  # B * H
    H,
    BLOCK: tl.constexpr,
    DTYPE: tl.constexpr,
    HAS: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = n < size
    first = n + (n // H) * 3 * H
    c = tl.load(c_ptr + n, mask=mask, other=0.0)
    c_next = tl.load(c_next_ptr + n, mask=mask, other=0.0)
    dh = tl.load(dh_ptr + n, mask=mask, other=0.0).to(DTYPE)
    dc_next = tl.load(dc_next_ptr + n, mask=mask, other=0.0)
    # The activations are computed again: cheaper than writing and reading four of them.
    gates = tile.load_columns(gates_ptr, first, mask, H, 4, DTYPE)
    options = (), 0.0
    activated, _, _ = lstm.forward(gates, c, options, HAS)
    do, dmade = lstm.output_backward(activated, c_next, dh, HAS)
    dgates, dc, _ = lstm.inner_backward(activated, c, c_next, dc_next, do, dmade, options, HAS)
    tile.store_columns(dgates_ptr, first, mask, dgates, H, 4)
    tl.store(dc_ptr + n, dc, mask=mask)


# --- host launchers: the operators cell and cell_backward of fused_lstm.operator.ops ---


def _launch(kernel, c: Tensor, *tensors: Tensor) -> None:
    # A program costs the interpreter milliseconds whatever its size, and a GPU wants many.
    block = 4096 if is_interpreted() else 512
    dtype = tl.float64 if c.dtype == torch.float64 else tl.float32
    grid = (triton.cdiv(c.numel(), block),)
    constants = {"BLOCK": block, "DTYPE": dtype, "HAS": launch.has(PLAIN, False)}
    kernel[grid](*tensors, c.numel(), c.shape[1], **constants)


def cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    gates, c = gates.contiguous(), c.contiguous()
    h, c_next = torch.empty_like(c, dtype=gates.dtype), torch.empty_like(c)
    _launch(lstm_cell_fwd_kernel, c, gates, c, h, c_next)
    return h, c_next


def cell_backward(
    gates: Tensor, c: Tensor, c_next: Tensor, dh: Tensor, dc_next: Tensor
) -> tuple[Tensor, Tensor]:
    inputs = [t.contiguous() for t in (gates, c, c_next, dh, dc_next)]
    dgates, dc = torch.empty_like(inputs[0]), torch.empty_like(inputs[1])
    _launch(lstm_cell_bwd_kernel, inputs[1], *inputs, dgates, dc)
    return dgates, dc
