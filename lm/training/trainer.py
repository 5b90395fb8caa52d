"""Training: the steps of an epoch and the epochs of a run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from fused_lstm.engines import resolve
from lm.config import Config
from lm.errors import UserError
from lm.model import LM_LSTM, Hidden, repackage_hidden
from lm.saving import state
from lm.saving.record import Record
from lm.saving.state import Training
from lm.text.batches import Columns, steps_per_epoch
from lm.text.corpus import Corpus
from lm.training.graph import GraphedStep, Graphs
from lm.training.log import Log
from lm.training.meter import Epoch, Meter
from lm.training.optimizer import Updater
from lm.training.perplexity import perplexity, perplexity_of
from lm.training.ranks import ALONE, Ranks

LOG_LINES = 10  # an epoch
CHECK_EVERY = 50  # steps: how long a run that has diverged may go on unnoticed


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
    random generators and `steps`, `hidden`, `curve` and `meter`: what `state_dict` holds.

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
        self.ranks, self.autocast, self.device = ranks, autocast, model.sm_fc.weight.device
        lstm = model.lstm
        self.engine, self.fuse = resolve(lstm.engine, lstm.fuse, self.device, lstm.spec)
        self.epoch_steps = epoch_steps(corpus, config, ranks)
        whole = self.epoch_steps * config.epochs
        self.total_steps = min(whole, max_steps or whole)
        own = ranks.own(config.batch_size)
        self.columns = Columns(corpus.train, config.batch_size, self.device, own)
        columns = own.stop - own.start
        self._share = columns / config.batch_size
        self.updater = Updater(model, config)  # which decides how the embedding's gradient comes
        self._loss: Any = ranks.average_gradients(_Loss(model))
        flat = self._flat_step
        self._step = flat if graphs is None else GraphedStep(flat, carried=2, graphs=graphs)
        self.record, self.meter = Record(), Meter(ranks)
        self.steps = 0
        self.hidden = model.init_hidden(columns)
        self.curve: list[Epoch] = []  # of the epochs that are over
        self.seconds_before = 0.0  # of the run, before this process
        self._begin = time.perf_counter()

    @property
    def epochs_left(self) -> bool:
        """Whether an epoch is still to be read, or at least to be evaluated."""
        return len(self.curve) * self.epoch_steps < self.total_steps

    @property
    def best_step(self) -> int | None:
        """Where the epoch of the lowest validation perplexity so far ended."""
        seen = [(p.valid_perplexity, p.steps) for p in self.curve if p.valid_perplexity is not None]
        return min(seen)[1] if seen else None

    def seconds(self) -> float:
        """Wall time of the run so far, evaluation included, pauses between processes left out."""
        return self.seconds_before + time.perf_counter() - self._begin

    def step(
        self, inputs: Tensor, targets: Tensor, hidden: Hidden
    ) -> tuple[Tensor, Tensor, Hidden]:
        """Update the model once; inputs, targets [T, B].

        Returns this rank's part of the mean loss, the gradient's norm before clipping (scalars on
        the device) and the next state.
        """
        self.updater.optimizer.zero_grad()
        backward = self._backward if self.config.accumulate == 1 else self._backward_in_parts
        loss, hidden = backward(inputs, targets, repackage_hidden(hidden), self._share)
        norm = self.updater.step(len(inputs) if self.config.loss_over_time == "sum" else 1.0)
        return loss, norm, hidden

    def _backward_in_parts(
        self, inputs: Tensor, targets: Tensor, hidden: Hidden, share: float
    ) -> tuple[Tensor, Hidden]:
        """`_backward` of some columns after others: gradients and parts of the loss add up."""
        parts, losses, states = self.config.accumulate, [], []
        split = (tensor.tensor_split(parts, dim=1) for tensor in (inputs, targets, *hidden))
        for number, (x, y, h, c) in enumerate(zip(*split, strict=True), start=1):
            before, own = (h.contiguous(), c.contiguous()), share * x.shape[1] / inputs.shape[1]
            loss, after = self._backward(x, y, before, own, last=number == parts)
            losses.append(loss)
            states.append(after)
        h, c = (torch.cat(columns, dim=1) for columns in zip(*states, strict=True))
        return torch.stack(losses).sum(), (h, c)

    def _backward(
        self, inputs: Tensor, targets: Tensor, hidden: Hidden, share: float, last: bool = True
    ) -> tuple[Tensor, Hidden]:
        """Add the gradients of some columns, `share` of all ranks' batch, to what there is.

        Ranks meet in the `last` ones of a step. Returns these columns' part of the mean loss, and
        their next state.
        """
        apart = nullcontext() if last or self.ranks.size == 1 else self._loss.no_sync()
        with apart:
            with self.precision():
                nll, hidden = self._loss(inputs, targets, hidden)
            # Gradients are averaged over ranks, which may differ by a column.
            weight = share * self.ranks.size
            (nll if weight == 1 else nll * weight).backward()
        return nll.detach() * share, hidden

    def _flat_step(
        self, inputs: Tensor, targets: Tensor, h: Tensor, c: Tensor
    ) -> tuple[Tensor, ...]:
        """`step`, its state's parts one by one."""
        loss, norm, hidden = self.step(inputs, targets, (h, c))
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
            h, c = map(torch.zeros_like, self.hidden)
            self.hidden = h, c
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
            self.record.write(self.row("valid", point.valid_perplexity))
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

    def row(self, split: str, perplexity: float, **more: Any) -> dict[str, Any]:
        """A figure of `split`, "train", "valid" or "test", at the step that the run is at."""
        return {
            "step": self.steps,
            "epoch": -(-self.steps // self.epoch_steps),
            "words": self.steps * self.config.batch_size * self.config.num_steps,
            "seconds": round(self.seconds(), 3),
            "split": split,
            "perplexity": perplexity,
            "learning_rate": self.updater.rate,
            **more,
        }

    # --- what a checkpoint keeps ---

    def state_dict(self) -> Training:
        """The run as it stands between two steps, its weights apart. All ranks must ask for it."""
        self.meter.take()
        h, c = (self.ranks.whole(part, self.config.batch_size) for part in self.hidden)
        generators = state.random_state(self.ranks, self.device)
        tensors = {
            "hidden.h": h,
            "hidden.c": c,
            "losses": torch.tensor(self.meter.losses, dtype=torch.float64),
            "norms": torch.tensor(self.meter.norms, dtype=torch.float64),
            **generators.tensors,
            **state.optimizer_state(self.model, self.updater.optimizer),
        }
        facts = {
            "steps": self.steps,
            "tokens": len(self.corpus.train),
            "curve": [asdict(point) for point in self.curve],
            "words": self.meter.words,
            "training_seconds": self.meter.seconds,
            "seconds": self.seconds(),
            "bits": self.bits_depend_on(),
            **generators.facts,
        }
        return Training(tensors, facts)

    def load_state_dict(self, found: Training) -> None:
        """Go on from there; ValueError and the like say what is damaged."""
        tensors, facts, meter = found.tensors, found.facts, self.meter
        self.steps = state.fact(facts, "steps", int)
        if not isinstance(facts["curve"], list):
            raise ValueError(f"curve is {facts['curve']!r}")
        self.curve = [Epoch.restored(**point) for point in facts["curve"]]
        self.seconds_before = state.fact(facts, "seconds", float)
        for name in ("losses", "norms"):
            if tensors[name].dim() != 1 or tensors[name].dtype != torch.float64:
                raise ValueError(f"{name} is {tensors[name].dtype} {list(tensors[name].shape)}")
            setattr(meter, name, tensors[name].tolist())
        meter.words = state.fact(facts, "words", int)
        meter.seconds = state.fact(facts, "training_seconds", float)
        first = len(self.curve) * self.epoch_steps
        if not (len(meter.losses) == len(meter.norms) == self.steps >= first):
            raise ValueError(f"it is at step {self.steps}, and has {len(meter.losses)} losses")
        own = self.ranks.own(self.config.batch_size)
        h, c = tensors["hidden.h"][:, own], tensors["hidden.c"][:, own]
        state.require("hidden.h", h, self.hidden[0].shape)
        state.require("hidden.c", c, self.hidden[1].shape)
        self.hidden = h.to(self.device).contiguous(), c.to(self.device).contiguous()
        if self.steps:
            kind = self.config.optimizer
            state.set_optimizer_state(self.model, self.updater.optimizer, kind, tensors)
        state.set_random_state(found, self.ranks, self.device, seed=self.steps)

    def bits_depend_on(self) -> dict[str, Any]:
        """What must stay the same for the same bits."""
        return {
            "engine": self.engine,
            "threads": torch.get_num_threads(),
            "device": self.device.type,
            "ranks": self.ranks.size,
            "torch": torch.__version__,
        }

    # --- within an epoch ---

    def _train_step(self, number: int) -> None:
        """The step `number`, from 0, of an epoch."""
        inputs, targets = self.columns.batch(number, self.config.num_steps)
        loss, norm, h, c = self._step(inputs, targets, *self.hidden)
        self.hidden = h, c
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
        more = {"grad_norm": norm, "clip_fraction": clipped, "words_per_second": speed}
        self.record.write(self.row("train", perplexity, **more))

    def _perplexity_since(self, first: int) -> float:
        losses = self.meter.losses[first:]
        return perplexity_of(math.fsum(losses) / len(losses))


_ADVICE = "the run has diverged; try a lower --learning-rate or --max-grad-norm"


class _Loss(nn.Module):
    """The model's loss as a module's forward, which is what averages gradients over ranks."""

    def __init__(self, model: LM_LSTM) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, targets: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        return self.model.loss(inputs, targets, hidden)


def epoch_steps(corpus: Corpus, config: Config, ranks: Ranks = ALONE) -> int:
    """Training steps in an epoch; UserError, naming the text, if it is shorter than one step."""
    size, num_steps = config.batch_size, config.num_steps
    steps = steps_per_epoch(len(corpus.train), size, num_steps)
    if steps == 0:
        raise UserError(
            f"{corpus.titles['train']} is shorter than a batch: {len(corpus.train)} tokens, where "
            f"{size} columns of {num_steps} steps and a next word need {size * (num_steps + 1)}"
        )
    need = ranks.size * config.accumulate
    if size < need:
        parts = f"{ranks.size} processes" + f" of {config.accumulate} parts" * (need > ranks.size)
        raise UserError(f"--batch-size: {parts} need {need}, got {size}")
    return steps
