"""Checkpoints: a file `checkpoint-<step>.safetensors` each, whole or absent. Nothing is pickled.

Its tensors are the weights ("model.", under nn.LSTM's names), the optimizer's ("optimizer."), the
states of random generators ("random."), the carried state, and the losses and norms of all steps.
Its metadata is a JSON text of everything else, and the sha256 of both.

A file is written under another name, synced, and renamed; only then are older ones removed, except
that of the lowest validation perplexity. So the last good one survives a crash at any moment.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from lm.command import UserError, out_of_memory, reason
from lm.device import choose_engine, open_device, versions
from lm.files import to_json, write_atomically
from lm.model import LM_LSTM, build_model
from lm.settings import Config, config_of, read_options

FORMAT = 3
_NAME = re.compile(r"checkpoint-\d{7,}\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, on the CPU: its tensors by name; `state` is what a run needs besides them."""

    path: Path
    step: int
    best: int | None  # step of the lowest validation perplexity so far, if one was taken
    options: dict[str, Any]  # as `lm.settings.stored_options` has them
    config: Config
    vocabulary: tuple[str, ...]
    dtype: torch.dtype  # of the weights
    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def weights(self) -> dict[str, Tensor]:
        """Return the model's weights by name; of tied ones the embedding's alone."""
        return part(self.tensors, "model.")

    def model(self, lstm: str = "auto", fuse: str | None = None) -> LM_LSTM:
        """Return the trained model, on any engine."""
        model = build_model(self.config, len(self.vocabulary), lstm, fuse)
        self.load_into(model.to(self.dtype))
        return model

    def load_into(self, model: nn.Module) -> None:
        """Give `model` the trained weights; raise UserError where they are another model's."""
        weights = self.weights()
        if self.config.tie_weights:
            weights["sm_fc.weight"] = weights["word_embeddings.weight"]
        with reporting_damage(self.path):
            model.load_state_dict(weights)


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, under the rest of their names."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


# --- where they are ---


def all_in(directory: Path) -> list[Path]:
    """Return the checkpoints in `directory`, oldest first."""
    try:
        names = [path for path in directory.iterdir() if _NAME.fullmatch(path.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(names, key=step_of)


def step_of(path: Path) -> int:
    """Return the step in a checkpoint's name."""
    return int(path.stem.removeprefix("checkpoint-"))


def newest(directory: Path) -> Path:
    """Return the newest checkpoint in `directory`, or `directory` if it is one."""
    if _NAME.fullmatch(directory.name):
        return directory
    paths = all_in(directory)
    if not paths:
        older = list(directory.glob("checkpoint-*/SHA256SUMS")) if directory.is_dir() else []
        what = "only those of an older version, which cannot be read" if older else "no checkpoint"
        raise UserError(f"'{directory}' holds {what}")
    return paths[-1]


# --- writing ---


def save(
    directory: Path, step: int, best: int | None, options: Mapping[str, Any],
    vocabulary: tuple[str, ...], tensors: Mapping[str, Tensor], state: Mapping[str, Any],
) -> Path:  # fmt: skip
    """Write a checkpoint, then remove those it replaces; return its path.

    Raises UserError where it cannot be written; what was there stays.
    """
    about = {
        "format": FORMAT, "step": step, "best": best, "options": dict(options),
        "vocabulary": vocabulary, "state": dict(state), "versions": versions(),
    }  # fmt: skip
    text = to_json(about).decode()
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"about": text, "sha256": digest(text, on_cpu)}
    path = directory / f"checkpoint-{step:07d}.safetensors"
    older = all_in(directory)
    write_atomically(path, safetensors.torch.save(on_cpu, metadata))
    for other in older:
        if other != path and step_of(other) != best:
            other.unlink(missing_ok=True)
    return path


def digest(about: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of a checkpoint's content."""
    sha256 = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        sha256.update(tensor.flatten().view(torch.uint8).numpy().data)
    return sha256.hexdigest()


def model_tensors(model: LM_LSTM) -> dict[str, Tensor]:
    """Return what `save` keeps of a model; a tensor that is tied to another counts once."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if model.sm_fc.weight is model.word_embeddings.weight:
        del tensors["model.sm_fc.weight"]
    return tensors


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return what `save` keeps of an optimizer, under its parameters' names."""
    names = [name for name, _ in model.named_parameters()]
    return {
        f"optimizer.{key}.{names[index]}": value
        for index, entries in optimizer.state_dict()["state"].items()
        for key, value in entries.items()
        if value is not None
    }


def load_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Give an optimizer what `optimizer_tensors` kept of one."""
    indices = {name: index for index, (name, _) in enumerate(model.named_parameters())}
    state: dict[int, dict[str, Tensor]] = {}
    for key_and_name, tensor in part(tensors, "optimizer.").items():
        key, _, name = key_and_name.partition(".")
        state.setdefault(indices[name], {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


# --- reading ---


def load(directory: Path, best: bool = False) -> Checkpoint:
    """Return the newest checkpoint in `directory`, or the best; UserError says what is wrong.

    A run that goes on meanwhile may replace it before it is read: then its successor is read.
    """
    while True:
        path = newest(directory)
        try:
            checkpoint = read(path)
            if not best or checkpoint.best == checkpoint.step:
                return checkpoint
            if checkpoint.best is None:
                raise UserError(f"'{directory}' holds no checkpoint with a validation perplexity")
            return read(path.with_name(f"checkpoint-{checkpoint.best:07d}.safetensors"))
        except (FileNotFoundError, UserError):
            if path == directory or path.exists():
                raise


def read(path: Path) -> Checkpoint:
    """Return the checkpoint at `path`; UserError says what is wrong with it."""
    with reporting_damage(path):
        if not stat.S_ISREG(path.stat().st_mode):  # a FIFO would be waited for
            raise ValueError("not a regular file")
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata()
            # Copies: a file may change where it lies.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        about = json.loads(metadata["about"])
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']}, and this program reads {FORMAT}")
        if digest(metadata["about"], tensors) != metadata["sha256"]:
            raise ValueError("its content is not what was written")
        options = read_options(about["options"])
        return Checkpoint(
            path, int(about["step"]), about["best"], options, config_of(options),
            tuple(about["vocabulary"]), tensors["model.sm_fc.bias"].dtype, tensors, about["state"],
        )  # fmt: skip


@contextlib.contextmanager
def reporting_damage(path: Path) -> Iterator[None]:
    """Raise UserError, one line, for all that the content of the checkpoint `path` can do."""
    try:
        yield
    except (
        AttributeError, LookupError, RuntimeError, TypeError, UserError, ValueError,
        safetensors.SafetensorError,
    ) as error:  # fmt: skip
        if out_of_memory(error):
            raise
        raise UserError(f"{path} is damaged: {reason(error)}") from None


def open_trained(args: argparse.Namespace) -> tuple[Checkpoint, LM_LSTM]:
    """Return the checkpoint that a command's arguments name, and its model on what they name.

    Raises UserError where there is none, or where the engine or the device cannot run.
    """
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = open_device(args.device)
    checkpoint = load(args.checkpoint, args.best)
    choose_engine(checkpoint.config, args.lstm, args.fuse, device)
    return checkpoint, checkpoint.model(args.lstm, args.fuse).to(device)
