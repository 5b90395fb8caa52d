"""Checkpoints: a file `checkpoint-<step>.safetensors` each, whole or absent. Nothing is pickled.

Its tensors are the weights ("model.", under nn.LSTM's names), the optimizer's ("optimizer."), the
states of random generators ("random."), the carried state, and the losses and norms of all steps.
Its metadata is a JSON text of everything else, and the sha256 of both: a file whose sum is right
is what `save` wrote, and is not doubted further.

A file is written under another name, synced, and renamed; only then are older ones removed, except
that of the lowest validation perplexity. So the last good one survives a crash at any moment.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

import fused_lstm
from lm.command import UserError, reason
from lm.device import choose_engine, open_device
from lm.files import to_json, write_atomically
from lm.model import LM_LSTM, build_model
from lm.settings import Config, config_of

FORMAT = 4
NUMBER = re.compile("[0-9]+")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, on the CPU: its tensors by name; `state` is what a run needs besides them."""

    path: Path
    step: int
    best: int | None  # step of the lowest validation perplexity so far, if one was taken
    options: dict[str, Any]  # of the command line, as `lm.settings.stored` has them
    vocabulary: tuple[str, ...]
    tensors: dict[str, Tensor]
    state: dict[str, Any]

    @property
    def config(self) -> Config:
        """Return the settings of the model and its training."""
        return config_of(self.options)

    def weights(self) -> dict[str, Tensor]:
        """Return the model's weights by name."""
        return {n[6:]: t for n, t in self.tensors.items() if n.startswith("model.")}

    def model(self, lstm: str = "auto", fuse: str | None = None) -> LM_LSTM:
        """Return the trained model, on any engine."""
        model = build_model(self.config, len(self.vocabulary), lstm, fuse)
        model.to(self.tensor("model.sm_fc.bias").dtype)
        self.load_into(model)
        return model

    def tensor(self, name: str) -> Tensor:
        """Return a tensor; raise UserError where there is none of that name."""
        if name not in self.tensors:
            raise UserError(f"{self.path} is damaged: got no tensor {name!r}; expected one")
        return self.tensors[name]

    def load_into(self, model: nn.Module) -> None:
        """Give a model the weights; raise UserError where they are not a model's of this kind."""
        try:
            model.load_state_dict(self.weights())
        except RuntimeError as error:
            why = str(error).splitlines()[-1].strip()  # the first line says that there are errors
            raise UserError(f"{self.path} is damaged: {why}") from None


# --- where they are ---


def all_in(directory: Path) -> list[Path]:
    """Return the checkpoints in `directory`, oldest first."""
    paths = directory.glob("checkpoint-*.safetensors")
    return sorted((path for path in paths if NUMBER.fullmatch(path.stem[11:])), key=step_of)


def step_of(path: Path) -> int:
    """Return the step in a checkpoint's name."""
    return int(path.stem.removeprefix("checkpoint-"))


def path_in(directory: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return directory / f"checkpoint-{step:07d}.safetensors"


# --- writing ---


def save(
    directory: Path, step: int, best: int | None, options: Mapping[str, Any],
    vocabulary: tuple[str, ...], tensors: Mapping[str, Tensor], state: Mapping[str, Any],
) -> Path:  # fmt: skip
    """Write a checkpoint, then remove those it replaces; return its path.

    Raises UserError where it cannot be written; what was there stays.
    """
    about = {
        "format": FORMAT, "step": step, "best": best, "options": options, "vocabulary": vocabulary,
        "state": state,
    }  # fmt: skip
    text = to_json(about).decode()
    # Copies: tied weights share their memory, which a file cannot.
    copies = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    metadata = {"about": text, "sha256": digest(text, copies)}
    path, older = path_in(directory, step), all_in(directory)
    write_atomically(path, safetensors.torch.save(copies, metadata))
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


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return what `save` keeps of an optimizer, under its parameters' names."""
    return {
        f"optimizer.{key}.{name}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Give an optimizer what `optimizer_tensors` kept of one."""
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            key, _, name = rest.partition(".")
            parameter = parameters[name]
            optimizer.state[parameter][key] = tensor.to(parameter.device)


# --- reading ---


def load(directory: Path, best: bool = False) -> Checkpoint:
    """Return the newest checkpoint in `directory`, or the best; UserError says what is wrong.

    `directory` may be a checkpoint itself.
    """
    paths = [directory] if directory.is_file() else all_in(directory)
    if not paths:
        raise UserError(f"'{directory}' holds no checkpoint")
    checkpoint = read(paths[-1])
    if not best or checkpoint.best == checkpoint.step:
        return checkpoint
    if checkpoint.best is None:
        raise UserError(f"'{directory}' holds no checkpoint with a validation perplexity")
    return read(path_in(checkpoint.path.parent, checkpoint.best))


def read(path: Path) -> Checkpoint:
    """Return the checkpoint at `path`; UserError says what is wrong with it."""
    if not path.is_file():  # a FIFO would be waited for
        raise UserError(f"'{path}' is no file")
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata()
            # Copies: a file may change where it lies.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        if (sha256 := digest(metadata["about"], tensors)) != metadata["sha256"]:
            raise ValueError(f"sha256: got {metadata['sha256']}; expected {sha256}")
        about = json.loads(metadata["about"])
        if about["format"] != FORMAT:
            raise ValueError(f"format: got {about['format']}; expected {FORMAT}")
        return Checkpoint(
            path, about["step"], about["best"], about["options"], tuple(about["vocabulary"]),
            tensors, about["state"],
        )  # fmt: skip
    except KeyError as error:
        raise UserError(f"{path} is damaged: got no {error}; expected one") from None
    except RecursionError:  # brackets in brackets, a thousand deep
        raise UserError(f"{path} is damaged: its metadata is no JSON that can be read") from None
    except (OSError, TypeError, ValueError, safetensors.SafetensorError) as error:
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
    model = checkpoint.model(args.lstm, args.fuse).to(device)
    if args.weights is not None:
        try:
            model = fused_lstm.prepare(model, getattr(torch, args.weights))
        except RuntimeError as error:
            raise UserError(f"--weights: {error}") from None
        if not any(isinstance(m, fused_lstm.Prepared) for m in model.modules()):
            raise UserError(f"--weights: got {args.weights} with this model; expected an LSTM or a "
                            "GRU with torch.nn's cell, on the CPU")  # fmt: skip
    return checkpoint, model
