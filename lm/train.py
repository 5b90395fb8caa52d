"""`python -m lm.train`: train a language model and say what it learned."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import torch

import kernels
from kernels.engines import resolve
from lm import checkpoint
from lm.data import Corpus, load_corpus, unigram_perplexity
from lm.errors import UserError
from lm.files import check_writable, to_json, write_atomically
from lm.log import Log
from lm.machine import processor, versions
from lm.model import LM_LSTM, build_model
from lm.options import Options, parse
from lm.trainer import Epoch, Trainer, epoch_steps


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, or this process's; return the exit status."""
    options = parse(argv)
    try:
        run(options)
    except UserError as error:
        print(f"lm.train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        saved = checkpoint.all_in(options.save) if options.save else []
        kept = f"; {saved[-1]} is kept" if saved else ""
        print(f"lm.train: interrupted{kept}", file=sys.stderr)
        return 130
    return 0


def run(options: Options) -> dict:
    """Train as `options` say and return the summary; UserError before training if it cannot."""
    check_outputs(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = open_device(options.device)
    corpus = load_corpus(options.data)
    epoch_steps(corpus, options.config)
    torch.manual_seed(options.seed)
    log = Log()
    model = open_model(options, corpus, device)
    print_header(log, options, corpus, model)
    autocast = torch.bfloat16 if options.dtype == "bfloat16" else None
    trainer = Trainer(model, corpus, options.config, log, autocast, options.max_steps)
    log.start(trainer.total_steps)
    try:
        curve = fit(trainer, options)
        summary = summarize(trainer, options, curve)
    finally:
        log.close()
    if options.summary is not None:
        write_atomically(options.summary, to_json(summary))
    return summary


def fit(trainer: Trainer, options: Options) -> list[Epoch]:
    """Train to the end, an evaluation and a checkpoint after every epoch; the learning curve."""
    curve, log = [], trainer.log
    while not trainer.done:
        epoch = len(curve)
        rate = options.config.learning_rate_at(epoch)
        log.line(f"Epoch: {epoch + 1} Learning rate: {rate:.4g}")
        point = trainer.train_epoch(epoch)
        log.line(f"Epoch: {epoch + 1} Train perplexity: {point.train_perplexity:.3f}")
        if options.evaluate:
            point.valid_perplexity = trainer.evaluate("valid")
            log.line(f"Epoch: {epoch + 1} Valid perplexity: {point.valid_perplexity:.3f}")
        if options.save is not None:
            vocabulary = trainer.corpus.vocabulary
            path = checkpoint.save(
                options.save, trainer.steps, trainer.model, options.config, vocabulary
            )
            log.line(f"Saved {path}")
        curve.append(point)
    return curve


def summarize(trainer: Trainer, options: Options, curve: list[Epoch]) -> dict:
    """Test the model, say how it did, and return the run's figures."""
    log, corpus = trainer.log, trainer.corpus
    speed = trainer.meter.words_per_second()
    unigram = unigram_perplexity(corpus)
    test = trainer.evaluate("test") if options.evaluate else None
    if speed is not None:
        log.line(f"Speed: {speed:.0f} words per second of training, first step left out")
    if test is not None:
        log.line(
            f"Test perplexity: {test:.3f}, {test / unigram:.2f} of the {unigram:.3f} of word"
            " frequencies alone (unigram)"
        )
    engine, fuse = resolve(options.lstm, options.fuse, trainer.device)
    summary = {
        "engine": engine,
        "fuse": fuse,
        "preset": options.preset,
        "data": corpus.name,
        "device": str(trainer.device),
        "dtype": options.dtype,
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
        if options.summary.is_dir():
            raise UserError(f"--summary: '{options.summary}' is a directory")
        check_writable(options.summary.parent, "--summary")
    if options.save is not None:
        check_writable(options.save, "--save")
        if checkpoint.all_in(options.save):
            raise UserError(f"--save: '{options.save}' holds another run's checkpoints")


def open_device(name: str | None) -> torch.device:
    """The device called `name`, or this machine's accelerator, or its CPU."""
    if name is None:
        accelerator = torch.accelerator.is_available()
        return torch.accelerator.current_accelerator() if accelerator else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (AssertionError, RuntimeError) as error:  # PyTorch raises either
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device


def open_model(options: Options, corpus: Corpus, device: torch.device) -> LM_LSTM:
    """The model on its engine and device, drawn on the CPU: the same weights everywhere."""
    try:
        resolve(options.lstm, options.fuse, device)
        model = build_model(
            options.config, len(corpus.vocabulary), lstm=options.lstm, fuse=options.fuse
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(str(error)) from None
    return model.to(device, torch.float64 if options.dtype == "float64" else torch.float32)


def print_header(log: Log, options: Options, corpus: Corpus, model: LM_LSTM) -> None:
    """What is about to run, on what."""
    config, device = options.config, model.sm_fc.weight.device
    found = versions()
    log.field(
        "machine",
        f"{processor(device)}, {torch.get_num_threads()} threads, torch {found['torch_version']}, "
        f"triton {found['triton_version']}",
    )
    engine, fuse = resolve(options.lstm, options.fuse, device)
    level = "" if fuse is None else f", fuse {fuse}"
    log.field("engine", f"{engine}{level}: {kernels.describe_engine(engine, device)}")
    sizes = ", ".join(f"{len(getattr(corpus, s)):,} {s}" for s in corpus.unknown)
    log.field("data", f"{corpus.name}: {sizes} tokens, {len(corpus.vocabulary):,} words")
    unknown = ", ".join(f"{count:,} {s}" for s, count in corpus.unknown.items())
    log.field("unknown", f"{unknown} tokens outside the vocabulary")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    log.field(
        "model",
        f"{config.num_layers} x {config.hidden_size} units, {parameters:,} parameters, "
        f"{options.dtype} on {device}",
    )
    steps = epoch_steps(corpus, config)
    log.field(
        "training",
        f"{options.preset}: {config.epochs} epochs of {steps:,} steps, "
        f"{config.num_steps} x {config.batch_size} words each",
    )


if __name__ == "__main__":
    sys.exit(main())
