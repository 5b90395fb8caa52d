"""Rows of unequal length, and rows that restart: lengths, order, resets.

An operator of operator.ops gets rows of unequal length packed. x [N, ...] has the rows of step 0,
then those of step 1, and so on; `batch_sizes` [T] has the number of each, and the longest rows come
first. `Rows` packs padded rows and takes a PackedSequence as it is. Where a row ends before T,
one ended row follows the live rows and stands for all: no kernel reads it, and its output is zero.
In a graph all ended rows follow, so that no shape depends on the lengths.

The reference and the step loops unpack the rows again (`Padding`): [T, B, ...] with zeros where a
row has ended.

A reset mask `not_reset`, [D, T, B] or [D, N], has a part for each direction: false where a row's
state is zero before a step, in that direction's order of time.

T, B, D, N: time steps, rows, directions, packed rows (at least the sum of batch_sizes; the rest is
not read).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.utils.rnn import PackedSequence

from .choose import can_run, in_a_graph
from .record import Call

# --- from a user's rows to packed rows ---


class Rows(NamedTuple):
    """The order of a call's packed rows and states; a field is None where nothing changes."""

    batch_sizes: Tensor | None = None  # [T] int64, on the CPU
    order: Tensor | None = None  # [B], the rows by falling length
    back: Tensor | None = None  # [B], the inverse of order
    places: Tensor | None = None  # [N], the padded row (of T * B) of each packed row
    back_places: Tensor | None = None  # [T * B], the packed row of each padded row
    batch_first: bool = False  # whether padded rows lie in memory as [B, T, ...]

    @property
    def arrives_packed(self) -> bool:
        """True where the user's x is packed, [N, I]."""
        return self.batch_sizes is not None and self.places is None

    def pack(self, x: Tensor) -> Tensor:
        """Pack padded rows [T, B, ...] -> [N, ...]."""
        if self.places is None or self.back_places is None:
            return x
        padded = x.transpose(0, 1) if self.batch_first else x
        return gather(padded.flatten(0, 1), self.places, self.back_places)

    def unpack(self, y: Tensor) -> Tensor:
        """Unpack rows [N, C] -> [T, B, C], zero where a row has ended."""
        if self.places is None or self.back_places is None:
            return y
        assert self.batch_sizes is not None
        assert self.order is not None
        T, B = self.batch_sizes.shape[0], self.order.shape[0]
        padded = gather(y, self.back_places, self.places)
        if self.batch_first:
            return padded.unflatten(0, (B, T)).transpose(0, 1)
        return padded.unflatten(0, (T, B))

    def sort(self, state: Tensor) -> Tensor:
        """Sort the rows of states [L * D, B, H] by falling length."""
        return state if self.order is None else state.index_select(1, self.order)

    def unsort(self, state: Tensor) -> Tensor:
        """Undo `sort`."""
        return state if self.back is None else state.index_select(1, self.back)

    def unpack_states(self, states: Tensor) -> Tensor:
        """Unpack states [L * D, N, H] -> [L * D, T, B, H], zero where a row has ended."""
        if self.places is None or self.batch_sizes is None or self.back is None:
            return states
        lanes = len(states)
        padded = self.unpack(states.movedim(0, 1).flatten(1)).unflatten(-1, (lanes, -1))
        live = self.batch_sizes.to(states.device)[:, None] > self.back
        return torch.where(live[..., None], padded.movedim(-2, 0), 0.0)


def enter(call: Call, resets: Tensor | None) -> None:
    """Pack a call's rows, sorted by length, and its states; fill in batch_sizes and not_reset.

    resets: bool, as x lies; None for no resets.
    """
    rows, B, D = call.rows, call.h0.shape[1], call.spec.schema_directions
    if rows is not None:
        call.x, call.batch_sizes = rows.pack(call.x), rows.batch_sizes
        call.h0, call.c0 = rows.sort(call.h0), rows.sort(call.c0)
        resets = None if resets is None else rows.pack(resets)
    if resets is not None:
        call.not_reset = reset_mask(resets, D, B, call.batch_sizes)


def leave(rows: Rows, y: Tensor, h_n: Tensor, c_n: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
    """Return results with the rows as they were before `enter`. states: those of every step."""
    last = rows.unsort(h_n), rows.unsort(c_n)
    return rows.unpack(y), *last, *(rows.unpack_states(s) for s in states)


def of_packed(sequence: PackedSequence) -> Rows:
    """Return a PackedSequence's Rows, which leaves its data as they are and sorts states."""
    return Rows(sequence.batch_sizes, sequence.sorted_indices, sequence.unsorted_indices)


def of_lengths(T: int, B: int, lengths: Tensor, device: torch.device, batch_first: bool) -> Rows:
    """Return the Rows that packs B padded rows of T steps on `device`.

    Args:
        lengths: [B] int64, each in 1 to T, in any order.
        batch_first: whether the padded rows lie in memory as [B, T, ...].
    """
    if not in_a_graph() and can_run("native", device):
        made = torch.ops.fused_lstm_native.packing(lengths.to(device), T, batch_first)
        return Rows(*made, batch_first=batch_first)
    batch_sizes = None
    if lengths.device.type == "cpu" and not in_a_graph():  # from a GPU's they are waited for
        batch_sizes = B - lengths.bincount(minlength=T + 1).cumsum(0)[:T]
        lengths = lengths.pin_memory() if device.type == "cuda" else lengths
    t = torch.arange(T, device=device)[:, None]
    lengths = lengths.to(device, non_blocking=True)
    live = lengths > t  # [T, B]
    sizes = live.sum(1)
    order = lengths.argsort(descending=True, stable=True)
    back, first = order.argsort(), sizes.cumsum(0) - sizes  # [T], the live rows before a step
    first = first[:, None]
    batch_sizes = sizes.cpu() if batch_sizes is None else batch_sizes
    if in_a_graph():
        N = T * B
        ended = sizes.sum() + t * B - first - sizes[:, None] + back  # after all live rows, in order
    else:
        N = min(int(batch_sizes.sum()) + 1, T * B)
        ended = N - 1
    back_places = torch.where(live, first + back, ended)
    back_places = (back_places.T if batch_first else back_places).flatten()
    places = back_places.new_zeros(N).scatter(0, back_places, torch.arange(T * B, device=device))
    return Rows(batch_sizes, order, back, places, back_places, batch_first)


def rows_of(sequence: PackedSequence) -> int:
    """Return B of a PackedSequence, from its indices where it can: a graph knows their shape."""
    if sequence.sorted_indices is not None:
        return sequence.sorted_indices.shape[0]
    return int(sequence.batch_sizes[0])


class Gather(torch.autograd.Function):
    """apply(x [M, ...], there [N], back [M]) -> rows `there` of x; its gradient is rows `back`.

    Two results may be the same row of x only where that row and its gradient are zero.
    """

    @staticmethod
    def forward(ctx, x, there, back):
        ctx.save_for_backward(there, back)
        return _rows_at(x, there)

    @staticmethod
    def backward(ctx, grad):
        there, back = ctx.saved_tensors
        return gather(grad, back, there), None, None


def gather(x: Tensor, there: Tensor, back: Tensor) -> Tensor:
    """Return rows `there` of x, with `Gather`'s gradient."""
    plain = in_a_graph() or torch._C._are_functorch_transforms_active()
    if plain or forward_ad._current_level >= 0:
        return x.index_select(0, there)
    if torch.is_grad_enabled() and x.requires_grad:
        return Gather.apply(x, there, back)
    return _rows_at(x, there)


def _rows_at(x: Tensor, index: Tensor) -> Tensor:
    if x.is_floating_point() and can_run("native", x.device):
        return torch.ops.fused_lstm_native.gather(x, index)
    return x.index_select(0, index)


# --- from packed rows to steps ---


class Order(NamedTuple):
    """The steps of a lane in its order of time, and the masks on the state at each."""

    steps: range
    live: Tensor | None = None  # [T, B, 1] bool: false where a row has ended and its state stays
    not_reset: Tensor | None = None  # [T, B, 1] bool: false where the state is zero before the step

    def before(self, t: int, *state: Tensor) -> tuple[Tensor, ...]:
        """Return the state [B, H] that step t starts from, given the state after the last step."""
        if self.not_reset is None:
            return state
        return tuple(torch.where(self.not_reset[t], s, 0.0) for s in state)

    def after(self, t: int, new: Tensor, old: Tensor) -> Tensor:
        """Return the state after step t: `new`, or `old` where a row has ended."""
        return new if self.live is None else torch.where(self.live[t], new, old)

    def output(self, t: int, h: Tensor) -> Tensor:
        """Return y of step t [B, H]: zero where a row has ended."""
        return h if self.live is None else torch.where(self.live[t], h, 0.0)


class Padding:
    """The places of packed rows in padded ones.

    Args:
        x: [T, B, ...], or [N, ...] with batch_sizes.
        B: the number of rows.
        batch_sizes: [T] int64, falling; it may end in zeros.
        not_reset: bool, [D, T, B] or [D, N].
    """

    def __init__(
        self, x: Tensor, B: int, batch_sizes: Tensor | None, not_reset: Tensor | None = None
    ) -> None:
        self.T, self.live, self._not_reset = x.shape[0], None, not_reset
        if batch_sizes is None:
            return
        sizes = batch_sizes.to(x.device)
        self.T, end = sizes.shape[0], sizes.cumsum(0)
        n = torch.arange(x.shape[0], device=x.device)
        first, b = end - sizes, torch.arange(B, device=x.device)
        self.live = b < sizes[:, None]  # [T, B]
        self._packed = torch.where(self.live, first[:, None] + b, 0)  # [T, B] -> n
        step = torch.searchsorted(end, n, right=True).clamp(max=self.T - 1)
        self._is_row = n < end[-1]
        self._padded = torch.where(self._is_row, step * B + n - first[step], 0)  # n -> t * B + b

    def pad(self, x: Tensor) -> Tensor:
        """Unpack x [N, C] -> [T, B, C], zero where a row has ended; return padded x as it is."""
        if self.live is None:
            return x
        return torch.where(self.live[..., None], x[self._packed], x.new_zeros(()))

    def pack(self, y: Tensor) -> Tensor:
        """Pack y [T, B, C] as x was, -> [N, C], zero past the last row."""
        if self.live is None:
            return y
        rows = y.flatten(0, 1)[self._padded]
        return torch.where(self._is_row[:, None], rows, y.new_zeros(()))

    def order(self, reverse: bool) -> Order:
        """Return the Order of a lane; `reverse`: of one that is backwards from each row's end."""
        steps = range(self.T - 1, -1, -1) if reverse else range(self.T)
        live = None if self.live is None else self.live[..., None]
        if self._not_reset is None:
            return Order(steps, live)
        kept = self._not_reset[-1 if reverse else 0]
        return Order(steps, live, (kept if live is None else kept[self._packed])[..., None])


def reset_mask(
    resets: Tensor, directions: int, B: int, batch_sizes: Tensor | None = None
) -> Tensor:
    """Return the mask `not_reset` of a user's `resets`.

    Where resets is true, no state crosses from the step before, in either direction.

    Args:
        resets: bool [T, B], or [N] with batch_sizes.
        directions: D, or -1 for one that is reversed.
        B: the number of rows.

    Returns:
        [D, T, B] or [D, N].
    """
    kept = ~resets
    if directions == 1:
        return kept[None]
    padded, rows = kept[..., None], None
    if batch_sizes is not None:
        rows = Padding(kept, B, batch_sizes)
        padded = ~rows.pad(resets[..., None])  # true where a row has ended
    # Backwards, t comes after t + 1. A slice of T - 1 steps would bind T in an exported graph.
    after = torch.cat([padded, torch.ones_like(padded[:1])])[1:]
    after = (after if rows is None else rows.pack(after))[..., 0]
    return after[None] if directions == -1 else torch.stack([kept, after])
