"""A text in batches.

Legend: T time steps, B batch, N tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

IGNORED = -100  # a target that pads a batch: F.cross_entropy leaves it out
_RESIDENT = 1 << 26  # tokens: a text up to this is kept on an accelerator, 256 MiB
_ALL = slice(None)


class Columns:
    """A text, ids [N], as `batch_size` contiguous stretches side by side; the rest is left out.

    Only the rows that are asked for are read, so a memory-mapped text stays in its file. `own`
    picks the columns of one process among several.
    """

    def __init__(
        self, ids: torch.Tensor, batch_size: int, device: torch.device, own: slice = _ALL
    ) -> None:
        length = len(ids) // batch_size
        self._ids = ids[: length * batch_size].view(batch_size, length)[own]
        self._device = device
        if device.type != "cpu" and self._ids.numel() <= _RESIDENT:
            self._ids = self._ids.to(device)

    def batch(self, number: int, num_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(inputs, targets), int64 [T, B], of the training step `number`, from 0, of an epoch.

        The state after one step is the next one's first; a target is the word after its input.
        """
        start = number * num_steps
        block = self._ids[:, start : start + num_steps + 1].t()
        block = block.to(self._device, torch.int64, memory_format=torch.contiguous_format)
        return block[:-1], block[1:]


def steps_per_epoch(tokens: int, batch_size: int, num_steps: int) -> int:
    """Training steps in one pass over `tokens` tokens: whole blocks of T, each with a next word."""
    return max(tokens // batch_size - 1, 0) // num_steps


def evaluation_batches(
    ids: torch.Tensor, batch_size: int, num_steps: int, own: slice = _ALL
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(inputs, targets), int64 [T, B]: every token of `ids` but the first is a target, once.

    Nothing is cut off: the last columns are padded, with targets `IGNORED`, so that all batches
    have one shape, for which an engine may have compiled. `own` picks some of the columns.
    """
    pairs = len(ids) - 1
    length = -(-pairs // (batch_size * num_steps)) * num_steps
    first = torch.arange(batch_size, device=ids.device)[own] * length
    for start in range(0, length, num_steps):
        rows = torch.arange(start, start + num_steps, device=ids.device)
        places = rows[:, None] + first
        inside = places < pairs
        places = places.clamp(max=pairs - 1)
        targets = torch.where(inside, ids[places + 1].long(), IGNORED)
        yield ids[places].long(), targets
