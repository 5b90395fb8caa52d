"""A language model that learns in this process: in stock PyTorch, or as lm.train does it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fused_lstm
from lm.log import Log
from lm.model import Hidden, build_model, repackage_hidden
from lm.trainer import Trainer

from .contenders import Contender
from .lesson import CHECKED, Lesson
from .timing import Timed, timed

# --- the post's program ---


class Program(nn.Module):
    """The post's LM_LSTM around `lstm`, as its reader would write it today."""

    def __init__(self, lesson: Lesson, lstm: nn.Module) -> None:
        super().__init__()
        size = lesson.config.hidden_size
        self.word_embeddings = nn.Embedding(lesson.vocabulary, size)
        self.dropout = nn.Dropout(1 - lesson.config.keep_prob)
        self.lstm = lstm
        self.sm_fc = nn.Linear(size, lesson.vocabulary)

    def forward(self, inputs: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        outputs, hidden = self.lstm(self.dropout(self.word_embeddings(inputs)), hidden)
        return self.sm_fc(self.dropout(outputs)), hidden


class Stock:
    """The post's training step: F.cross_entropy, clip_grad_norm_, torch.optim.SGD."""

    def __init__(self, lesson: Lesson, lstm: nn.Module) -> None:
        self.model = Program(lesson, lstm).to(lesson.device, lesson.dtype)
        self.model.load_state_dict(lesson.weights)
        config, self.scale, self.autocast = lesson.config, lesson.scale, lesson.autocast
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=config.learning_rate)
        self.max_norm = config.max_grad_norm

    def step(self, inputs: Tensor, targets: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        self.optimizer.zero_grad()
        on = self.autocast is not None
        with torch.autocast(inputs.device.type, self.autocast, enabled=on):
            logits, hidden = self.model(inputs, repackage_hidden(hidden))
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        (loss * self.scale).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
        self.optimizer.step()
        return loss.detach(), hidden


def stock_lstm(lesson: Lesson, engine: str, fuse: str | None) -> nn.Module:
    """nn.LSTM itself, or another engine in its place."""
    c = lesson.config
    arguments, dropout = (c.hidden_size, c.hidden_size, c.num_layers), 1 - c.keep_prob
    if engine == "cudnn":
        return nn.LSTM(*arguments, dropout=dropout)
    return fused_lstm.LSTM(*arguments, dropout=dropout, engine=engine, fuse=fuse)


# --- this project's ---


class Ours:
    """lm.trainer's training step: our loss and our update around any engine."""

    def __init__(self, lesson: Lesson, engine: str, fuse: str | None) -> None:
        self.model = build_model(lesson.config, lesson.vocabulary, engine, fuse).to(lesson.device)
        self.model.load_state_dict(lesson.weights)
        self.trainer = Trainer(self.model, _text(lesson), lesson.config, Log(), lesson.autocast)

    def step(self, inputs: Tensor, targets: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        loss, _, hidden = self.trainer.step(inputs, targets, hidden)
        return loss, hidden


def _text(lesson: Lesson) -> SimpleNamespace:
    """What a trainer asks of a corpus, long enough for a step; `step` reads none of it."""
    ids = torch.zeros(2 * lesson.words, dtype=torch.int32)
    names = dict.fromkeys(("train", "valid", "test"), "random words")
    words = ("",) * lesson.vocabulary
    return SimpleNamespace(
        name="random", vocabulary=words, train=ids, valid=ids, test=ids, sources=names, titles=names
    )


# --- what races ---


class Absent(nn.Module):
    """In an LSTM's place: y is x. Its weights have gradients, zeros, for clip and update."""

    def __init__(self, lstm: nn.Module) -> None:
        super().__init__()
        self.lstm = lstm
        self.gradients = [torch.zeros_like(p) for p in lstm.parameters()]

    def forward(self, x: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        x.register_hook(self._give)
        return x, hidden

    def _give(self, _: Tensor) -> None:
        for parameter, gradient in zip(self.lstm.parameters(), self.gradients, strict=True):
            parameter.grad = gradient


class Learner:
    """A contender learning a lesson, step by step, the state carried on.

    Two modes: `train` is a training step, `rest` the same without its LSTM, so that the difference
    is the LSTM's part of it.
    """

    modes = ("train", "rest")

    def __init__(self, contender: Contender, lesson: Lesson) -> None:
        self.contender, self.lesson = contender, lesson
        engine, fuse = contender.engine, contender.fuse
        if contender.stock:
            self.way = Stock(lesson, stock_lstm(lesson, engine, fuse))
        else:
            self.way = Ours(lesson, engine, fuse)
        self.model, self.count, self.hidden = self.way.model, 0, lesson.state

    def step(self) -> Tensor:
        """One training step; the mean loss before it."""
        at = self.count % len(self.lesson.inputs)
        inputs, targets = self.lesson.inputs[at], self.lesson.targets[at]
        loss, self.hidden = self.way.step(inputs, targets, self.hidden)
        self.count += 1
        return loss

    def answer(self) -> dict[str, Tensor]:
        """Without dropout, whose masks differ."""
        self.model.eval()
        before = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        losses = torch.stack([self.step() for _ in range(CHECKED)])
        after = dict(self.model.named_parameters())
        self.model.train()
        return {"losses": losses} | {
            f"update of {name.removeprefix('lstm.')}": after[name].detach() - start
            for name, start in before.items()
        }

    def timed(self, mode: str) -> Timed:
        learner = self
        if mode == "rest":
            learner = Learner(self.contender, self.lesson)
            learner.model.lstm = Absent(learner.model.lstm)
        return timed(learner.step, self.lesson.device)

    def close(self) -> None:
        """Nothing to end."""


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """On a GPU too, where cuDNN rounds to TF32 unless told otherwise: losses then agree."""
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = False
        yield
    finally:
        for switch, allowed in zip(switches, before, strict=True):
            switch.allow_tf32 = allowed


def expected(lesson: Lesson) -> dict[str, Tensor]:
    """The post's program in float64, with nn.LSTM: what all must compute, as float32."""
    wide = {name: w.double() for name, w in lesson.weights.items()}
    reference = Contender("reference", "cudnn", None, stock=True)
    exact = dataclasses.replace(lesson, weights=wide, autocast=None)
    answer = Learner(reference, exact).answer()
    return {name: value.float() for name, value in answer.items()}
