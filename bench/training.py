"""Whole training steps of the language model, the post's own measure: words per second."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lm.config import PRESETS
from lm.data import Corpus, batchify, training_batches
from lm.log import Log
from lm.model import build_model
from lm.trainer import Trainer

from .check import require_right
from .contenders import BASE, Contender
from .timing import interleave, timed

VOCABULARY = 10_000  # Penn Treebank's


class Training:
    """The same model and text for every contender; a wrong loss or gradient is not timed."""

    def __init__(self, size: str, device: torch.device, contenders: Sequence[Contender]) -> None:
        self.config, self.device = PRESETS[size], device
        self.text = _text(self.config.batch_size, self.config.num_steps, device)
        self.trainers: dict[str, Trainer] = {}
        self.errors: dict[str, float] = {}
        self.failed: dict[str, Exception] = {}
        expected: dict[str, Tensor] = {}
        for contender in sorted(contenders, key=lambda c: c.label != BASE):
            trainer = self._trainer(contender)
            try:
                answer = self._answer(trainer)
                expected = expected or answer
                self.errors[contender.label] = require_right(contender.label, answer, expected)
                self.trainers[contender.label] = trainer
            except Exception as error:  # reported where this contender's case comes up
                self.failed[contender.label] = error

    @property
    def words(self) -> int:
        """That one step reads."""
        return self.config.batch_size * self.config.num_steps

    def time(self, seconds: float) -> dict[str, list[float]]:
        """Seconds of a step in each round, by label, with dropout as in training."""
        cases = {}
        for label, trainer in self.trainers.items():
            trainer.model.train()
            work = Step(trainer, *self._batch())
            cases[label] = timed(work, self.device)
        return interleave(cases, seconds)

    def _trainer(self, contender: Contender) -> Trainer:
        torch.manual_seed(0)
        model = build_model(self.config, VOCABULARY, contender.engine, contender.fuse)
        return Trainer(model.to(self.device), self.text, self.config, Log())

    def _batch(self) -> tuple[Tensor, Tensor]:
        columns = batchify(self.text.train, self.config.batch_size)
        return next(training_batches(columns, self.config.num_steps))

    def _answer(self, trainer: Trainer) -> dict[str, Tensor]:
        """Loss and gradients of a step without dropout, whose masks engines draw differently."""
        trainer.model.eval()
        loss, _ = trainer.step(*self._batch(), trainer.model.init_hidden())
        grads = {n: p.grad.clone() for n, p in trainer.model.named_parameters()}
        return {"loss": loss} | grads


class Step:
    """One training step, its state carried on to the next."""

    def __init__(self, trainer: Trainer, inputs: Tensor, targets: Tensor) -> None:
        self.trainer, self.inputs, self.targets = trainer, inputs, targets
        self.hidden = trainer.model.init_hidden()

    def __call__(self) -> None:
        _, self.hidden = self.trainer.step(self.inputs, self.targets, self.hidden)


def _text(batch_size: int, num_steps: int, device: torch.device) -> Corpus:
    """Two batches of words drawn at random: speed does not depend on what they say."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(VOCABULARY, (batch_size * (2 * num_steps + 1),), generator=generator)
    words = words.to(device)
    names = tuple(f"w{n}" for n in range(VOCABULARY))
    nowhere = dict.fromkeys(("train", "valid", "test"), "random words")
    return Corpus("random", names, words, words, words, dict.fromkeys(nowhere, 0), nowhere)
