"""From what a user has, padded rows or a PackedSequence, to the packed rows of fused_lstm.ops.

Both are the same with other tensors: rows sorted by falling length, step by step. After the live
ones comes one that has ended, where there is any, and stands for all; nothing is read of it, and it
gives nothing but zeros. In a graph all that have ended come, so that no shape depends on the
lengths: torch.compile and torch.export see sizes of x alone.

T, B, N: time steps, rows, packed rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from .derivatives import Linear, call_of
from .engines import can_run
from .ops import NATIVE, in_a_graph


class Packing(NamedTuple):
    """How rows and states of a call are rearranged; None: not at all."""

    batch_sizes: Tensor | None = None  # [T] int64, on the CPU
    order: Tensor | None = None  # [B], which row comes where by falling length
    back: Tensor | None = None  # [B], its inverse
    places: Tensor | None = None  # [N], which of the T * B padded rows comes where
    back_places: Tensor | None = None  # [T * B], which of the N packed rows
    batch_first: bool = False  # so padded rows lie in memory, which pack and unpack do not show

    def pack(self, x: Tensor) -> Tensor:
        """[T, B, ...] -> [N, ...]."""
        if self.places is None or self.back_places is None:
            return x
        padded = x.transpose(0, 1) if self.batch_first else x
        return _gather(padded.flatten(0, 1), self.places, self.back_places)

    def unpack(self, y: Tensor) -> Tensor:
        """[N, C] -> [T, B, C], zero where a row has ended."""
        if self.places is None or self.back_places is None:
            return y
        assert self.batch_sizes is not None
        assert self.order is not None
        T, B = self.batch_sizes.shape[0], self.order.shape[0]
        padded = _gather(y, self.back_places, self.places)
        if self.batch_first:
            return padded.unflatten(0, (B, T)).transpose(0, 1)
        return padded.unflatten(0, (T, B))

    def sort(self, state: Tensor) -> Tensor:
        """[L * D, B, H], rows by falling length."""
        return state if self.order is None else state.index_select(1, self.order)

    def unsort(self, state: Tensor) -> Tensor:
        return state if self.back is None else state.index_select(1, self.back)


def of_packed(sequence: PackedSequence) -> Packing:
    """Its data is packed as it is; a state comes and goes in the order of before packing."""
    return Packing(sequence.batch_sizes, sequence.sorted_indices, sequence.unsorted_indices)


def of_padded(T: int, B: int, lengths: Tensor, device: torch.device, batch_first: bool) -> Packing:
    """Of B rows of T steps on `device`; lengths [B] int64."""
    if not in_a_graph() and can_run("native", device):
        found = NATIVE.packing(lengths.to(device), T, batch_first)
        return Packing(*found, batch_first=batch_first)
    t = torch.arange(T, device=device)[:, None]
    lengths = lengths.to(device)
    live = lengths > t  # [T, B]
    sizes = live.sum(1)
    order = lengths.argsort(descending=True, stable=True)
    back, first = order.argsort(), sizes.cumsum(0) - sizes  # [T], the live rows before a step
    batch_sizes, first = sizes.cpu(), first[:, None]
    if in_a_graph():
        N = T * B
        ended = sizes.sum() + t * B - first - sizes[:, None] + back  # after all that live, in order
    else:
        N = min(int(batch_sizes.sum()) + 1, T * B)
        ended = N - 1
    back_places = torch.where(live, first + back, ended)
    back_places = (back_places.T if batch_first else back_places).flatten()
    places = back_places.new_zeros(N).scatter(0, back_places, torch.arange(T * B, device=device))
    return Packing(batch_sizes, order, back, places, back_places, batch_first)


def rows(sequence: PackedSequence) -> int:
    """B. torch.compile knows it by the indices alone, unless it may look at numbers."""
    if sequence.sorted_indices is not None:
        return sequence.sorted_indices.shape[0]
    return int(sequence.batch_sizes[0])


@dataclass(slots=True, eq=False)
class _Gather:
    """x [M, ...], there [N], back [M] -> rows `there` of x; backwards rows `back`.

    Two rows may be one row's only where that is zero, and so is its gradient.
    """

    forwards: bool = True

    def kernel(self, x: Tensor, there: Tensor) -> Tensor:
        if x.is_floating_point() and can_run("native", x.device):
            return NATIVE.gather(x, there)
        return x.index_select(0, there)

    def arguments(self, x: Tensor, there: Tensor, back: Tensor) -> tuple[tuple, dict]:
        return (x, there if self.forwards else back), {}

    def transposed(self) -> _Gather:
        return _Gather(not self.forwards)


def _gather(x: Tensor, there: Tensor, back: Tensor) -> Tensor:
    if in_a_graph():
        return x.index_select(0, there)
    wanted = torch.is_grad_enabled() and x.requires_grad
    return call_of(Linear, wanted)(_Gather(), x, there, back)
