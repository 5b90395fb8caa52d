"""Order of a lane's rows: the first, the last, and the row before each.

A lane's tensors have N rows: [T, B, .] flattened, or packed as call.rows says. B, T, D: rows
of batch, time steps, directions.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..operator.pullback import version_of


def as_bytes(not_reset: Tensor | None) -> Tensor | None:
    """Return a call's `not_reset` as the kernels read it: bytes."""
    return None if not_reset is None else not_reset.contiguous().view(torch.uint8)


class Copy(NamedTuple):
    """A table's way to a GPU."""

    memory: Tensor  # there
    host: Tensor  # pinned: a captured copy reads it at every replay
    done: torch.cuda.Event
    stream: torch.cuda.Stream  # that copies


class Table(NamedTuple):
    """Offsets of packed rows: made on the host, and copied to the device without a wait."""

    made_of: tuple  # what it depends on, besides the values of batch_sizes
    live: int
    offset: Tensor  # [T + 2 + B], as forward.py's offset_ptr
    last: Tensor  # [B] each row's last step
    copy: Copy | None = None  # None on a CPU


TABLES: MutableMapping[Tensor, Table] = WeakIdKeyDictionary()  # a backward has its forward's
CAPTURED: list[Table] = []  # which a CUDA graph reads: nobody tells when there is none any more


def table_of(batch_sizes: Tensor, B: int, N: int, device: torch.device) -> Table:
    """Return the Table of batch_sizes [T], which is made once for as long as they are there."""
    made_of = B, N, device, version_of(batch_sizes)
    if batch_sizes.is_inference():  # whose changes nobody counts, and which no backward has
        return on_this_stream(make_table(batch_sizes, made_of))
    table = TABLES.get(batch_sizes)
    if table is None or table.made_of != made_of:
        table = TABLES[batch_sizes] = make_table(batch_sizes, made_of)
    return on_this_stream(table)


def on_this_stream(table: Table) -> Table:
    """Return the table, which kernels of the current stream may read from now on."""
    if table.copy is None:
        return table
    if torch.cuda.is_current_stream_capturing():  # and all was done before it began
        CAPTURED.append(table)
        return table
    stream = torch.cuda.current_stream(table.offset.device)
    if stream != table.copy.stream:
        stream.wait_event(table.copy.done)
        table.copy.memory.record_stream(stream)
    return table


def make_table(batch_sizes: Tensor, made_of: tuple) -> Table:
    """Make a Table of T + 2 B numbers; no step has more rows than the one before."""
    B, N, device, _ = made_of
    if (first := int(batch_sizes[0])) != B:
        raise ValueError(f"batch_sizes: got {first} at 0; expected {B}")
    b, ends, T = torch.arange(B), batch_sizes.cumsum(0), len(batch_sizes)
    lengths = torch.searchsorted(-batch_sizes, -b)
    last = (ends - batch_sizes)[lengths - 1] + b
    table = torch.cat([ends.new_zeros(1), ends, ends.new_tensor([N]), lengths, last])
    copy = None
    if device.type == "cuda":  # from other memory a copy waits for all that the GPU has to do
        host, stream = table.pin_memory(), torch.cuda.current_stream(device)
        table = host.to(device, non_blocking=True)
        copy = Copy(table, host, stream.record_event(), stream)
    else:
        table = table.to(device)
    return Table(made_of, int(ends[-1]), table[: T + 2 + B], table[T + 2 + B :], copy)


class LaneRows:
    """The rows of x [T, B, I], or of x [N, I] with batch_sizes [T]."""

    def __init__(self, x: Tensor, B: int, batch_sizes: Tensor | None) -> None:
        self.shape = x.shape[:-1]  # [T, B] or [N]
        self.B, self.T = B, x.shape[0]
        self.N = self.live = self.shape.numel()  # `live` of N are some step's
        self.offset, self._last, self._before = None, None, {}
        if batch_sizes is None:
            return
        self.T = len(batch_sizes)
        table = table_of(batch_sizes, B, self.N, x.device)
        self.live, self.offset, self._last = table.live, table.offset, table.last

    def of(self, t: Tensor) -> Tensor:
        """Return the live rows of t: [N, C] -> [live, C]."""
        return t if self.live == self.N else t[: self.live]

    def clear(self, t: Tensor) -> None:
        """Zero the rows of t [T, B, C] or [N, C] that are no step's."""
        if self.live < self.N:
            t[self.live :].zero_()  # only where t is packed

    def filled(self, t: Tensor) -> Tensor:
        """Fill t with zeros to N rows: [live, C] -> [N, C]."""
        if self.live == self.N:
            return t
        return torch.cat([t, t.new_zeros(self.N - self.live, t.shape[1])])

    def ends(self, lanes: Sequence[Tensor], last: bool) -> Tensor:
        """Return each row's last step in its lane, or its first.

        The shapes are D times [L, N, C] -> [L * D, B, C].
        """
        edges = []
        for direction, t in enumerate(lanes):
            if last == (direction == 1):
                edges.append(t[:, : self.B])
            elif self._last is None:
                edges.append(t[:, self.N - self.B :])
            else:
                edges.append(t.index_select(1, self._last))
        return edges[0] if len(edges) == 1 else torch.stack(edges, 1).flatten(0, 1)

    def before(self, h: Tensor, h0: Tensor, direction: int) -> Tensor:
        """Return h before each step [live, C], of h after each step [live, C] and h0 [B, C]."""
        if self.offset is None:
            return torch.cat([h[self.B :], h0] if direction else [h0, h[: -self.B]])
        if direction not in self._before:
            self._before[direction] = self._index(direction, self.offset)
        return torch.cat([h0, h]).index_select(0, self._before[direction])

    def each(self, t: Tensor) -> Tensor:
        """Repeat t [B, C], one vector a row, for each of the row's steps [live, C]."""
        if self.offset is None:
            return t.repeat(self.T, 1)
        return t.index_select(0, self._step_and_row(self.offset)[1])

    def padded(self, t: Tensor) -> Tensor:
        """Pad t with zeros where a row has ended: [live, C] -> [T, B, C]."""
        if self.offset is None:
            return t.unflatten(0, (self.T, self.B))
        step, b = self._step_and_row(self.offset)
        whole = t.new_zeros(self.T * self.B, t.shape[1])
        return whole.index_copy(0, step * self.B + b, t).unflatten(0, (self.T, self.B))

    def _step_and_row(self, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Return the step and the row of batch [live] each, in [T, B], of each live row."""
        begin, n = offset[: self.T + 1], torch.arange(self.live, device=offset.device)
        t = torch.searchsorted(begin[1:], n, right=True)
        return t, n - begin[t]

    def _index(self, direction: int, offset: Tensor) -> Tensor:
        """Return indices [live] into [h0, h] of the row that comes before each, for `before`."""
        begin, (t, b) = offset[: self.T + 1], self._step_and_row(offset)
        there = t > 0
        other = (t - 1).clamp(min=0)
        if direction:
            other = (t + 1).clamp(max=self.T - 1)
            there = (t + 1 < self.T) & (b < begin[other + 1] - begin[other])
        return torch.where(there, self.B + begin[other] + b, b)
