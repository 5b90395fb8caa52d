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
from tqdm import tqdm
from tqdm.contrib import DummyTqdmFile

import fused_lstm
from lm import checkpoint, distributed
from lm.batches import columns, evaluation_steps, steps_per_epoch
from lm.checkpoint import Checkpoint
from lm.command import UserError, command
from lm.data import SPLITS, load_corpus
from lm.device import (
    choose_engine,
    instructions,
    open_device,
    processor,
    set_precision,
    versions,
)
from lm.evaluate import perplexity, perplexity_of
from lm.files import check_file, to_json, write_atomically
from lm.graph import GraphedStep, check_graphs
from lm.log import Record
from lm.model import LM_LSTM, Hidden, build_model
from lm.optimizer import Optimizer
from lm.settings import Config, flag, parse

LOG_LINES = 10  # an epoch
AGREE_EVERY = 8  # steps or batches: ranks must stop at the same one


@command("lm.train")
def main(argv: Sequence[str] | None = None) -> None:
    """Train as the command line `argv` says, or this process's; return the exit status."""
    args = parse(argv, checkpoint.load)
    if args.summary is not None:
        check_file(args.summary, "--summary")
    with (
        only_writer(args.save, args.checkpoint),
        noted_signals() as signals,
        fused_lstm.flush_denormals(),
    ):
        Trainer(args, signals).run()


@contextlib.contextmanager
def only_writer(directory: Path | None, resumed: Checkpoint | None) -> Iterator[None]:
    """Let no other run write to `directory`; remove what a killed one left half written.

    Raises UserError where another run has it, or has left its checkpoints there.
    """
    if directory is None or distributed.rank() > 0:
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
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


@contextlib.contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Note SIGTERM and the first Ctrl-C, and no more; a second Ctrl-C interrupts at once."""
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


def stderr_above() -> contextlib.AbstractContextManager[Any]:
    """Let what a library prints meanwhile, such as a warning, go above the progress bar."""
    if not sys.stderr.isatty():
        return nullcontext()
    above: Any = DummyTqdmFile(sys.stderr)
    return contextlib.redirect_stderr(above)


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

        # The text, and this rank's columns of it.
        self.corpus = load_corpus(args.data)
        self.digest = self.corpus.digest()
        tokens, size = len(self.corpus.train), config.batch_size
        self.epoch_steps = steps_per_epoch(tokens, size, config.num_steps)
        if self.epoch_steps == 0:
            raise UserError(f"--batch-size: got {size}; a text of {tokens:,} tokens is too short "
                            f"for as many columns of --num-steps {config.num_steps}")  # fmt: skip
        if size < self.world.size * config.accumulate:
            raise UserError(f"--batch-size: got {size}; expected at least one column for each of "
                            f"{self.world.size} processes' {config.accumulate} parts")  # fmt: skip
        self.total_steps = min(self.epoch_steps * config.epochs, args.max_steps or sys.maxsize)
        self.step_words = config.batch_size * config.num_steps
        part = self.world.columns(size)
        self.text = columns(self.corpus.train, size)[:, part].to(self.device)

        # The model, drawn on the CPU: the same weights everywhere.
        torch.manual_seed(args.seed)
        model = build_model(config, len(self.corpus.vocabulary), args.lstm, args.fuse)
        dtype = torch.float64 if args.dtype == "float64" else torch.float32
        self.model = model.to(self.device, dtype)
        bfloat16 = args.dtype == "bfloat16"
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16)
        self.optimizer = Optimizer(model, config)  # decides how the embedding's gradient comes
        self.loss: Any = Loss(model)
        if self.world.size > 1:
            self.loss = DistributedDataParallel(self.loss, gradient_as_bucket_view=True)
        if self.world.rank > 0:  # each rank drops units of its own
            torch.manual_seed(args.seed + self.world.rank)
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
        self.words, self.words_seconds = 0, 0.0  # of training, without each process's first step
        self.seconds_before, self.begun = 0.0, time.perf_counter()  # of all processes of the run
        self.saved: tuple[int, int] | None = None  # step and epochs of the newest checkpoint
        self.saved_at, self.polls = time.monotonic(), 0
        self.print_header()
        if args.checkpoint is not None:
            self.restore(args.checkpoint)
        self.first_step = self.step
        self.start_clock()
        self.record = Record()
        if self.world.rank == 0:
            self.record = Record(args.save, args.tensorboard, args.wandb, args.options, self.step)
        words = self.total_steps * self.step_words
        self.train_bar = self.bar("train", words, self.step * self.step_words)

    def say(self, text: str) -> None:
        """Print a line, at once and above the progress bar; of several ranks one speaks."""
        if self.world.rank == 0:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def print_header(self) -> None:
        """Print what is about to run, on what."""
        args, config, corpus = self.args, self.config, self.corpus
        threads, library = torch.get_num_threads(), versions()
        engine = fused_lstm.describe_engine(self.engine, self.device)
        sizes = ", ".join(f"{len(getattr(corpus, split)):,} {split}" for split in SPLITS)
        unknown = ", ".join(f"{count:,} {split}" for split, count in corpus.unknown.items())
        level = "" if self.fuse is None else f", fuse {self.fuse}"
        precision = "" if args.precision is None else f", precision {args.precision}"
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.say(
            f"machine   {processor(self.device)}, {threads} thread{'s' * (threads > 1)}, torch "
            f"{library['torch_version']}, triton {library['triton_version']}\n"
            f"engine    {self.engine}{level}: {engine}\n"
            f"data      {corpus.name}: {sizes} tokens, {len(corpus.vocabulary):,} words\n"
            f"unknown   {unknown} tokens outside the vocabulary\n"
            f"model     {config.num_layers} x {config.hidden_size} units, {parameters:,} "
            f"parameters, {args.dtype}{precision} on {self.device}\n"
            f"training  {args.preset}: {config.epochs} epochs of {self.epoch_steps:,} steps, "
            f"{config.num_steps} x {config.batch_size} words each"
        )

    # --- the epochs ---

    def run(self) -> None:
        """Train to the end, with an evaluation and a checkpoint after every epoch."""
        point = self.curve[-1] if self.curve else {}
        try:
            with self.train_bar, stderr_above():
                while len(self.curve) * self.epoch_steps < self.total_steps:
                    self.train_epoch()
                    point = self.evaluate_epoch()
                    if self.step < point["epoch"] * self.epoch_steps:
                        self.save()
                        break  # --max-steps cut the epoch short: it may still go on
                    self.curve.append(point)
                    self.save()
                self.finish(point)
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
        self.say(f"Epoch: {epoch + 1} Learning rate: {self.optimizer.rate:.4g}")
        self.model.train()
        if self.step == first:
            self.hidden = tuple(map(torch.zeros_like, self.hidden))
        self.start_clock()
        while self.step < last:
            inputs, targets = self.batch(self.step - first)
            loss, norm, *hidden = self.update(inputs, targets, *self.hidden)
            self.hidden = tuple(hidden)
            self.unread.append((loss, norm))
            self.step += 1
            self.train_bar.update(self.step_words)
            if self.step == self.first_step + 1:  # in it engines compile and allocate: not timed
                self.read()
                self.start_clock()
            if self.step in marks or self.step == last:
                self.report(first, max(mark for mark in marks if mark < self.step))
            self.poll()
            # At an epoch's end the save that holds its evaluation is about to come.
            if self.step % save_every == 0 and self.step % self.epoch_steps:
                self.save()

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Return (inputs, targets), int64 [T, B], of an epoch's training step `number`, from 0."""
        start = number * self.config.num_steps
        rows = self.text[start : start + self.config.num_steps + 1].long()
        return rows[:-1], rows[1:]

    def train_step(self, inputs: Tensor, targets: Tensor, h: Tensor, c: Tensor) -> tuple:
        """Update the model once.

        Args:
            inputs, targets: this rank's columns, int64 [T, B].
            h, c: the state before them, [L, B, H].

        Returns this rank's part of the mean loss, the gradient's norm before clipping, scalars on
        the device, and the next h and c.
        """
        parts, ranks = self.config.accumulate, self.world.size
        columns = [t.detach().tensor_split(parts, dim=1) for t in (inputs, targets, h, c)]
        losses, states = [], []
        self.optimizer.base.zero_grad()
        for number, (x, y, h, c) in enumerate(zip(*columns, strict=True), start=1):
            share = x.shape[1] / self.config.batch_size
            # Ranks wait for each other's gradients in the last part alone.
            with nullcontext() if number == parts or ranks == 1 else self.loss.no_sync():
                with self.autocast:
                    loss, state = self.loss(x, y, (h.contiguous(), c.contiguous()))
                (loss * (share * ranks)).backward()  # gradients are averaged over ranks
            losses.append(loss.detach() * share)
            states.append(state)
        over_time = len(inputs) if self.config.loss_over_time == "sum" else 1.0
        norm = self.optimizer.step(over_time)
        h, c = (torch.cat(part, dim=1) for part in zip(*states, strict=True))
        return torch.stack(losses).sum(), norm, h, c

    def bar(self, name: str, words: int, done: int = 0) -> tqdm:
        """Return a bar of how many words are read, how fast, and the time left, on a terminal."""
        return tqdm(
            desc=name, total=words, initial=done, unit=" words", unit_scale=True,
            dynamic_ncols=True, file=sys.__stderr__, leave=name == "train",
            disable=None if self.world.rank == 0 else True,
        )  # fmt: skip

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
                raise UserError(
                    f"step {len(self.losses)} is not finite (loss {loss:.4g}, gradient norm "
                    f"{norm:.4g}): the run has diverged; try a lower --learning-rate or "
                    "--max-grad-norm"
                )

    def start_clock(self) -> None:
        """Count words and seconds of training from now on."""
        self.clock_step, self.clock = self.step, time.perf_counter()

    def speed(self) -> float | None:
        """Return words per second since the clock was started, and start it again."""
        words = (self.step - self.clock_step) * self.step_words
        seconds = time.perf_counter() - self.clock
        self.start_clock()
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
        return perplexity_of(math.fsum(losses) / len(losses))

    def report(self, first: int, since: int) -> None:
        """Print and record a line about the steps since the step `since`."""
        self.read()
        speed, norms, value = self.speed(), self.norms[since:], self.train_perplexity()
        norm = math.fsum(norms) / len(norms)
        clipped = sum(n > self.config.max_grad_norm for n in norms) / len(norms)
        self.say(
            f"{(self.step - first) / self.epoch_steps:.3f} perplexity: {value:.3f}"
            f"{'' if speed is None else f' speed: {speed:.0f} wps'}"
            f" gradient norm: {norm:.3g}, {clipped:.0%} clipped"
        )
        self.write("train", value, grad_norm=norm, clip_fraction=clipped, words_per_second=speed)

    def write(self, split: str, perplexity: float, **more: float | None) -> None:
        """Record a perplexity at the step that the run is at."""
        epoch, words = -(-self.step // self.epoch_steps), self.step * self.step_words
        row = {"step": self.step, "epoch": epoch, "words": words, "split": split}
        row |= {"seconds": round(self.seconds(), 3), "perplexity": perplexity}
        self.record.write(row | {"learning_rate": self.optimizer.rate} | more)

    # --- evaluation ---

    def evaluate_epoch(self) -> dict[str, Any]:
        """Return the curve's point at this step."""
        point: dict[str, Any] = {
            "epoch": len(self.curve) + 1, "steps": self.step, "learning_rate": self.optimizer.rate,
            "train_perplexity": self.train_perplexity(), "valid_perplexity": None,
        }  # fmt: skip
        name = f"Epoch: {point['epoch']}"
        self.say(f"{name} Train perplexity: {point['train_perplexity']:.3f}")
        if self.args.eval:
            point["valid_perplexity"] = value = self.evaluate("valid")
            self.say(f"{name} Valid perplexity: {value:.3f}")
            self.write("valid", value)
        return point

    def evaluate(self, split: str) -> float:
        """Return the perplexity of the "valid" or "test" text, with its batch size."""
        config, ids = self.config, getattr(self.corpus, split)
        size = config.eval_batch_size if split == "valid" else config.test_batch_size
        words = size * config.num_steps
        steps = evaluation_steps(len(ids), size, config.num_steps)
        with self.autocast, self.bar(split, steps * words) as bar:

            def after_batch() -> None:
                bar.update(words)
                self.poll()

            value = perplexity(self.model, ids, size, self.world, after_batch)
        self.train_bar.unpause()  # its time left is that of training
        return value

    # --- checkpoints ---

    def poll(self) -> None:
        """Save if time is up; save and exit if a signal has come; called between two batches."""
        self.polls += 1
        if self.world.size > 1 and self.polls % AGREE_EVERY:
            return
        number = self.signals[0] if self.signals else 0
        minutes = self.args.save_every_minutes
        due = minutes is not None and time.monotonic() - self.saved_at > minutes * 60
        if self.world.size > 1:
            number, due = map(max, zip(*self.world.gather((number, due)), strict=True))
        if due or number:
            self.save()
        if number == 0:
            return
        kept = self.args.save is not None
        after = f"--resume {self.args.save} goes on" if kept else "nothing is kept without --save"
        what = "interrupted" if number == signal.SIGINT else "stopped by SIGTERM"
        if self.world.rank == 0:
            print(f"lm.train: {what} after step {self.step}; {after}", file=sys.stderr)
        # Told to end, a run that is kept has ended well.
        sys.exit(0 if kept and number == signal.SIGTERM else 128 + number)

    def save(self) -> None:
        """Write a checkpoint, if the run keeps any and this one is not there; on all ranks."""
        self.saved_at = time.monotonic()
        position = self.step, len(self.curve)
        if self.args.save is None or position == self.saved:
            return
        self.read()  # what has diverged must not take a good checkpoint's place
        self.speed()
        h, c = zip(*self.world.gather([part.cpu() for part in self.hidden]), strict=True)
        tensors = {
            "hidden.h": torch.cat(h, dim=1),
            "hidden.c": torch.cat(c, dim=1),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "norms": torch.tensor(self.norms, dtype=torch.float64),
            **{f"model.{name}": tensor for name, tensor in self.model.state_dict().items()},
            **checkpoint.optimizer_tensors(self.model, self.optimizer.base),
        }
        for name, generator in self.generators().items():
            states = self.world.gather(generator.get_rng_state().cpu())
            tensors[f"random.{name}"] = torch.stack(states)
        state = {
            "text": self.digest, "curve": self.curve, "words": self.words,
            "words_seconds": self.words_seconds, "seconds": self.seconds(),
            "bits": self.bits_depend_on(),
        }  # fmt: skip
        if self.world.rank == 0:
            seen = [point for point in self.curve if point["valid_perplexity"] is not None]
            best = min(seen, key=lambda point: point["valid_perplexity"], default={"steps": None})
            path = checkpoint.save(
                self.args.save, self.step, best["steps"], self.args.options,
                self.corpus.vocabulary, tensors, state,
            )  # fmt: skip
            self.say(f"Saved {path}")
        self.saved = position
        self.start_clock()

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
            "instructions": instructions(),
        }  # fmt: skip

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint; raise UserError where it is of another text."""
        state = saved.state
        if state["text"] != self.digest:
            raise UserError(f"--data: '{self.corpus.name}' is not the text of {saved.path}")
        saved.load_into(self.model)
        checkpoint.load_optimizer(self.model, self.optimizer.base, saved.tensors)
        self.step, self.curve = saved.step, state["curve"]
        self.saved = self.step, len(self.curve)
        self.losses, self.norms = (saved.tensor(name).tolist() for name in ("losses", "norms"))
        self.words, self.words_seconds = state["words"], state["words_seconds"]
        self.seconds_before = state["seconds"]
        part = self.world.columns(self.config.batch_size)
        h, c = (saved.tensor(f"hidden.{name}")[:, part].to(self.device) for name in "hc")
        self.hidden = h.contiguous(), c.contiguous()
        for name, generator in self.generators().items():
            states = saved.tensors.get(f"random.{name}", ())
            if self.world.rank < len(states):  # a rank that was not there yet has its seed
                # A copy: PyTorch reads a state from its storage's beginning.
                generator.set_rng_state(states[self.world.rank].clone())
        self.say(f"resumed   {saved.path}, after step {self.step}")
        for name, value in self.args.options.items():
            if value != saved.options[name]:
                self.say(f"changed   {flag(name)} {value}, was {saved.options[name]}")
        now, before = self.bits_depend_on(), state["bits"]
        others = [f"{name} {now[name]}, was {before[name]}" for name in now
                  if name in before and now[name] != before[name]]  # fmt: skip
        if others:
            self.say(f"note      not the same bits: {', '.join(others)}")
        if self.step >= self.total_steps:
            self.say(f"note      step {self.step} of {self.total_steps}: nothing is left to train; "
                     "more --epochs or --max-steps go on")  # fmt: skip

    # --- the end ---

    def finish(self, point: dict[str, Any]) -> None:
        """Test the model, say how it did, and write the run's figures."""
        args, corpus = self.args, self.corpus
        speed = self.words / self.words_seconds if self.words else None
        unigram = corpus.unigram_perplexity()
        test = self.evaluate("test") if args.eval else None
        if speed is not None:
            self.say(f"Speed: {speed:.0f} words per second of training, first step left out")
        if test is not None:
            self.write("test", test)
            self.say(f"Test perplexity: {test:.3f}, {test / unigram:.2f} of that of plain word "
                     f"frequencies, {unigram:.3f}")  # fmt: skip
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


if __name__ == "__main__":
    distributed.leave(main())
