"""When a run is saved, and how it is stopped from outside."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import AbstractContextManager

import torch

from lm.errors import UserError
from lm.options import Options
from lm.saving import checkpoint
from lm.saving.checkpoint import Checkpoint
from lm.training.trainer import Trainer

_AGREE_EVERY = 8  # steps or batches: ranks must stop at the same one


class Stopped(Exception):
    """The run was told to stop: what it says, and the status to exit with."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Signals(AbstractContextManager):
    """While it is open, SIGTERM and the first Ctrl-C are noted in `received`, and nothing else.

    A second Ctrl-C interrupts at once.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __enter__(self) -> Signals:
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)


class Keeper:
    """Saves a run when it is due, and ends it, saved, when a signal has come."""

    def __init__(self, trainer: Trainer, options: Options, signals: Signals) -> None:
        self._trainer, self._options, self._signals = trainer, options, signals
        self._saved_at = time.monotonic()
        self._polls = 0

    def after_step(self) -> None:
        """Between two training steps: save if it is due; Stopped if a signal has come."""
        self.poll()
        steps, trainer = self._options.save_every_steps, self._trainer
        # At an epoch's end the save that holds its evaluation is about to come.
        if steps and trainer.steps % steps == 0 and trainer.steps % trainer.epoch_steps:
            self.save()

    def poll(self) -> None:
        """Between two batches: save if time is up; save and raise Stopped if a signal has come."""
        ranks, minutes = self._trainer.ranks, self._options.save_every_minutes
        self._polls += 1
        if ranks.size > 1 and self._polls % _AGREE_EVERY:
            return
        signal_number = self._signals.received or 0
        due = bool(minutes) and time.monotonic() - self._saved_at > minutes * 60
        if ranks.size > 1:
            news = torch.tensor([int(signal_number), int(due)], device=self._trainer.device)
            news = ranks.each(news, self._trainer.device).amax(0)
            signal_number, due = news.tolist()
        if signal_number:
            self._stop(signal.Signals(signal_number))
        if due:
            self.save()

    def save(self) -> None:
        """Write a checkpoint, if the run keeps any; all ranks must call it."""
        trainer, options = self._trainer, self._options
        self._saved_at = time.monotonic()
        if options.save is None:
            return
        trainer.meter.pause()
        trainer.check()  # what has diverged must not take a good checkpoint's place
        training = trainer.state_dict()
        if trainer.ranks.leads:
            path = checkpoint.save(
                options.save, trainer.steps, trainer.model, trainer.config,
                trainer.corpus.vocabulary, training, options.stored(), trainer.best_step,
            )  # fmt: skip
            trainer.log.line(f"Saved {path}")
        trainer.meter.resume()

    def _stop(self, number: signal.Signals) -> None:
        what = "interrupted" if number == signal.SIGINT else "stopped by SIGTERM"
        what += f" after step {self._trainer.steps}"
        if self._options.save is None:
            raise Stopped(f"{what}; nothing is kept without --save", 128 + number)
        self.save()
        status = 128 + number if number == signal.SIGINT else 0  # told to end, it ended well
        raise Stopped(f"{what}; --resume {self._options.save} goes on", status)


def resume(trainer: Trainer, found: Checkpoint) -> list[str]:
    """Bring a fresh trainer to where a checkpoint was taken; why the bits may differ, in words.

    Raises UserError where the checkpoint is of another text, or its training state is damaged.
    """
    facts, text = found.training.facts, trainer.corpus
    with checkpoint.reporting_damage(found.path, "training state: "):
        if (facts["tokens"], found.vocabulary) != (len(text.train), text.vocabulary):
            raise UserError(f"data '{text.name}' is not the text of {found.path}")
        trainer.load_state_dict(found.training)
        before, now = facts["bits"], trainer.bits_depend_on()
        differences = [f"{k} {now[k]}, was {before[k]}" for k in now if now[k] != before[k]]
    found.load_into(trainer.model)
    return differences
