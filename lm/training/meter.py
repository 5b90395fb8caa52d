"""Loss, gradient norm and speed of training steps, without making a GPU wait at every step."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from lm.saving.state import fact
from lm.training.ranks import ALONE, Ranks


@dataclass
class Epoch:
    """One epoch's figures, a point of the learning curve."""

    epoch: int  # from 1
    steps: int  # of the run, up to the end of this epoch
    learning_rate: float
    train_perplexity: float
    valid_perplexity: float | None = None

    @classmethod
    def restored(cls, **facts: Any) -> Epoch:
        """One that a checkpoint has kept; ValueError for what is no figure."""
        for name, value in facts.items():
            if name != "valid_perplexity" or value is not None:
                fact(facts, name, int if name in ("epoch", "steps") else float)
        return cls(**facts)


class Meter:
    """Collects figures of each step on the device; only `take` and `read` wait for it.

    `losses` are the mean negative log likelihoods of the run's steps, in nats, over all ranks;
    `norms` those of their gradients, before they were clipped. `words` and `seconds` are those of
    training, evaluation left out, and the first step after a start or a resume: in it engines
    compile and allocate.
    """

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.words, self.seconds = 0, 0.0
        self._ranks = ranks
        self._unread: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.checked = 0  # of the losses: so many are known to be finite
        self._warm = False
        self._words_unread = 0
        self._since = time.perf_counter()

    def resume(self) -> None:
        """Training goes on after something that is not training, such as an evaluation."""
        self._since = time.perf_counter()

    def pause(self) -> None:
        """Something that is not training comes: wait for the device and count the time."""
        self.read()

    def add(self, loss: torch.Tensor, norm: torch.Tensor, words: int) -> None:
        """A step on `words` words has been launched.

        `loss`, this rank's part of the mean, and `norm` are scalars on the device.
        """
        self._unread.append((loss, norm))
        if self._warm:
            self._words_unread += words
        else:
            self.take()
            self._warm = True
            self.resume()

    def take(self) -> None:
        """Wait for the device, and for the other ranks; bring `losses` and `norms` up to date."""
        if self._unread:
            losses, norms = map(torch.stack, zip(*self._unread, strict=True))
            self.losses += self._ranks.total(losses).tolist()
            self.norms += norms.tolist()
        self._unread = []

    def read(self) -> float | None:
        """Take; words per second since the last reading, None if none is timed."""
        self.take()
        words, seconds = self._words_unread, time.perf_counter() - self._since
        if words:
            self.words, self.seconds = self.words + words, self.seconds + seconds
        self._words_unread = 0
        self.resume()
        return words / seconds if words else None

    def words_per_second(self) -> float | None:
        """Words per second of all training so far; None while no step has been timed."""
        return self.words / self.seconds if self.words else None
