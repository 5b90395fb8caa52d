"""Loss and speed of training steps, without making a GPU wait at every step."""

from __future__ import annotations

import time

import torch


class Meter:
    """Collects each step's loss on the device; only `read` waits for it.

    `losses` are the mean negative log likelihoods of the steps read so far, in nats. The first
    step of a run is left out of the speed: in it engines compile and allocate.
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self._unread: list[torch.Tensor] = []
        self._seconds = self._words = 0
        self._words_unread = 0
        self._since = time.perf_counter()

    def resume(self) -> None:
        """Training goes on after something that is not training, such as an evaluation."""
        self._since = time.perf_counter()

    def add(self, loss: torch.Tensor, words: int) -> None:
        """A step on `words` words has been launched; its mean loss is the scalar `loss`."""
        self._unread.append(loss)
        if not self.losses:
            self._take_losses()
            self.resume()
        else:
            self._words_unread += words

    def read(self) -> float | None:
        """Wait for the device; words per second since the last reading, None if none is timed."""
        self._take_losses()
        words, seconds = self._words_unread, time.perf_counter() - self._since
        self._words, self._seconds = self._words + words, self._seconds + seconds
        self._words_unread = 0
        self.resume()
        return words / seconds if words else None

    def words_per_second(self) -> float | None:
        """Words per second of all training so far; None while no step has been timed."""
        return self._words / self._seconds if self._words else None

    def _take_losses(self) -> None:
        if self._unread:
            self.losses += torch.stack(self._unread).tolist()
        self._unread = []
