"""Training: the steps of an epoch and the epochs of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice

import torch

from lm import data
from lm.config import Config
from lm.errors import UserError
from lm.evaluate import perplexity, perplexity_of
from lm.log import Log
from lm.meter import Meter
from lm.model import LM_LSTM, Hidden, repackage_hidden

LOG_LINES = 10  # an epoch


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

    Raises UserError where the training text is shorter than a batch.
    """

    def __init__(
        self,
        model: LM_LSTM,
        corpus: data.Corpus,
        config: Config,
        log: Log,
        autocast: torch.dtype | None = None,
        max_steps: int | None = None,
    ) -> None:
        self.model, self.corpus, self.config, self.log = model, corpus, config, log
        self.device = model.sm_fc.weight.device
        self.autocast = autocast
        self.columns = data.batchify(corpus.train, config.batch_size).to(self.device)
        self.epoch_steps = epoch_steps(corpus, config)
        self.total_steps = min(self.epoch_steps * config.epochs, max_steps or math.inf)
        self.optimizer = make_optimizer(model, config)
        self.meter = Meter()
        self.steps = 0

    @property
    def done(self) -> bool:
        """Whether the last step has been made."""
        return self.steps >= self.total_steps

    def step(
        self, inputs: torch.Tensor, targets: torch.Tensor, hidden: Hidden
    ) -> tuple[torch.Tensor, Hidden]:
        """Update the model once; inputs, targets [T, B]. The mean loss and the next state."""
        with self.precision():
            nll, hidden = self.model.loss(inputs, targets, repackage_hidden(hidden))
        self.optimizer.zero_grad()
        over_time = len(inputs) if self.config.loss_over_time == "sum" else 1
        (nll * over_time).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        return nll.detach(), hidden

    def train_epoch(self, epoch: int) -> Epoch:
        """Read the training text once, or up to the run's last step; `epoch` counts from 0."""
        rate = self.config.learning_rate_at(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        self.meter.resume()
        first = len(self.meter.losses)
        steps = min(self.epoch_steps, self.total_steps - self.steps)
        marks = {math.ceil(steps * tenth / LOG_LINES) for tenth in range(1, LOG_LINES + 1)}
        hidden = self.model.init_hidden()
        batches = data.training_batches(self.columns, self.config.num_steps)
        for number, (inputs, targets) in enumerate(islice(batches, steps), start=1):
            nll, hidden = self.step(inputs, targets, hidden)
            self.steps += 1
            self.meter.add(nll, inputs.numel())
            self.log.advance()
            if number in marks:
                self._report(number / self.epoch_steps, first)
        return Epoch(epoch + 1, self.steps, rate, self._perplexity_since(first))

    def evaluate(self, split: str) -> float:
        """Perplexity of the "valid" or "test" text, with its batch size of the configuration."""
        sizes = {"valid": self.config.eval_batch_size, "test": self.config.test_batch_size}
        with self.precision():
            found = perplexity(self.model, getattr(self.corpus, split), sizes[split])
        return _finite(found, f"the {split} perplexity")

    def precision(self) -> torch.autocast:
        """The context in which the model computes."""
        enabled = self.autocast is not None
        return torch.autocast(self.device.type, self.autocast, enabled=enabled)

    def _report(self, progress: float, first: int) -> None:
        speed = self.meter.read()
        _finite(perplexity_of(self.meter.losses[-1]), f"the perplexity of step {self.steps}")
        shown = "" if speed is None else f" speed: {speed:.0f} wps"
        self.log.line(f"{progress:.3f} perplexity: {self._perplexity_since(first):.3f}{shown}")

    def _perplexity_since(self, first: int) -> float:
        losses = self.meter.losses[first:]
        return perplexity_of(math.fsum(losses) / len(losses))


def _finite(perplexity: float, what: str) -> float:
    if not math.isfinite(perplexity):
        advice = "try a lower --learning-rate or --max-grad-norm"
        raise UserError(f"{what} is not finite: the run has diverged; {advice}")
    return perplexity


def epoch_steps(corpus: data.Corpus, config: Config) -> int:
    """Training steps in an epoch; UserError, naming the text, if it is shorter than one step."""
    size, num_steps = config.batch_size, config.num_steps
    steps = data.steps_per_epoch(len(corpus.train), size, num_steps)
    if steps == 0:
        raise UserError(
            f"{corpus.sources['train']} is shorter than a batch: {len(corpus.train)} tokens, where "
            f"{size} columns of {num_steps} steps and a next word need {size * (num_steps + 1)}"
        )
    return steps


def make_optimizer(model: LM_LSTM, config: Config) -> torch.optim.Optimizer:
    """The update rule of `config`, in torch's fused form: one pass over the parameters."""
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[config.optimizer]
    return kind(model.parameters(), lr=config.learning_rate, fused=True)
