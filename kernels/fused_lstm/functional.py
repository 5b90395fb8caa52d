"""`lstm`, the function under the module `LSTM`: an engine's call, of arguments checked and cast.

An engine (fused_lstm.engines) sees time-major, batched tensors whose shapes have been checked.

T, B, I, H, L: time steps, batch, input size, hidden size, layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from . import packing
from .autocast import autocast
from .cell import PLAIN, Cell
from .checks import check_lengths, check_recompute, check_resets, check_tensors
from .engines import ENGINES, engine_module, resolve, where_cudnn_cannot
from .ops import draw_seed
from .packing import Packing
from .recompute import in_chunks
from .rows import keep_of

State = tuple[Tensor, Tensor]


def lstm(
    x: Tensor,
    state: State,
    weights: Sequence[Tensor],
    dropout: float = 0.0,
    engine: str = "auto",
    fuse: str | None = None,
    *,
    bidirectional: bool = False,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    cell: Cell = PLAIN,
    training: bool = True,
    recompute: int | None = None,
) -> tuple[Tensor, State]:
    """Run an LSTM on weights given at the call (so that they may be tied, masked or computed).

    Args:
        x: [T, B, I]; B may be 0.
        state: (h_0 [L * D, B, P], c_0 [L * D, B, H]); P is H unless h is projected.
        weights: nn.LSTM's, flat: for each layer and direction weight_ih [4H, I or D * P],
            weight_hh [4H, P], all or none bias_ih [4H], bias_hh [4H] and, where h is projected,
            weight_hr [P, H]; gate order i, f, g, o. After them the cell's, see `Cell.weights`.
        dropout: probability of dropping an element of h between two layers, in this call.
        engine, fuse: see fused_lstm.engines; `fuse=None` is the engine's highest level.
        bidirectional: each layer has two directions, D = 2.
        lengths: [B] int64, in any order: row b ends after step lengths[b].
        resets: [T, B] bool: where true, row b begins anew at step t: neither a state nor a gradient
            crosses between t - 1 and t, in either direction.
        cell: what is computed between the products of a step; nn.LSTM's unless said otherwise. A
            GRU's has one state: both are the same tensor.
        training: False drops nothing, and takes the expectation of a zoneout.
        recompute: k, keep the state of every k-th step alone for the backward, and make the rest
            again there; None keeps all.

    Returns:
        y [T, B, D * P], zero where a row has ended; (h_n, c_n) as the state came, each row's after
        its last step.

    Raises:
        ValueError: an argument's shape, dtype, device or value does not fit; names it.
        RuntimeError: the engine cannot run on x's device; says why.
    """
    if cell.gru and state[0] is not state[1]:
        raise ValueError("state: got two tensors, should be one twice: h_0, with a GRU's cell")
    packed = padded(x, lengths)
    own = engine, fuse, 1 + bidirectional, packed, resets, cell, training, recompute
    run, arguments = call_of(x, state, list(weights), dropout, *own)
    y, h_n, c_n = run(*arguments)
    return packed.unpack(y), (packed.unsort(h_n), packed.unsort(c_n))


def traced() -> bool:
    """Whether torch.jit.trace runs this: sizes are then tensors, whose comparison it warns of."""
    return torch.jit.is_tracing()


def padded(x: Tensor, lengths: Tensor | None, batch_first: bool = False) -> Packing:
    """How rows [T, B, ...] that end early are packed; batch_first: how they lie in memory."""
    if lengths is None:
        return Packing()
    T, B = x.shape[:2]
    check_lengths(lengths, T, B)
    return packing.of_padded(T, B, lengths, x.device, batch_first)


def call_of(
    x: Tensor,
    state: State,
    weights: Sequence[Tensor],
    dropout: float,
    engine: str,
    fuse: str | None,
    directions: int,
    packed: Packing,
    resets: Tensor | None,
    cell: Cell,
    training: bool,
    recompute: int | None,
) -> tuple[Callable[..., tuple[Tensor, Tensor, Tensor]], tuple]:
    """The engine's function for these arguments of `lstm`, and its own, checked and cast."""
    (h0, c0), sizes, tracing = state, packed.batch_sizes, traced()
    is_packed = sizes is not None and packed.places is None
    if not tracing:
        B = h0.shape[1] if is_packed else x.shape[1]
        if sizes is not None and is_packed and not torch.compiler.is_compiling():
            B = int(sizes[0])  # which a graph does not know
        check_tensors(x, h0, c0, weights, directions, B, is_packed, cell)
    if resets is not None:
        check_resets(resets, x)
    asked, (engine, fuse) = engine, resolve(engine, fuse, x.device, cell.on)
    # A batch of none: nothing to fuse, shapes, and gradients of zero.
    if not (tracing or is_packed) and h0.shape[1] == 0:
        engine, fuse = "loop", "none"
    if engine == "cudnn" and asked == "auto":  # which has no resets, and in a graph no packed rows
        in_graph = sizes is not None and torch.compiler.is_compiling()
        if resets is not None or in_graph:
            engine, fuse = where_cudnn_cannot(x.device)
    x, h0, c0, *weights = autocast(x, h0, c0, *weights)
    x, h0, c0, keep = packed.pack(x), packed.sort(h0), packed.sort(c0), None
    if resets is not None:
        keep = keep_of(packed.pack(resets), directions, h0.shape[1], sizes)
    if not ENGINES[engine].spreads:
        cell, weights = cell.four_gates(weights, c0.shape[-1])
    dropout = dropout if training else 0.0
    arguments: tuple = x, h0, c0, weights, dropout, fuse, directions, sizes, keep
    if cell.on:
        draws = training and (dropout > 0 or cell.draws)
        arguments = *arguments, cell, draw_seed(x.device) if draws else None
    run = engine_module(engine).lstm
    if recompute is not None:
        check_recompute(recompute)
        run = partial(in_chunks, run, recompute)
    return run, arguments
