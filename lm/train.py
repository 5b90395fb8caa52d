"""`python -m lm.train`: train a language model and say what it learned."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from lm.command import main_imports, run_command

with main_imports(__name__):
    import torch

    import fused_lstm
    from lm.errors import UserError
    from lm.machine import check_engine, open_device, processor, set_precision, versions
    from lm.model import LM_LSTM, build_model
    from lm.options import Options, parse
    from lm.saving import checkpoint, record
    from lm.saving.checkpoint import Checkpoint
    from lm.saving.files import (
        check_output,
        check_writable,
        only_writer,
        remove_temporaries,
        to_json,
        write_atomically,
    )
    from lm.saving.keeper import Keeper, Signals, Stopped, resume
    from lm.saving.record import Record, TensorBoard, Watcher, WeightsAndBiases
    from lm.text.corpus import Corpus, load_corpus, unigram_perplexity
    from lm.training import ranks
    from lm.training.graph import CudaGraphs, check_graphs
    from lm.training.log import Log
    from lm.training.meter import Epoch
    from lm.training.ranks import Ranks
    from lm.training.trainer import Trainer


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, or this process's; return the exit status."""

    def command() -> int:
        try:
            run(parse(argv))
        except Stopped as stopped:
            if leads():
                print(f"lm.train: {stopped}", file=sys.stderr)
            return stopped.status
        return 0

    return run_command("lm.train", command)


def run(options: Options) -> dict:
    """Train as `options` say and return the summary; UserError before training if it cannot.

    Raises Stopped where a signal ended the run, which has been saved then.
    """
    check_outputs(options)
    with sole_writer(options) as unlocked:
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        if options.precision is not None:
            set_precision(options.precision)
        device = open_device(options.device, int(os.environ.get("LOCAL_RANK", "0")))
        found = checkpoint.load(options.resume) if options.resume is not None else None
        team = ranks.join(device)
        if options.cuda_graph:
            check_graphs(device, team.size)
        trainer = open_trainer(options, device, team, found)
        if unlocked:
            trainer.log.field("note", f"--save: a second run would not be noticed: {unlocked}")
        try:
            with Signals() as signals:
                summary = fit(trainer, options, Keeper(trainer, options, signals))
        finally:
            trainer.log.close()
            trainer.record.close()
        team.leave()
        if options.summary is not None and team.leads:
            write_atomically(options.summary, to_json(summary))
    return summary


def leads() -> bool:
    """Whether this process speaks and writes, of those that torchrun may have started."""
    return int(os.environ.get("RANK", "0")) == 0


@contextlib.contextmanager
def sole_writer(options: Options) -> Iterator[str | None]:
    """Let no other run write to `--save`; what a killed one left half written goes.

    Gives None, or why nothing could be locked. Raises UserError where another run has it, or has
    left its checkpoints there.
    """
    if options.save is None or not leads():
        yield None
        return
    with only_writer(options.save, "--save") as unlocked:
        if options.resume is None and checkpoint.all_in(options.save):
            raise UserError(
                f"--save: '{options.save}' holds another run's checkpoints; --resume goes on there"
            )
        if not unlocked:
            for pattern in checkpoint.TEMPORARY, f".{record.FILE}.*.tmp":
                remove_temporaries(options.save, pattern)
        yield unlocked


def open_trainer(
    options: Options, device: torch.device, team: Ranks, found: Checkpoint | None
) -> Trainer:
    """The run, at its start or where the checkpoint `found` was taken, its header printed."""
    if not team.leads:
        team.wait()  # the first one reads the text into the cache
    corpus = load_corpus(options.data)
    if team.leads:
        team.wait()
    torch.manual_seed(options.seed)
    model, log = new_model(options, corpus, device), Log(silent=not team.leads)
    autocast = torch.bfloat16 if options.dtype == "bfloat16" else None
    graphs = CudaGraphs() if options.cuda_graph else None
    trainer = Trainer(model, corpus, options.config, log, autocast, options.max_steps, team, graphs)
    print_header(trainer, options)
    team.seed(options.seed)
    if found is not None:
        differences = resume(trainer, found)
        log.field("resumed", f"{found.path}, after step {trainer.steps}")
        for change in options.changed:
            log.field("changed", change)
        if differences:
            log.field("note", f"not the same bits: {', '.join(differences)}")
        if (limit := options.max_steps) is not None and trainer.steps >= limit:
            passed = "reached" if trainer.steps == limit else "passed"
            log.field("note", f"--max-steps {limit} has been {passed}: a larger one trains on")
    if team.leads:
        trainer.record = Record(options.save, watchers(options, trainer.steps), trainer.steps)
    log.start(trainer.total_steps, trainer.steps)
    return trainer


def watchers(options: Options, step: int) -> tuple[Watcher, ...]:
    """What shows the curves of a run that is at `step`."""
    found: list[Watcher] = []
    if options.tensorboard is not None:
        found.append(TensorBoard(options.tensorboard, step))
    if options.wandb is not None:
        settings = {**options.stored(), **dataclasses.asdict(options.config)}
        found.append(WeightsAndBiases(options.wandb, settings))
    return tuple(found)


def fit(trainer: Trainer, options: Options, keeper: Keeper) -> dict:
    """Train to the end, an evaluation and a checkpoint after every epoch; the run's summary."""
    log, curve = trainer.log, list(trainer.curve)
    try:
        going_on = trainer.epochs_left
        while going_on:
            epoch = len(trainer.curve)
            rate = options.config.learning_rate_at(epoch)
            log.line(f"Epoch: {epoch + 1} Learning rate: {rate:.4g}")
            point = trainer.train_epoch(keeper.after_step)
            log.line(f"Epoch: {epoch + 1} Train perplexity: {point.train_perplexity:.3f}")
            if options.evaluate:
                point.valid_perplexity = trainer.evaluate("valid", keeper.poll)
                log.line(f"Epoch: {epoch + 1} Valid perplexity: {point.valid_perplexity:.3f}")
            going_on = trainer.end_epoch(point)
            keeper.save()
            curve.append(point)
        return summarize(trainer, options, curve, keeper)
    except UserError as error:
        saved = checkpoint.all_in(options.save) if options.save is not None else []
        kept = f"; {saved[-1]} is kept" if saved else ""
        raise UserError(f"{error}{kept}") from None


def summarize(trainer: Trainer, options: Options, curve: list[Epoch], keeper: Keeper) -> dict:
    """Test the model, say how it did, and return the run's figures."""
    log, corpus = trainer.log, trainer.corpus
    speed = trainer.meter.words_per_second()
    unigram = unigram_perplexity(corpus)
    test = trainer.evaluate("test", keeper.poll) if options.evaluate else None
    if speed is not None:
        log.line(f"Speed: {speed:.0f} words per second of training, first step left out")
    if test is not None:
        trainer.record.write(trainer.row("test", test))
        log.line(
            f"Test perplexity: {test:.3f}, {test / unigram:.2f} of the {unigram:.3f} of word"
            " frequencies alone (unigram)"
        )
    summary: dict[str, Any] = {
        "engine": trainer.engine,
        "fuse": trainer.fuse,
        "preset": options.preset,
        "data": corpus.name,
        "device": str(trainer.device),
        "dtype": options.dtype,
        "precision": options.precision,
        "vocab_size": len(corpus.vocabulary),
        "steps": trainer.steps,
        "words_per_second": speed,
        "train_perplexity": curve[-1].train_perplexity,
        "valid_perplexity": curve[-1].valid_perplexity,
        "test_perplexity": test,
        "unigram_perplexity": unigram,
        **versions(),
        "processor": processor(trainer.device),
        "threads": torch.get_num_threads(),
        "processes": trainer.ranks.size,
        "seed": options.seed,
        "config": dataclasses.asdict(options.config),
        "curve": [dataclasses.asdict(point) for point in curve],
    }
    if options.max_steps is not None:
        summary["losses"] = trainer.meter.losses  # of each step: nats a word
    return summary


def check_outputs(options: Options) -> None:
    """UserError, before any work is done, if the results could not be written at the end."""
    if options.summary is not None:
        check_output(options.summary, "--summary")
    if options.tensorboard is not None:
        check_writable(options.tensorboard, "--tensorboard")
    if options.save is not None:
        check_writable(options.save, "--save")


def new_model(options: Options, corpus: Corpus, device: torch.device) -> LM_LSTM:
    """The model on its engine and device, drawn on the CPU: the same weights everywhere."""
    check_engine(options.config, options.lstm, options.fuse, device)
    model = build_model(options.config, len(corpus.vocabulary), options.lstm, options.fuse)
    return model.to(device, torch.float64 if options.dtype == "float64" else torch.float32)


def print_header(trainer: Trainer, options: Options) -> None:
    """What is about to run, on what."""
    config, corpus, device, found = options.config, trainer.corpus, trainer.device, versions()
    level = "" if trainer.fuse is None else f", fuse {trainer.fuse}"
    sizes = ", ".join(f"{len(getattr(corpus, s)):,} {s}" for s in corpus.unknown)
    unknown = ", ".join(f"{count:,} {s}" for s, count in corpus.unknown.items())
    precision = "" if options.precision is None else f", precision {options.precision}"
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    fields = {
        "machine": f"{processor(device)}, {torch.get_num_threads()} threads, "
        f"torch {found['torch_version']}, triton {found['triton_version']}",
        "engine": f"{trainer.engine}{level}: {fused_lstm.describe_engine(trainer.engine, device)}",
        "data": f"{corpus.name}: {sizes} tokens, {len(corpus.vocabulary):,} words",
        "unknown": f"{unknown} tokens outside the vocabulary",
        "model": f"{config.num_layers} x {config.hidden_size} units, {parameters:,} parameters, "
        f"{options.dtype}{precision} on {device}",
        "training": f"{options.preset}: {config.epochs} epochs of {trainer.epoch_steps:,} "
        f"steps, {config.num_steps} x {config.batch_size} words each",
    }
    for name, text in fields.items():
        trainer.log.field(name, text)


if __name__ == "__main__":
    sys.exit(main())
