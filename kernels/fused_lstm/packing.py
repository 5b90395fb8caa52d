"""From what a user has, padded rows or a PackedSequence, to the packed rows of fused_lstm.ops.

Both are the same with other tensors: rows sorted by falling length, step by step. In a graph padded
rows keep all of their T * B places, the live ones first, so that no shape depends on the lengths:
torch.compile and torch.export see sizes of x alone.

T, B, N: time steps, rows, packed rows: the live ones, in a graph all.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


class Packing(NamedTuple):
    """How rows and states of a call are rearranged; None: not at all."""

    batch_sizes: Tensor | None = None  # [T] int64, on the CPU
    order: Tensor | None = None  # [B], which row comes where by falling length
    back: Tensor | None = None  # [B], its inverse
    places: Tensor | None = None  # [N], which padded place comes where

    def pack(self, x: Tensor) -> Tensor:
        """[T, B, ...] -> [N, ...]."""
        return x if self.places is None else x.flatten(0, 1).index_select(0, self.places)

    def unpack(self, y: Tensor) -> Tensor:
        """[N, C] -> [T, B, C], zero where a row has ended."""
        if self.places is None:
            return y
        T, B, C = self.batch_sizes.shape[0], self.order.shape[0], y.shape[-1]
        # No two have one place. Faster than index_copy on a CPU.
        return y.new_zeros(T * B, C).index_add_(0, self.places, y).view(T, B, C)

    def sort(self, state: Tensor) -> Tensor:
        """[L * D, B, H], rows by falling length."""
        return state if self.order is None else state.index_select(1, self.order)

    def unsort(self, state: Tensor) -> Tensor:
        return state if self.back is None else state.index_select(1, self.back)


def of_packed(sequence: PackedSequence) -> Packing:
    """Its data is packed as it is; a state comes and goes in the order of before packing."""
    return Packing(sequence.batch_sizes, sequence.sorted_indices, sequence.unsorted_indices)


def of_padded(T: int, B: int, lengths: Tensor, device: torch.device) -> Packing:
    """Of B rows of T steps on `device`; lengths [B] int64."""
    falling, order = lengths.sort(descending=True, stable=True)
    t = torch.arange(T)
    batch_sizes = (falling.cpu() > t[:, None]).sum(1)
    falling, order, t = falling.to(device), order.to(device), t.to(device)
    live = (falling > t[:, None]).flatten()
    packed = torch.where(live, live.cumsum(0), live.sum() + (~live).cumsum(0)) - 1
    back = _inverse(order)
    places = _inverse(packed.view(T, B).index_select(1, back).flatten())
    if not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
        places = places[: int(batch_sizes.sum())]
    return Packing(batch_sizes, order, back, places)


def rows(sequence: PackedSequence) -> int:
    """B. torch.compile knows it by the indices alone, unless it may look at numbers."""
    if sequence.sorted_indices is not None:
        return sequence.sorted_indices.shape[0]
    return int(sequence.batch_sizes[0])


def _inverse(permutation: Tensor) -> Tensor:
    counted = torch.arange(permutation.shape[0], device=permutation.device)
    return torch.zeros_like(permutation).scatter(0, permutation, counted)
