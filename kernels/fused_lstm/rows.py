"""Rows that end early and rows that begin anew, as every step of a lane sees them.

An operator of fused_lstm.ops gets rows of unequal length packed: x [N, ...] has step 0's rows, then
step 1's, ..., `batch_sizes` says how many of each, and the longest rows come first. The reference
and the step loops take them apart again: [T, B, ...] with zeros where a row has ended.

`keep` has a part for each direction, [D, T, B] or [D, N]: false where a lane, in its own order of
time, takes a row's state as zero before a step.

T, B, D, N: time steps, rows, directions, packed rows (at least the sum of batch_sizes; the rest is
not read).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Order(NamedTuple):
    """One lane's steps in its order of time, and what happens to the state at each."""

    steps: range
    live: Tensor | None = None  # [T, B, 1] bool: false where a row has ended: its state stays
    keep: Tensor | None = None  # [T, B, 1] bool: false where the state is zero before the step

    def before(self, t: int, *state: Tensor) -> tuple[Tensor, ...]:
        """What step t starts from, of the state [B, H] after the step before it."""
        if self.keep is None:
            return state
        return tuple(torch.where(self.keep[t], s, 0.0) for s in state)

    def after(self, t: int, new: Tensor, old: Tensor) -> Tensor:
        """The state after step t, of what the step has made and what was there."""
        return new if self.live is None else torch.where(self.live[t], new, old)

    def output(self, t: int, h: Tensor) -> Tensor:
        """y of step t [B, H]: nothing where a row has ended."""
        return h if self.live is None else torch.where(self.live[t], h, 0.0)


class Rows:
    """Where the rows of x lie.

    Args:
        x: [T, B, ...], or [N, ...] with batch_sizes.
        B: rows.
        batch_sizes: [T] int64, falling; it may end in zeros.
        keep: bool, [D, T, B] or [D, N].
    """

    def __init__(
        self, x: Tensor, B: int, batch_sizes: Tensor | None, keep: Tensor | None = None
    ) -> None:
        self.T, self.live, self._keep = x.shape[0], None, keep
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
        """x [N, C] as the operator got it -> [T, B, C], zero where a row has ended."""
        if self.live is None:
            return x
        return torch.where(self.live[..., None], x[self._packed], x.new_zeros(()))

    def pack(self, y: Tensor) -> Tensor:
        """y [T, B, C] -> [N, C], as x came, zero past the last row."""
        if self.live is None:
            return y
        found = y.flatten(0, 1)[self._padded]
        return torch.where(self._is_row[:, None], found, y.new_zeros(()))

    def order(self, direction: int) -> Order:
        """Of a lane forwards in time, 0, or backwards, 1: there a row begins at its own end."""
        steps = range(self.T - 1, -1, -1) if direction else range(self.T)
        live = None if self.live is None else self.live[..., None]
        if self._keep is None:
            return Order(steps, live)
        keep = self._keep[direction]
        return Order(steps, live, (keep if live is None else keep[self._packed])[..., None])


def keep_of(resets: Tensor, directions: int, B: int, batch_sizes: Tensor | None = None) -> Tensor:
    """`keep` of what a user says: resets is true where a row begins anew at a step.

    Nothing then crosses between that step and the one before, in either direction.

    Args:
        resets: bool [T, B], or [N] with batch_sizes.
        directions: D.
        B: rows.

    Returns:
        [D, T, B] or [D, N].
    """
    keep = ~resets
    if directions == 1:
        return keep[None]
    padded, rows = keep[..., None], None
    if batch_sizes is not None:
        rows = Rows(keep, B, batch_sizes)
        padded = ~rows.pad(resets[..., None])  # true where a row has ended
    after = torch.cat([padded[1:], torch.ones_like(padded[:1])])  # backwards, t comes after t + 1
    return torch.stack([keep, (after if rows is None else rows.pack(after))[..., 0]])
