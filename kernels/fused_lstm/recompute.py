"""Long sequences in little memory: the state of every k-th step is kept, the rest made again.

An engine's call of T steps becomes calls of k steps. Each keeps what it began from alone, and
runs once more when its gradient is due: so T / k states are kept at once, and what a backward needs
of k steps (Chen et al. 2016, "Training deep nets with sublinear memory cost").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .cell import PLAIN, Cell
from .ops import draw_seed


def in_chunks(
    run: Callable,
    k: int,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weights: list[Tensor],
    dropout: float,
    fuse: str | None,
    directions: int = 1,
    batch_sizes: Tensor | None = None,
    keep: Tensor | None = None,
    cell: Cell = PLAIN,
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """run(x, ...), an engine's call in one direction as in fused_lstm.engines, k steps at a time.

    It is one call where nothing is kept for a backward, in a graph of torch.compile and under
    torch.func, which do not know of it.
    """
    own = (cell, seed) if cell.on else ()
    if not _keeps(x, h0, c0, *weights):
        return run(x, h0, c0, weights, dropout, fuse, directions, batch_sizes, keep, *own)
    h, c, outputs = h0, c0, []
    for rows, alive, sizes in _chunks(x, h0.shape[1], batch_sizes, k):
        given = x[rows], h[:, :alive], c[:, :alive], weights, dropout, fuse, directions, sizes
        if seed is not None:  # its own, and the whole's for what is the same at every step
            own = cell, torch.cat([draw_seed(x.device), seed])
        y, h_n, c_n = checkpoint(
            run, *given, None if keep is None else keep[:, rows], *own,
            use_reentrant=False, preserve_rng_state=dropout > 0,
        )  # fmt: skip
        outputs.append(y)
        h, c = (torch.cat([new, old[:, alive:]], 1) for new, old in ((h_n, h), (c_n, c)))
    return torch.cat(outputs), h, c


def _keeps(*tensors: Tensor) -> bool:
    """Whether autograd, and nothing else, is to keep what a backward needs."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if traced or torch._C._are_functorch_transforms_active():
        return False
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _chunks(
    x: Tensor, B: int, batch_sizes: Tensor | None, k: int
) -> Iterator[tuple[slice, int, Tensor | None]]:
    """Of each k steps: where in x they lie, how many rows begin them, and their batch_sizes."""
    if batch_sizes is None:
        for begin in range(0, len(x), k):
            yield slice(begin, begin + k), B, None
        return
    begin = 0
    for sizes in batch_sizes[batch_sizes > 0].split(k):
        end = begin + int(sizes.sum())
        yield slice(begin, end), int(sizes[0]), sizes
        begin = end
