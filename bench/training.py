"""Whole training steps of the language model, the post's own measure: words per second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from lm.config import PRESETS
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
        self.batch = _words(self.config.num_steps, self.config.batch_size, device)
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
            work = Step(trainer, *self.batch)
            cases[label] = timed(work, self.device)
        return interleave(cases, seconds)

    def _trainer(self, contender: Contender) -> Trainer:
        torch.manual_seed(0)
        model = build_model(self.config, VOCABULARY, contender.engine, contender.fuse)
        return Trainer(model.to(self.device), _text(self.words), self.config, Log())

    def _answer(self, trainer: Trainer) -> dict[str, Tensor]:
        hidden = trainer.model.init_hidden()
        return answer_of_step(trainer.model, lambda: trainer.step(*self.batch, hidden)[0])


def answer_of_step(model: nn.Module, step: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Loss and updates of a step without dropout, whose masks engines draw differently.

    `step` makes one training step of `model` and returns its loss.
    """
    model.eval()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    loss = step()
    after = dict(model.named_parameters())
    model.train()
    return {"loss": loss} | {f"update of {n}": after[n].detach() - p for n, p in before.items()}


class Step:
    """One training step, its state carried on to the next."""

    def __init__(self, trainer: Trainer, inputs: Tensor, targets: Tensor) -> None:
        self.trainer, self.inputs, self.targets = trainer, inputs, targets
        self.hidden = trainer.model.init_hidden()

    def __call__(self) -> None:
        *_, self.hidden = self.trainer.step(self.inputs, self.targets, self.hidden)


def _words(T: int, B: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Inputs and targets, [T, B], drawn at random: speed does not depend on what they say."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY, (T + 1, B), generator=generator).to(device)
    return ids[:-1], ids[1:]


def _text(words: int) -> SimpleNamespace:
    """What a trainer asks of a corpus, long enough for a step; `step` reads none of it."""
    ids = torch.zeros(2 * words, dtype=torch.int32)
    names = dict.fromkeys(("train", "valid", "test"), "random words")
    return SimpleNamespace(
        name="random",
        vocabulary=("",) * VOCABULARY,
        train=ids,
        valid=ids,
        test=ids,
        sources=names,
        titles=names,
    )
