"""A text in batches.

Legend: T time steps, B batch, N tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

IGNORED = -100  # a target that pads a batch: F.cross_entropy leaves it out


def columns(ids: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Return a text [N] as stretches side by side [N // B, B]; what is left over is left out.

    T + 1 rows of it are a training step's inputs and, a word later, its targets.
    """
    length = len(ids) // batch_size
    return ids[: length * batch_size].view(batch_size, length).t().contiguous()


def steps_per_epoch(tokens: int, batch_size: int, num_steps: int) -> int:
    """Return the training steps in one pass: whole blocks of T words, each with a next word."""
    return max(tokens // batch_size - 1, 0) // num_steps


def evaluation_steps(tokens: int, batch_size: int, num_steps: int) -> int:
    """Return how many batches `evaluation_batches` gives."""
    return -(-(tokens - 1) // (batch_size * num_steps))


def evaluation_batches(
    ids: torch.Tensor, batch_size: int, num_steps: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (inputs, targets), [T, B]: each of ids [N] except the first is a target, once.

    Nothing is cut off: the last columns are padded, with targets `IGNORED`, so that all batches
    have one shape, for which an engine may have compiled.
    """
    steps = evaluation_steps(len(ids), batch_size, num_steps)
    padding = steps * num_steps * batch_size - (len(ids) - 1)
    inputs = columns(F.pad(ids[:-1], (0, padding)), batch_size)
    targets = columns(F.pad(ids[1:], (0, padding), value=IGNORED), batch_size)
    yield from zip(inputs.split(num_steps), targets.split(num_steps), strict=True)
