"""A text in batches.

Legend: T time steps, B batch, N tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

IGNORED = -100  # a target that pads a batch: F.cross_entropy leaves it out
_ALL = slice(None)


class Columns:
    """A text, ids [N], as `batch_size` contiguous stretches side by side; the rest is left out.

    `part` picks the columns of one process among several.
    """

    def __init__(
        self, ids: torch.Tensor, batch_size: int, device: torch.device, part: slice = _ALL
    ) -> None:
        length = len(ids) // batch_size
        self._ids = ids[: length * batch_size].view(batch_size, length)[part]
        self._device = device
        if device.type != "cpu" and self._ids.numel() <= 1 << 26:  # 256 MiB
            self._ids = self._ids.to(device)

    def batch(self, number: int, num_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (inputs, targets), int64 [T, B], of an epoch's training step `number`, from 0.

        The state after one step is the next one's first; a target is the word after its input.
        """
        start = number * num_steps
        block = self._ids[:, start : start + num_steps + 1].t()
        block = block.to(self._device, torch.int64, memory_format=torch.contiguous_format)
        return block[:-1], block[1:]


def steps_per_epoch(tokens: int, batch_size: int, num_steps: int) -> int:
    """Return the training steps in one pass: whole blocks of T words, each with a next word."""
    return max(tokens // batch_size - 1, 0) // num_steps


def evaluation_steps(tokens: int, batch_size: int, num_steps: int) -> int:
    """Return how many batches `evaluation_batches` gives."""
    return -(-(tokens - 1) // (batch_size * num_steps))


def evaluation_batches(
    ids: torch.Tensor, batch_size: int, num_steps: int, part: slice = _ALL
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (inputs, targets), int64 [T, B]: each of ids [N] except the first is a target, once.

    Nothing is cut off: the last columns are padded, with targets `IGNORED`, so that all batches
    have one shape, for which an engine may have compiled. `part` picks some of the columns.
    """
    pairs = len(ids) - 1
    length = evaluation_steps(len(ids), batch_size, num_steps) * num_steps
    first = torch.arange(batch_size, device=ids.device)[part] * length
    for start in range(0, length, num_steps):
        rows = torch.arange(start, start + num_steps, device=ids.device)
        places = rows[:, None] + first
        inside = places < pairs
        places = places.clamp(max=pairs - 1)
        targets = torch.where(inside, ids[places + 1].long(), IGNORED)
        yield ids[places].long(), targets
