"""`python -m lm.train`: train a language model and say what it learned.

From top to bottom, in the order in which it happens: the command, what a run is made of, its
epochs, a step, the figures, an evaluation, a checkpoint, the end.

Legend: T time steps, B batch, H hidden size, L layers.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import fused_lstm
from lm import checkpoint, distributed
from lm.batches import Columns, evaluation_steps, steps_per_epoch
from lm.checkpoint import Checkpoint
from lm.command import UserError, run_command
from lm.data import SPLITS, Corpus, load_corpus
from lm.device import choose_engine, open_device, processor, set_precision, versions
from lm.distributed import World
from lm.evaluate import perplexity, perplexity_of
from lm.files import check_directory, check_file, to_json, write_atomically
from lm.graph import GraphedStep, check_graphs
from lm.log import Log, Record
from lm.model import LM_LSTM, Hidden, build_model, repackage_hidden
from lm.optimizer import Optimizer
from lm.settings import Config, parse, stored_options

LOG_LINES = 10  # an epoch
CHECK_EVERY = 50  # steps: how long a run that has diverged may go on unnoticed
AGREE_EVERY = 8  # steps or batches: ranks must stop at the same one
DIVERGED = "the run has diverged; try a lower --learning-rate or --max-grad-norm"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, or this process's; return the exit status."""
    return run_command("lm.train", lambda: run(argv))


def run(argv: Sequence[str] | None) -> int:
    """Train as the command line says; return the exit status."""
    args = parse(argv, checkpoint.load)
    if args.summary is not None:
        check_file(args.summary, "--summary")
    for name in ("tensorboard", "save"):
        if getattr(args, name) is not None:
            check_directory(getattr(args, name), f"--{name}")
    with only_writer(args.save, args.checkpoint), noted_signals() as signals:
        try:
            Trainer(args, signals).run()
        except Stopped as stopped:
            message, status = stopped.args
            if distributed.rank() == 0:
                print(f"lm.train: {message}", file=sys.stderr)
            return status
    return 0


@contextlib.contextmanager
def only_writer(directory: Path | None, resumed: Checkpoint | None) -> Iterator[None]:
    """Let no other run write to `directory`; remove what a killed one left half written.

    Raises UserError where another run has it, or has left its checkpoints there.
    """
    if directory is None or distributed.rank() > 0:
        yield
        return
    try:
        lock = FileLock(directory / ".lock").acquire(blocking=False)
    except Timeout:
        raise UserError(f"--save: another run is writing to '{directory}'") from None
    with lock:
        paths = checkpoint.all_in(directory)
        if resumed is None and paths:
            raise UserError(f"--save: '{directory}' holds another run; --resume goes on there")
        if resumed is not None and paths[-1] != resumed.path:
            raise UserError(
                f"--resume: '{resumed.path}' is not the newest: going on from it would remove "
                f"{paths[-1].name}; copy it to a directory of its own"
            )
        for temporary in directory.glob(".*.tmp"):
            temporary.unlink(missing_ok=True)
        yield


class Stopped(Exception):
    """The run was told to stop; its arguments are what it says and the status to exit with."""


@contextlib.contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Only note SIGTERM and the first Ctrl-C; a second Ctrl-C interrupts at once."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Loss(nn.Module):
    """The model's loss as a module's forward, which is what averages gradients over ranks."""

    def __init__(self, model: LM_LSTM) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, targets: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        return self.model.loss(inputs, targets, hidden)


class Trainer:
    """A run. `args` is `lm.settings.parse`'s namespace, `signals` is filled by `noted_signals`.

    Between two steps everything that the next one depends on is in the model, the optimizer, the
    random generators and `step`, `hidden`, `losses`, `norms` and `curve`: what `save` keeps.

    Raises UserError for what cannot be trained.
    """

    def __init__(self, args: argparse.Namespace, signals: Sequence[int] = ()) -> None:
        config: Config = args.config
        self.args, self.config, self.signals = args, config, signals

        # The machine.
        if args.threads is not None:
            torch.set_num_threads(args.threads)
        if args.precision is not None:
            set_precision(args.precision)
        self.device = open_device(args.device, int(os.environ.get("LOCAL_RANK", "0")))
        self.engine, self.fuse = choose_engine(config, args.lstm, args.fuse, self.device)
        self.world = distributed.join(self.device)
        self.log = Log(silent=self.world.rank > 0)

        # The text, and this rank's columns of it.
        self.corpus = load_corpus(args.data)
        self.text = self.corpus.digest()
        self.epoch_steps = epoch_steps(self.corpus, config, self.world)
        self.total_steps = min(self.epoch_steps * config.epochs, args.max_steps or sys.maxsize)
        self.step_words = config.batch_size * config.num_steps
        part = self.world.columns(config.batch_size)
        self.share = (part.stop - part.start) / config.batch_size
        self.columns = Columns(self.corpus.train, config.batch_size, self.device, part)

        # The model, drawn on the CPU: the same weights everywhere.
        torch.manual_seed(args.seed)
        model = build_model(config, len(self.corpus.vocabulary), args.lstm, args.fuse)
        dtype = torch.float64 if args.dtype == "float64" else torch.float32
        self.model = model.to(self.device, dtype)
        self.optimizer = Optimizer(model, config)  # decides how the embedding's gradient comes
        self.loss: Any = Loss(model)
        if self.world.size > 1:
            self.loss = DistributedDataParallel(self.loss, gradient_as_bucket_view=True)
        self.world.seed(args.seed)  # each rank drops units of its own
        self.update: Callable[..., tuple[Tensor, ...]] = self.train_step
        if args.cuda_graph:
            check_graphs(self.device, self.world.size)
            self.update = GraphedStep(self.train_step, carried=2)

        # Where the run is.
        self.step = 0
        self.hidden: tuple[Tensor, ...] = model.init_hidden(part.stop - part.start)
        self.losses: list[float] = []  # of each step, over all ranks: nats a word
        self.norms: list[float] = []  # of each step's gradient, before it was clipped
        self.unread: list[tuple[Tensor, Tensor]] = []  # the same of the last steps, on the device
        self.curve: list[dict[str, Any]] = []  # a point for each epoch that is over
        self.last_point: dict[str, Any] = {}  # the newest, of an epoch that was cut short too
        self.words, self.words_seconds = 0, 0.0  # of training, without each process's first step
        self.unread_words, self.since = 0, 0.0  # what is not in them yet, and since when
        self.seconds_before, self.begun = 0.0, time.perf_counter()  # of all processes of the run
        self.saved: tuple[int, int] | None = None  # position() of the newest checkpoint
        self.saved_at, self.polls = time.monotonic(), 0

        self.print_header()
        if args.checkpoint is not None:
            self.restore(args.checkpoint)
        self.first_step = self.step
        self.record = Record()
        if self.world.rank == 0:
            settings = stored_options(args)
            self.record = Record(args.save, args.tensorboard, args.wandb, settings, self.step)

    def print_header(self) -> None:
        """Print what is about to run, on what."""
        args, config, corpus, field = self.args, self.config, self.corpus, self.log.field
        threads, library = torch.get_num_threads(), versions()
        sizes = ", ".join(f"{len(getattr(corpus, split)):,} {split}" for split in SPLITS)
        unknown = ", ".join(f"{count:,} {split}" for split, count in corpus.unknown.items())
        level = "" if self.fuse is None else f", fuse {self.fuse}"
        precision = "" if args.precision is None else f", precision {args.precision}"
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        field("machine", f"{processor(self.device)}, {threads} thread{'s' * (threads > 1)}, torch "
              f"{library['torch_version']}, triton {library['triton_version']}")  # fmt: skip
        engine = fused_lstm.describe_engine(self.engine, self.device)
        field("engine", f"{self.engine}{level}: {engine}")
        field("data", f"{corpus.name}: {sizes} tokens, {len(corpus.vocabulary):,} words")
        field("unknown", f"{unknown} tokens outside the vocabulary")
        field("model", f"{config.num_layers} x {config.hidden_size} units, {parameters:,} "
              f"parameters, {args.dtype}{precision} on {self.device}")  # fmt: skip
        field("training", f"{args.preset}: {config.epochs} epochs of {self.epoch_steps:,} steps, "
              f"{config.num_steps} x {config.batch_size} words each")  # fmt: skip

    # --- the epochs ---

    def run(self) -> None:
        """Train to the end, with an evaluation and a checkpoint after every epoch."""
        words, total = self.step * self.step_words, self.total_steps * self.step_words
        try:
            with self.log.bar("train", total, words):
                while len(self.curve) * self.epoch_steps < self.total_steps:
                    self.train_epoch()
                    self.evaluate_epoch()
                    if self.position() != self.saved:
                        self.save()
                    if len(self.curve) * self.epoch_steps < self.step:
                        break  # --max-steps cut the epoch short: it may still go on
                self.finish()
        except UserError as error:
            paths = checkpoint.all_in(self.args.save) if self.args.save is not None else []
            raise UserError(f"{error}{f'; {paths[-1]} is kept' if paths else ''}") from None
        finally:
            self.record.close()
        if self.world.size > 1:
            torch.distributed.destroy_process_group()

    def train_epoch(self) -> None:
        """Read the training text, from where the run is, to its end or the run's last step."""
        epoch = len(self.curve)
        first = epoch * self.epoch_steps
        last = min(first + self.epoch_steps, self.total_steps)
        marks = [first + math.ceil(self.epoch_steps * n / LOG_LINES) for n in range(LOG_LINES + 1)]
        save_every = self.args.save_every_steps or self.epoch_steps
        self.optimizer.set_rate(self.config.learning_rate_at(epoch))
        self.log.line(f"Epoch: {epoch + 1} Learning rate: {self.optimizer.rate:.4g}")
        self.model.train()
        self.since = time.perf_counter()
        if self.step == first:
            self.hidden = tuple(map(torch.zeros_like, self.hidden))
        while self.step < last:
            inputs, targets = self.columns.batch(self.step - first, self.config.num_steps)
            loss, norm, *hidden = self.update(inputs, targets, *self.hidden)
            self.hidden = tuple(hidden)
            self.unread.append((loss, norm))
            self.step += 1
            self.unread_words += self.step_words
            self.log.advance(self.step_words)
            if self.step == self.first_step + 1:  # in it engines compile and allocate: not timed
                self.read()
                self.unread_words, self.since = 0, time.perf_counter()
            if self.step in marks or self.step == last:
                self.report(first, max(mark for mark in marks if mark < self.step))
            elif self.step % CHECK_EVERY == 0:
                self.read()
            self.poll()
            # At an epoch's end the save that holds its evaluation is about to come.
            if self.step % save_every == 0 and self.step % self.epoch_steps:
                self.save()

    def train_step(self, inputs: Tensor, targets: Tensor, h: Tensor, c: Tensor) -> tuple:
        """Update the model once; return its loss, norm, h and c, as `train_step` has them."""
        loss, norm, hidden = train_step(
            self.loss, self.optimizer, self.config, inputs, targets, (h, c),
            self.autocast(), self.share, self.world,
        )  # fmt: skip
        return loss, norm, *hidden

    def autocast(self) -> torch.autocast:
        """Return the context in which the model computes."""
        enabled = self.args.dtype == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    # --- the figures ---

    def read(self) -> None:
        """Wait for the device and the other ranks; bring `losses` and `norms` up to date.

        Raises UserError, naming the step, if one is not finite.
        """
        if not self.unread:
            return
        losses, norms = map(torch.stack, zip(*self.unread, strict=True))
        self.unread = []
        for loss, norm in zip(self.world.sum(losses).tolist(), norms.tolist(), strict=True):
            self.losses.append(loss)
            self.norms.append(norm)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                what = "gradient" if math.isfinite(loss) else "loss"
                raise UserError(
                    f"the {what} of step {len(self.losses)} is not finite (loss {loss:.4g}, "
                    f"gradient norm {norm:.4g}): {DIVERGED}"
                )

    def speed(self) -> float | None:
        """Return words per second since the last call, None if no step was timed."""
        words, now = self.unread_words, time.perf_counter()
        seconds, self.unread_words, self.since = now - self.since, 0, now
        if words == 0:
            return None
        self.words, self.words_seconds = self.words + words, self.words_seconds + seconds
        return words / seconds

    def seconds(self) -> float:
        """Return wall time of the run, evaluation included, pauses between processes left out."""
        return self.seconds_before + time.perf_counter() - self.begun

    def train_perplexity(self) -> float:
        """Return the perplexity of the epoch so far."""
        losses = self.losses[len(self.curve) * self.epoch_steps :]
        return finite(perplexity_of(math.fsum(losses) / len(losses)), "train")

    def report(self, first: int, since: int) -> None:
        """Print and record a line about the steps since the step `since`."""
        self.read()
        speed, norms, value = self.speed(), self.norms[since:], self.train_perplexity()
        norm = math.fsum(norms) / len(norms)
        clipped = sum(n > self.config.max_grad_norm for n in norms) / len(norms)
        self.log.line(
            f"{(self.step - first) / self.epoch_steps:.3f} perplexity: {value:.3f}"
            f"{'' if speed is None else f' speed: {speed:.0f} wps'}"
            f" gradient norm: {norm:.3g}, {clipped:.0%} clipped"
        )
        self.write("train", value, grad_norm=norm, clip_fraction=clipped, words_per_second=speed)

    def write(self, split: str, perplexity: float, **more: Any) -> None:
        """Record a perplexity at the step that the run is at."""
        epoch, words = -(-self.step // self.epoch_steps), self.step * self.step_words
        row = {"step": self.step, "epoch": epoch, "words": words, "split": split}
        row |= {"seconds": round(self.seconds(), 3), "perplexity": perplexity}
        self.record.write(row | {"learning_rate": self.optimizer.rate} | more)

    # --- evaluation ---

    def evaluate_epoch(self) -> None:
        """Add a point to the curve, unless --max-steps has cut the epoch short."""
        point: dict[str, Any] = {
            "epoch": len(self.curve) + 1, "steps": self.step, "learning_rate": self.optimizer.rate,
            "train_perplexity": self.train_perplexity(), "valid_perplexity": None,
        }  # fmt: skip
        name = f"Epoch: {point['epoch']}"
        self.log.line(f"{name} Train perplexity: {point['train_perplexity']:.3f}")
        if self.args.eval:
            point["valid_perplexity"] = value = self.evaluate("valid")
            self.log.line(f"{name} Valid perplexity: {value:.3f}")
            self.write("valid", value)
        self.last_point = point
        if self.step == point["epoch"] * self.epoch_steps:
            self.curve.append(point)

    def evaluate(self, split: str) -> float:
        """Return the perplexity of the "valid" or "test" text, with its batch size."""
        config, ids = self.config, getattr(self.corpus, split)
        size = config.eval_batch_size if split == "valid" else config.test_batch_size
        words = size * config.num_steps

        def after_batch() -> None:
            self.log.advance(words)
            self.poll()

        steps = evaluation_steps(len(ids), size, config.num_steps)
        with self.autocast(), self.log.bar(split, steps * words):
            return finite(perplexity(self.model, ids, size, self.world, after_batch), split)

    # --- checkpoints ---

    def poll(self) -> None:
        """Between two batches: save if time is up; save and raise Stopped if a signal has come."""
        self.polls += 1
        if self.world.size > 1 and self.polls % AGREE_EVERY:
            return
        number = self.signals[0] if self.signals else 0
        minutes = self.args.save_every_minutes
        due = minutes is not None and time.monotonic() - self.saved_at > minutes * 60
        if self.world.size > 1:
            number, due = map(max, zip(*self.world.gather((number, due)), strict=True))
        if due or (number and self.args.save is not None):
            self.save()
        if number == 0:
            return
        what = "interrupted" if number == signal.SIGINT else "stopped by SIGTERM"
        what += f" after step {self.step}"
        if self.args.save is None:
            raise Stopped(f"{what}; nothing is kept without --save", 128 + number)
        status = 128 + number if number == signal.SIGINT else 0  # told to end, it ended well
        raise Stopped(f"{what}; --resume {self.args.save} goes on", status)

    def position(self) -> tuple[int, int]:
        """Return what tells this moment's checkpoint from another's."""
        return self.step, len(self.curve)

    def save(self) -> None:
        """Write a checkpoint, if the run keeps any; all ranks must call it."""
        self.saved_at = time.monotonic()
        if self.args.save is None:
            return
        self.read()  # what has diverged must not take a good checkpoint's place
        self.speed()
        h, c = zip(*self.world.gather([part.cpu() for part in self.hidden]), strict=True)
        tensors = {
            "hidden.h": torch.cat(h, dim=1),
            "hidden.c": torch.cat(c, dim=1),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "norms": torch.tensor(self.norms, dtype=torch.float64),
            **checkpoint.model_tensors(self.model),
            **checkpoint.optimizer_tensors(self.model, self.optimizer.base),
        }
        for name, generator in self.generators().items():
            states = self.world.gather(generator.get_rng_state().cpu())
            tensors[f"random.{name}"] = torch.stack(states)
        state = {
            "text": self.text, "curve": self.curve, "words": self.words,
            "words_seconds": self.words_seconds, "seconds": self.seconds(),
            "bits": self.bits_depend_on(),
        }  # fmt: skip
        if self.world.rank == 0:
            seen = [point for point in self.curve if point["valid_perplexity"] is not None]
            best = min(seen, key=lambda point: point["valid_perplexity"], default={"steps": None})
            path = checkpoint.save(
                self.args.save, self.step, best["steps"], stored_options(self.args),
                self.corpus.vocabulary, tensors, state,
            )  # fmt: skip
            self.log.line(f"Saved {path}")
        self.saved, self.since = self.position(), time.perf_counter()

    def generators(self) -> dict[str, Any]:
        """Return what has a random generator's state: PyTorch's, and that of its device."""
        if self.device.type == "cpu":
            return {"cpu": torch}
        return {"cpu": torch, self.device.type: torch.get_device_module(self.device)}

    def bits_depend_on(self) -> dict[str, Any]:
        """Return what must stay the same for the same bits."""
        return {
            "engine": self.engine, "threads": torch.get_num_threads(), "device": self.device.type,
            "ranks": self.world.size, "torch": torch.__version__,
        }  # fmt: skip

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint; raise UserError where it is of another text, or damaged."""
        tensors, state = saved.tensors, saved.state
        part = self.world.columns(self.config.batch_size)
        with checkpoint.reporting_damage(saved.path):
            text = state["text"]
        if text != self.text:
            raise UserError(f"--data: '{self.corpus.name}' is not the text of {saved.path}")
        with checkpoint.reporting_damage(saved.path):
            saved.load_into(self.model)
            checkpoint.load_optimizer(self.model, self.optimizer.base, tensors)
            self.step, self.curve = saved.step, state["curve"]
            self.losses, self.norms = tensors["losses"].tolist(), tensors["norms"].tolist()
            if not len(self.losses) == len(self.norms) == self.step:
                raise ValueError(f"it is at step {self.step}, and has {len(self.losses)} losses")
            self.words, self.words_seconds = state["words"], state["words_seconds"]
            self.seconds_before, before = state["seconds"], state["bits"]
            h, c = (tensors[f"hidden.{name}"][:, part].to(self.device) for name in "hc")
            self.hidden = h.contiguous(), c.contiguous()
            for name, generator in self.generators().items():
                states = tensors.get(f"random.{name}", ())
                if self.world.rank < len(states):  # a rank that was not there yet has its seed
                    # A copy: PyTorch reads a state from its storage's beginning.
                    generator.set_rng_state(states[self.world.rank].clone())
            now = self.bits_depend_on()
            differences = [f"{name} {now[name]}, was {before[name]}" for name in now
                           if now[name] != before[name]]  # fmt: skip
        self.last_point, self.saved = self.curve[-1] if self.curve else {}, self.position()
        self.log.field("resumed", f"{saved.path}, after step {self.step}")
        for change in self.args.changed:
            self.log.field("changed", change)
        if differences:
            self.log.field("note", f"not the same bits: {', '.join(differences)}")
        if self.step >= self.total_steps:
            self.log.field("note", f"step {self.step} of {self.total_steps}: nothing is left to "
                           "train; more --epochs or --max-steps go on")  # fmt: skip

    # --- the end ---

    def finish(self) -> None:
        """Test the model, say how it did, and write the run's figures."""
        args, corpus, point = self.args, self.corpus, self.last_point
        speed = self.words / self.words_seconds if self.words else None
        unigram = corpus.unigram_perplexity()
        test = self.evaluate("test") if args.eval else None
        if speed is not None:
            self.log.line(f"Speed: {speed:.0f} words per second of training, first step left out")
        if test is not None:
            self.write("test", test)
            self.log.line(
                f"Test perplexity: {test:.3f}, {test / unigram:.2f} of the {unigram:.3f} of word"
                " frequencies alone (unigram)"
            )
        summary: dict[str, Any] = {
            "engine": self.engine, "fuse": self.fuse, "preset": args.preset, "data": corpus.name,
            "device": str(self.device), "dtype": args.dtype, "precision": args.precision,
            "vocab_size": len(corpus.vocabulary), "steps": self.step, "words_per_second": speed,
            "train_perplexity": point["train_perplexity"],
            "valid_perplexity": point["valid_perplexity"],
            "test_perplexity": test, "unigram_perplexity": unigram, **versions(),
            "processor": processor(self.device), "threads": torch.get_num_threads(),
            "processes": self.world.size, "seed": args.seed, "config": asdict(self.config),
            "curve": self.curve if point in self.curve else [*self.curve, point],
        }  # fmt: skip
        if args.max_steps is not None:
            summary["losses"] = self.losses
        if args.summary is not None and self.world.rank == 0:
            write_atomically(args.summary, to_json(summary))


def epoch_steps(corpus: Corpus, config: Config, world: World) -> int:
    """Return the training steps in an epoch; UserError where text or batch are too small."""
    size, steps = config.batch_size, config.num_steps
    count = steps_per_epoch(len(corpus.train), size, steps)
    if count == 0:
        raise UserError(
            f"{corpus.titles['train']} is shorter than a batch: got {len(corpus.train)} tokens; "
            f"{size} columns of {steps} steps and a next word need {size * (steps + 1)}"
        )
    if size < world.size * config.accumulate:
        raise UserError(f"--batch-size: got {size}; expected at least one for each of "
                        f"{world.size} processes' {config.accumulate} parts")  # fmt: skip
    return count


def finite(perplexity: float, split: str) -> float:
    """Return a perplexity; raise UserError if it is not finite."""
    if not math.isfinite(perplexity):
        raise UserError(f"the {split} perplexity is not finite: {DIVERGED}")
    return perplexity


def train_step(
    loss: Any, optimizer: Optimizer, config: Config, inputs: Tensor, targets: Tensor,
    hidden: Hidden, autocast: Any = None, share: float = 1.0, world: World | None = None,
) -> tuple[Tensor, Tensor, Hidden]:  # fmt: skip
    """Update the model once.

    Args:
        loss: (inputs, targets, hidden) -> (mean loss, next state), such as `LM_LSTM.loss`.
        inputs, targets: int64 [T, B]; hidden: (h, c), [L, B, H].
        autocast: the context in which the model computes.
        share: these columns' part of all ranks' batch.
        world: the ranks, which meet once a step.

    Returns this rank's part of the mean loss, the gradient's norm before clipping, scalars on the
    device, and the next state.
    """
    optimizer.base.zero_grad()
    world_size = 1 if world is None else world.size
    tensors = (inputs, targets, *repackage_hidden(hidden))
    parts: Any = [tensors]
    if config.accumulate > 1:
        parts = zip(*(t.tensor_split(config.accumulate, dim=1) for t in tensors), strict=True)
    losses, states = [], []
    for number, (x, y, h, c) in enumerate(parts, start=1):
        last = number == config.accumulate
        with nullcontext() if last or world_size == 1 else loss.no_sync():
            with autocast or nullcontext():
                nll, state = loss(x, y, (h.contiguous(), c.contiguous()))
            part = share * x.shape[1] / inputs.shape[1]
            # Gradients are averaged over ranks, which may differ by a column.
            (nll if part * world_size == 1 else nll * (part * world_size)).backward()
        losses.append(nll.detach() * part)
        states.append(state)
    norm = optimizer.step(len(inputs) if config.loss_over_time == "sum" else 1.0)
    if config.accumulate == 1:
        return losses[0], norm, states[0]
    h, c = (torch.cat(columns, dim=1) for columns in zip(*states, strict=True))
    return torch.stack(losses).sum(), norm, (h, c)


if __name__ == "__main__":
    distributed.leave(main())
