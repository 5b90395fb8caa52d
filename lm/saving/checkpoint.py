"""Checkpoints: a directory `checkpoint-<step>` each, complete as soon as it has that name.

    DIR/checkpoint-0002323/model.safetensors     weights, under nn.LSTM's names
                           training.safetensors  what else a run needs to go on (state.py)
                           training.json         the same, its numbers and names
                           config.json           format, settings, options and versions
                           vocabulary.json       the word of each id
                           SHA256SUMS            of all these: `sha256sum -c` checks it too

It is written under another name, synced, and renamed; only then are older ones removed, but for
that of the lowest validation perplexity. So the last good one survives a crash at any moment.
Nothing is pickled.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from lm.config import Config
from lm.errors import UserError, reason
from lm.machine import check_engine, open_device, versions
from lm.model import LM_LSTM, build_model
from lm.saving.files import remove_directory, to_json, whole_directory, write_synced
from lm.saving.state import Training, require

FORMAT = 2
SUMS = "SHA256SUMS"
TEMPORARY = ".checkpoint-*.tmp"  # what is being written
_NAME = re.compile(r"checkpoint-(\d{7,})(?:-(\d+))?")


@dataclass(frozen=True, kw_only=True)
class About:
    """A checkpoint but for its tensors and words.

    `run` holds the options of the training run; `best` the step of the lowest validation
    perplexity so far, None where none was taken.
    """

    path: Path
    step: int
    config: Config
    run: dict[str, Any] = field(default_factory=dict)
    best: int | None = None


@dataclass(frozen=True, kw_only=True)
class Checkpoint(About):
    """A checkpoint, on the CPU: its weights by name, its words by id."""

    vocabulary: tuple[str, ...]
    weights: dict[str, torch.Tensor]
    training: Training

    def model(self, lstm: str = "auto", fuse: str | None = None) -> LM_LSTM:
        """The trained model, on any engine."""
        model = build_model(self.config, len(self.vocabulary), lstm, fuse)
        self.load_into(model.to(self.weights["word_embeddings.weight"].dtype))
        return model

    def load_into(self, model: LM_LSTM) -> None:
        """Give `model`, which must be of this configuration, the trained weights."""
        strict = not self.config.tie_weights  # tied, the softmax layer's are the embedding's
        model.load_state_dict(self.weights, strict=strict)


# --- where they are ---


def all_in(directory: Path) -> list[Path]:
    """The checkpoints in `directory`, oldest first; UserError where it cannot be listed."""
    try:
        if not directory.is_dir():
            return []
        found = [path for path in directory.iterdir() if _NAME.fullmatch(path.name)]
    except OSError as error:
        raise UserError(f"'{directory}': {error.strerror}") from None
    return sorted(found, key=_order)


def _order(path: Path) -> tuple[int, int]:
    ((step, again),) = _NAME.findall(path.name)
    return int(step), int(again or 0)


def newest(directory: Path) -> Path:
    """The newest checkpoint in `directory`, or `directory` if it is one; UserError without one."""
    if _NAME.fullmatch(directory.name) and os.path.isdir(directory):
        return directory
    found = all_in(directory)
    if not found:
        raise UserError(f"'{directory}' holds no checkpoint")
    return found[-1]


def best(directory: Path) -> Path:
    """The checkpoint in `directory` whose validation perplexity was lowest; UserError without."""
    about = read_about(newest(directory))
    found = [path for path in all_in(directory) if _order(path)[0] == about.best]
    if not found:
        raise UserError(f"'{directory}' holds no checkpoint with a validation perplexity")
    return found[-1]


# --- writing ---


def save(
    directory: Path,
    step: int,
    model: LM_LSTM,
    config: Config,
    vocabulary: tuple[str, ...],
    training: Training | None = None,
    run: Mapping[str, Any] | None = None,
    best: int | None = None,
) -> Path:
    """Write a checkpoint into `directory`, then remove those it replaces; return its path.

    Raises UserError where it cannot be written; what was there stays.
    """
    training = training or Training({}, {})
    about = {
        "format": FORMAT,
        "step": step,
        "config": dataclasses.asdict(config),
        "run": dict(run or {}),
        "best": best,
        "versions": versions(),
    }
    files = {
        "model.safetensors": _tensors(weights_of(model)),
        "training.safetensors": _tensors(training.tensors),
        "training.json": to_json(training.facts),
        "config.json": to_json(about),
        "vocabulary.json": to_json(vocabulary),
    }
    older = all_in(directory)
    final = _free_name(directory, step)
    with whole_directory(final) as temporary:
        for name, content in files.items():
            write_synced(temporary / name, content)
        write_synced(temporary / SUMS, sums(files))
    kept = [path for path in older if best is not None and _order(path)[0] == best][-1:]
    for path in older:
        if path not in kept or best == step:
            remove_directory(path)
    return final


def sums(files: Mapping[str, bytes]) -> bytes:
    """The content of SHA256SUMS for `files`, their content by name."""
    lines = (f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    return "".join(lines).encode()


def _free_name(directory: Path, step: int) -> Path:
    """A step is saved twice where a run was stopped between its last step and its evaluation."""
    names = (f"checkpoint-{step:07d}{f'-{again}' if again else ''}" for again in count())
    return next(path for path in map(directory.joinpath, names) if not path.exists())


def _tensors(tensors: Mapping[str, torch.Tensor]) -> bytes:
    return safetensors.torch.save({name: t.cpu().contiguous() for name, t in tensors.items()})


def weights_of(model: LM_LSTM) -> dict[str, torch.Tensor]:
    """The tensors of `model` by name; one that is tied to another counts once."""
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if model.sm_fc.weight is model.word_embeddings.weight:
        del tensors["sm_fc.weight"]
    return tensors


# --- reading ---


def read_about(path: Path) -> About:
    """The settings and options in the checkpoint `path`; UserError says what is wrong with it."""
    with reporting_damage(path):
        return About(**_about(path, _read(path)))


def load(directory: Path, best_one: bool = False) -> Checkpoint:
    """The newest checkpoint in `directory`, or the best; UserError says what is wrong with it.

    A run that goes on meanwhile may replace it while it is read: then its successor is read.
    """
    while True:
        last = newest(directory)
        try:
            path = best(directory) if best_one else last
            with reporting_damage(path):
                return _load(path)
        except UserError:
            if last.exists():
                raise


def open_trained(options: argparse.Namespace) -> tuple[Checkpoint, LM_LSTM]:
    """The checkpoint that `lm.arguments`' options name, and its model on what they name.

    UserError where there is none, or where the engine or the device cannot run.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = open_device(options.device)
    found = load(options.checkpoint, options.best)
    check_engine(found.config, options.lstm, options.fuse, device)
    return found, found.model(options.lstm, options.fuse).to(device)


def _load(path: Path) -> Checkpoint:
    files = _read(path)
    about = _about(path, files)
    vocabulary = json.loads(files["vocabulary.json"])
    _require("vocabulary", vocabulary, list)
    for word in vocabulary:
        _require("a word", word, str)
    if not vocabulary or len(set(vocabulary)) != len(vocabulary):
        raise ValueError("the vocabulary has a word twice, or none")
    weights = safetensors.torch.load(files["model.safetensors"])
    _check_weights(weights, about["config"], len(vocabulary))
    tensors = safetensors.torch.load(files["training.safetensors"])
    facts = json.loads(files["training.json"])
    _require("training.json", facts, dict)
    training = Training(tensors, facts)
    return Checkpoint(**about, vocabulary=tuple(vocabulary), weights=weights, training=training)


def _about(path: Path, files: Mapping[str, bytes]) -> dict[str, Any]:
    about = json.loads(files["config.json"])
    _require("config.json", about, dict)
    if about["format"] != FORMAT:
        raise UserError(f"{path} has format {about['format']}, and this program reads {FORMAT}")
    kinds = {"step": int, "run": dict, "best": (int, type(None))}
    for name, kind in kinds.items():
        _require(name, about[name], kind)
    return {"path": path, "config": Config(**about["config"]), **{n: about[n] for n in kinds}}


def _require(name: str, value: object, kind: type | tuple[type, ...]) -> None:
    """ValueError unless `value` is a `kind`; True is no number."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name} is {str(value)[:40]!r}")


def _read(path: Path) -> dict[str, bytes]:
    """The files of the checkpoint, by name; ValueError unless they are those that were written."""
    listed = (path / SUMS).read_text(encoding="ascii").splitlines()
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in listed)}
    for name in expected:
        if name in ("", "..") or name != Path(name).name:
            raise ValueError(f"{SUMS} names {name!r}, which is no file of a checkpoint")
    files = {name: (path / name).read_bytes() for name in expected}
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != expected[name]:
            raise ValueError(f"{name} is not what was written")
    return files


def _check_weights(weights: Mapping[str, torch.Tensor], config: Config, vocab_size: int) -> None:
    with torch.device("meta"):
        model = build_model(config, vocab_size, lstm="loop")
    expected = {name: tensor.shape for name, tensor in weights_of(model).items()}
    for name in sorted(expected.keys() ^ weights.keys()):
        raise ValueError(f"{name} is {'missing' if name in expected else 'not of this model'}")
    for name, shape in expected.items():
        require(name, weights[name], shape)


@contextmanager
def reporting_damage(path: Path, part: str = "") -> Iterator[None]:
    """Around what reads the checkpoint `path`: UserError, one line, for all that a file can do.

    `part` is said before what is wrong.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} is damaged: {error.strerror}: {error.filename}") from None
    except (
        ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError,
        safetensors.SafetensorError,
    ) as error:  # fmt: skip
        raise UserError(f"{path} is damaged: {part}{reason(error)}") from None
