"""A training step of the language model: what every contender is given, and who learns it here.

In this process there are two programs: the post's, in stock PyTorch, and the trainer's own step.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fused_lstm
from lm.batches import Columns
from lm.data import load_corpus
from lm.model import Hidden, build_model, repackage_hidden
from lm.optimizer import Optimizer
from lm.settings import PRESETS, Config
from lm.train import train_step

from .contenders import Contender
from .measure.timing import Timed, timed

VOCABULARY = 10_000  # Penn Treebank's
BATCHES = 8
CHECKED = 3  # steps whose losses and whose updates are compared
FEW = 10  # words of the last checked batch


@dataclass(frozen=True, eq=False)
class Lesson:
    """`weights` is LM_LSTM's state_dict; `inputs` and `targets` are int64 [BATCHES, T, B].

    What is differentiated is `scale` times the mean loss over words: T where the preset sums over
    time. An answer is the losses of the first CHECKED steps, and what they changed in every weight,
    under the names of `weights` without "lstm.". `autocast` is the dtype of the products, None the
    weights' own.
    """

    config: Config
    weights: dict[str, Tensor]
    inputs: Tensor
    targets: Tensor
    vocabulary: int
    autocast: torch.dtype | None = None

    modes = ("train", "rest")

    @property
    def device(self) -> torch.device:
        return self.inputs.device

    @property
    def dtype(self) -> torch.dtype:
        return self.weights["sm_fc.weight"].dtype

    @property
    def words(self) -> int:
        """That one step reads."""
        return self.inputs[0].numel()

    @property
    def scale(self) -> int:
        return self.config.num_steps if self.config.loss_over_time == "sum" else 1

    @property
    def state(self) -> tuple[Tensor, Tensor]:
        """h, c before the first step: zeros [L, B, H]."""
        c = self.config
        h, c = torch.zeros(2, c.num_layers, c.batch_size, c.hidden_size, device=self.device)
        return h.to(self.dtype), c.to(self.dtype)

    def named(self) -> dict[str, Tensor]:
        """What a peer is handed over."""
        h0, c0 = self.state
        weights = {name.removeprefix("lstm."): w for name, w in self.weights.items()}
        settings = {
            "keep_prob": self.config.keep_prob,
            "rate": self.config.learning_rate,
            "clip": self.config.max_grad_norm,
            "scale": float(self.scale),
        }
        numbers = {name: torch.tensor(value) for name, value in settings.items()}
        numbers["checked"] = torch.tensor(CHECKED)
        given = {"h0": h0, "c0": c0, "inputs": self.inputs, "targets": self.targets}
        return weights | numbers | given


def make_lesson(
    size: str,
    device: torch.device | str = "cpu",
    text: str | None = None,
    autocast: torch.dtype | None = None,
) -> Lesson:
    """The preset `size` on words of `text`, lm.train's --data, or on words drawn at random.

    Speed does not depend on what the words say. But the last of the batches that are checked has
    FEW words, so that its gradient is clipped, which others at the start are not.
    """
    config = PRESETS[size]
    if text is None:
        vocabulary, generator = VOCABULARY, torch.Generator().manual_seed(0)
        shape = BATCHES, config.num_steps + 1, config.batch_size
        ids = torch.randint(vocabulary, shape, generator=generator)
        ids[CHECKED - 1] %= FEW
        inputs, targets = ids[:, :-1], ids[:, 1:]
    else:
        corpus = load_corpus(text)
        columns = Columns(corpus.train, config.batch_size, torch.device("cpu"))
        pairs = [columns.batch(i, config.num_steps) for i in range(BATCHES)]
        inputs, targets = map(torch.stack, zip(*pairs, strict=True))
        vocabulary = len(corpus.vocabulary)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(config, vocabulary, "cudnn")
    weights = {name: w.detach().to(device) for name, w in model.state_dict().items()}
    inputs, targets = (t.contiguous().to(device) for t in (inputs, targets))
    return Lesson(config, weights, inputs, targets, vocabulary, autocast)


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
    """lm.train's training step: our loss and our update around any engine."""

    def __init__(self, lesson: Lesson, engine: str, fuse: str | None) -> None:
        self.model = build_model(lesson.config, lesson.vocabulary, engine, fuse).to(lesson.device)
        self.model.load_state_dict(lesson.weights)
        self.optimizer, self.lesson = Optimizer(self.model, lesson.config), lesson

    def step(self, inputs: Tensor, targets: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        lesson = self.lesson
        on = lesson.autocast is not None
        autocast = torch.autocast(inputs.device.type, lesson.autocast, enabled=on)
        loss, _, hidden = train_step(
            self.model.loss, self.optimizer, lesson.config, inputs, targets, hidden, autocast
        )
        return loss, hidden


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

    modes = Lesson.modes

    def __init__(self, contender: Contender, lesson: Lesson) -> None:
        self.contender, self.lesson = contender, lesson
        engine, fuse = contender.engine, contender.fuse
        if contender.stock:
            self.way = Stock(lesson, stock_lstm(lesson, engine, fuse))
        else:
            self.way = Ours(lesson, engine, fuse)
        self.model: Any = self.way.model
        self.count, self.hidden = 0, lesson.state

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


def expected(lesson: Lesson) -> dict[str, Tensor]:
    """The post's program in float64, with nn.LSTM: what all must compute, as float32."""
    wide = {name: w.double() for name, w in lesson.weights.items()}
    reference = Contender("reference", "cudnn", None, stock=True)
    exact = dataclasses.replace(lesson, weights=wide, autocast=None)
    answer = Learner(reference, exact).answer()
    return {name: value.float() for name, value in answer.items()}
