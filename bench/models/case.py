"""A `Case`: a model as its package's users build it, and a call of it in each mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Case:
    """A model with random weights, and what a user does with it.

    `infer` is called under no_grad in eval mode; `loss` makes what a training step differentiates.
    `resets` is the same with a module of fused_lstm.integrations, for episodes that end in a batch.
    """

    model: nn.Module
    infer: Callable[[], Any]
    loss: Callable[[], Tensor]
    resets: Case | None = None


def of(model: nn.Module, *inputs: Any) -> Case:
    """Return the case of a model called with `inputs`; its loss is its outputs' mean square."""
    return Case(model, lambda: model(*inputs), lambda: mean_square(model(*inputs)))


def mean_square(outputs: Any) -> Tensor:
    """Return a loss of all of a call's outputs that can be differentiated."""
    parts = [t.square().mean() for t in floats(outputs) if t.requires_grad]
    return torch.stack(parts).sum()


def floats(outputs: Any) -> list[Tensor]:
    """Return every tensor of real numbers in a call's outputs, in order."""
    if isinstance(outputs, Tensor):
        return [outputs] if outputs.is_floating_point() else []
    if isinstance(outputs, Mapping):
        return floats(tuple(outputs.values()))
    return (
        [t for part in outputs for t in floats(part)] if isinstance(outputs, tuple | list) else []
    )


def without_cuda() -> None:
    """Let torchaudio be imported beside a torch built for another CUDA, of which nothing runs."""
    torch.version.cuda = None
