"""Training: the steps of an epoch and the epochs of a run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from fused_lstm.engines import resolve
from lm import data
from lm.config import Config
from lm.corpus import Corpus
from lm.errors import UserError
from lm.evaluate import perplexity, perplexity_of
from lm.graph import GraphedStep, Graphs
from lm.log import Log
from lm.meter import Meter
from lm.model import LM_LSTM, Hidden, repackage_hidden
from lm.optimizer import Updater
from lm.ranks import Ranks
from lm.record import Record

LOG_LINES = 10  # an epoch
CHECK_EVERY = 50  # steps: how long a run that has diverged may go on unnoticed
ALONE = Ranks()


@dataclass
class Epoch:
    """One epoch's figures, a point of the learning curve."""

    epoch: int  # from 1
    steps: int  # of the run, up to the end of this epoch
    learning_rate: float
    train_perplexity: float
    valid_perplexity: float | None = None


class Trainer:
    """A model, its optimizer, and where in the text the run is.

    Args:
        model: on the device that it is to be trained on.
        corpus: its training text is read in `config.batch_size` columns.
        autocast: dtype of the products; None leaves them in the parameters' dtype.
        max_steps: ends the run before `config.epochs` are over.
        ranks: the processes that divide the columns among them.
        graphs: what records a training step to replay it; None makes each anew.

    Between two steps everything that the next one depends on is in the model, the optimizer, the
    random generators and `steps`, `hidden`, `curve` and `meter`: what lm.state keeps.

    Raises UserError where the training text is shorter than a batch.
    """

    def __init__(
        self,
        model: LM_LSTM,
        corpus: Corpus,
        config: Config,
        log: Log,
        autocast: torch.dtype | None = None,
        max_steps: int | None = None,
        ranks: Ranks = ALONE,
        graphs: Graphs | None = None,
    ) -> None:
        self.model, self.corpus, self.config, self.log = model, corpus, config, log
        self.ranks, self.autocast = ranks, autocast
        self.device, self.vocabulary = model.sm_fc.weight.device, corpus.vocabulary
        lstm = model.lstm
        self.engine, self.fuse = resolve(lstm.engine, lstm.fuse, self.device, lstm.cell.on)
        self.epoch_steps = epoch_steps(corpus, config, ranks)
        self.total_steps = min(self.epoch_steps * config.epochs, max_steps or math.inf)
        own = ranks.own(config.batch_size)
        self.columns = data.Columns(corpus.train, config.batch_size, self.device, own)
        self._share = ranks.share(config.batch_size)
        self.updater = Updater(model, config)  # which decides how the embedding's gradient comes
        self._loss = ranks.average_gradients(_Loss(model))
        self._step = self._flat_step
        if graphs is not None:
            self._step = GraphedStep(self._flat_step, carried=2, graphs=graphs)
        self.record, self.meter = Record(), Meter(ranks)
        self.steps = 0
        self.hidden = model.init_hidden(own.stop - own.start)
        self.curve: list[Epoch] = []  # of the epochs that are over
        self.seconds_before = 0.0  # of the run, before this process
        self._begin = time.perf_counter()

    @property
    def epochs_left(self) -> bool:
        """Whether an epoch is still to be read, or at least to be evaluated."""
        return len(self.curve) * self.epoch_steps < self.total_steps

    @property
    def best(self) -> Epoch | None:
        """The epoch of the lowest validation perplexity so far."""
        seen = [point for point in self.curve if point.valid_perplexity is not None]
        return min(seen, key=lambda point: point.valid_perplexity, default=None)

    def seconds(self) -> float:
        """Wall time of the run so far, evaluation included, pauses between processes left out."""
        return self.seconds_before + time.perf_counter() - self._begin

    def step(
        self, inputs: torch.Tensor, targets: torch.Tensor, hidden: Hidden
    ) -> tuple[torch.Tensor, torch.Tensor, Hidden]:
        """Update the model once; inputs, targets [T, B].

        Returns this rank's part of the mean loss, the gradient's norm before clipping (scalars on
        the device) and the next state.
        """
        with self.precision():
            nll, hidden = self._loss(inputs, targets, repackage_hidden(hidden))
        self.updater.optimizer.zero_grad()
        # Gradients are averaged over ranks, which may differ by a column.
        weight = self._share * self.ranks.size
        (nll if weight == 1 else nll * weight).backward()
        norm = self.updater.step(len(inputs) if self.config.loss_over_time == "sum" else 1.0)
        return nll.detach() * self._share, norm, hidden

    def _flat_step(self, inputs, targets, *hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`step`, its state's parts one by one."""
        loss, norm, hidden = self.step(inputs, targets, hidden)
        return loss, norm, *hidden

    def train_epoch(self, after_step: Callable[[], None] | None = None) -> Epoch:
        """Read the training text, from where the run is, to its end or the run's last step."""
        epoch = len(self.curve)
        first = epoch * self.epoch_steps
        last = min(first + self.epoch_steps, self.total_steps)
        marks = {math.ceil(self.epoch_steps * n / LOG_LINES) for n in range(1, LOG_LINES + 1)}
        self.updater.set_rate(self.config.learning_rate_at(epoch))
        self.model.train()
        self.meter.resume()
        if self.steps == first:
            self.hidden = tuple(map(torch.zeros_like, self.hidden))
        while self.steps < last:
            self._train_step(self.steps - first)
            if self.steps - first in marks or self.steps == last:
                self._report(first, marks)
            elif self.steps % CHECK_EVERY == 0:
                self.check()
            if after_step is not None:
                after_step()
        return Epoch(epoch + 1, self.steps, self.updater.rate, self._perplexity_since(first))

    def end_epoch(self, point: Epoch) -> bool:
        """An epoch has been read and evaluated; whether another one follows."""
        if point.valid_perplexity is not None:
            self.record.write(self, "valid", point.valid_perplexity)
        if self.steps < point.epoch * self.epoch_steps:  # cut short: it may still go on
            return False
        self.curve.append(point)
        return self.epochs_left

    def evaluate(self, split: str, after_batch: Callable[[], None] | None = None) -> float:
        """Perplexity of the "valid" or "test" text, with its batch size of the configuration."""
        size = {"valid": self.config.eval_batch_size, "test": self.config.test_batch_size}[split]
        with self.precision():
            ids = getattr(self.corpus, split)
            found = perplexity(self.model, ids, size, self.ranks, after_batch)
        if not math.isfinite(found):
            raise UserError(f"the {split} perplexity is not finite: {_ADVICE}")
        return found

    def precision(self) -> torch.autocast:
        """The context in which the model computes."""
        enabled = self.autocast is not None
        return torch.autocast(self.device.type, self.autocast, enabled=enabled)

    def check(self) -> None:
        """Wait for the device; UserError, naming the step, if a loss or a norm is not finite."""
        known = self.meter.checked
        self.meter.take()
        pairs = zip(self.meter.losses[known:], self.meter.norms[known:], strict=True)
        for step, (loss, norm) in enumerate(pairs, start=known + 1):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                what = "gradient" if math.isfinite(loss) else "loss"
                raise UserError(
                    f"the {what} of step {step} is not finite (loss {loss:.4g}, gradient norm "
                    f"{norm:.4g}): {_ADVICE}"
                )
        self.meter.checked = len(self.meter.losses)

    def _train_step(self, number: int) -> None:
        """The step `number`, from 0, of an epoch."""
        inputs, targets = self.columns.batch(number, self.config.num_steps)
        loss, norm, *hidden = self._step(inputs, targets, *self.hidden)
        self.hidden = tuple(hidden)
        self.steps += 1
        self.meter.add(loss, norm, self.config.batch_size * self.config.num_steps)
        self.log.advance()

    def _report(self, first: int, marks: set[int]) -> None:
        """A line on standard output, and in the record, about the steps since the mark before."""
        speed = self.meter.read()
        self.check()
        since = max((first + mark for mark in marks if first + mark < self.steps), default=first)
        norms = self.meter.norms[since:]
        norm = math.fsum(norms) / len(norms)
        clipped = sum(n > self.config.max_grad_norm for n in norms) / len(norms)
        progress = (self.steps - first) / self.epoch_steps
        perplexity = self._perplexity_since(first)
        shown = "" if speed is None else f" speed: {speed:.0f} wps"
        self.log.line(
            f"{progress:.3f} perplexity: {perplexity:.3f}{shown}"
            f" gradient norm: {norm:.3g}, {clipped:.0%} clipped"
        )
        self.record.write(
            self, "train", perplexity, grad_norm=norm, clip_fraction=clipped, words_per_second=speed
        )

    def _perplexity_since(self, first: int) -> float:
        losses = self.meter.losses[first:]
        return perplexity_of(math.fsum(losses) / len(losses))


_ADVICE = "the run has diverged; try a lower --learning-rate or --max-grad-norm"


class _Loss(nn.Module):
    """The model's loss as a module's forward, which is what averages gradients over ranks."""

    def __init__(self, model: LM_LSTM) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, inputs: torch.Tensor, targets: torch.Tensor, hidden: Hidden
    ) -> tuple[torch.Tensor, Hidden]:
        return self.model.loss(inputs, targets, hidden)


def epoch_steps(corpus: Corpus, config: Config, ranks: Ranks = ALONE) -> int:
    """Training steps in an epoch; UserError, naming the text, if it is shorter than one step."""
    size, num_steps = config.batch_size, config.num_steps
    steps = data.steps_per_epoch(len(corpus.train), size, num_steps)
    if steps == 0:
        raise UserError(
            f"{corpus.titles['train']} is shorter than a batch: {len(corpus.train)} tokens, where "
            f"{size} columns of {num_steps} steps and a next word need {size * (num_steps + 1)}"
        )
    if size < ranks.size:
        raise UserError(f"--batch-size: {ranks.size} processes need {ranks.size}, got {size}")
    return steps
