"""Checkpoints: a directory `checkpoint-<step>` each, complete as soon as it has that name.

    DIR/checkpoint-0002323/model.safetensors   weights, under nn.LSTM's names
                           config.json         format, engine, settings and versions
                           vocabulary.json     the word of each id

It is written under another name, synced, and renamed; only then is an older one removed, so the
last good one survives a crash at any moment. Nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from lm.config import Config
from lm.errors import UserError
from lm.files import sync_directory, to_json, write_synced
from lm.machine import versions
from lm.model import LM_LSTM, build_model

FORMAT = 1
_NAME = re.compile(r"checkpoint-\d{7,}")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds: the run's settings, its vocabulary, the weights by name."""

    step: int
    config: Config
    vocabulary: tuple[str, ...]
    weights: dict[str, torch.Tensor]

    def model(self, lstm: str = "auto", fuse: str | None = None) -> LM_LSTM:
        """The trained model, on any engine."""
        model = build_model(self.config, len(self.vocabulary), lstm, fuse)
        model.to(self.weights["sm_fc.weight"].dtype).load_state_dict(self.weights)
        return model


def all_in(directory: Path) -> list[Path]:
    """The checkpoints in `directory`, oldest first."""
    if not directory.is_dir():
        return []
    return sorted(
        (path for path in directory.iterdir() if _NAME.fullmatch(path.name)),
        key=lambda path: int(path.name.partition("-")[2]),
    )


def save(
    directory: Path, step: int, model: LM_LSTM, config: Config, vocabulary: tuple[str, ...]
) -> Path:
    """Write a checkpoint into `directory`, then remove the older ones; return its path."""
    about = {
        "format": FORMAT,
        "step": step,
        "config": dataclasses.asdict(config),
        "versions": versions(),
    }
    older = all_in(directory)
    final = directory / f"checkpoint-{step:07d}"
    temporary = directory / f".{final.name}.{os.getpid()}.tmp"
    temporary.mkdir()
    try:
        write_synced(temporary / "model.safetensors", _weights(model))
        write_synced(temporary / "config.json", to_json(about))
        write_synced(temporary / "vocabulary.json", to_json(vocabulary))
        sync_directory(temporary)
        temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_directory(directory)
    for path in older:
        shutil.rmtree(path)
    return final


def load(directory: Path) -> Checkpoint:
    """The newest checkpoint in `directory`, on the CPU; UserError says what is wrong with it."""
    found = all_in(directory)
    if not found:
        raise UserError(f"'{directory}' holds no checkpoint")
    path = found[-1]
    try:
        about = json.loads((path / "config.json").read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise UserError(f"{path}: format {about['format']}, this program reads {FORMAT}")
        vocabulary = tuple(json.loads((path / "vocabulary.json").read_text(encoding="utf-8")))
        weights = safetensors.torch.load_file(path / "model.safetensors")
        return Checkpoint(about["step"], Config(**about["config"]), vocabulary, weights)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: {error.filename}") from None
    except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is damaged: {error}") from None


def _weights(model: LM_LSTM) -> bytes:
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    return safetensors.torch.save(tensors)
