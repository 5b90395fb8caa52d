"""Files that are either whole or absent."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lm.errors import UserError


def cache_directory() -> Path:
    """Where downloads and encoded texts are kept: FUSED_LSTM_CACHE, or the user's cache."""
    own = os.environ.get("FUSED_LSTM_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fused-lstm"


@contextlib.contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """A directory to fill that is called `path` afterwards; nothing is, if that fails.

    Its content must have been synced. Raises UserError, naming what could not be written; where
    `path` came to be meanwhile, FileExistsError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process with our number
    try:
        temporary.mkdir()
        yield temporary
        sync_directory(temporary)
        if path.exists():  # rename would take the place of an empty one
            raise FileExistsError(path)
        temporary.rename(path)
        sync_directory(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path`, sync, rename: a crash leaves the old file as it was, or none."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_synced(temporary, content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it; UserError where it cannot."""
    try:
        with path.open("wb") as file:
            file.write(content)
            sync(file)
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror}") from None


def sync(file: IO) -> None:
    """Wait until the disk has what was written to an open file."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(directory: Path) -> None:
    """Wait until the disk has the directory's names."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(directory: Path, what: str) -> None:
    """Make `directory`; UserError, naming `what` it is for, unless it can be written to."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise UserError(f"{what}: cannot write to '{directory}': {error.strerror}") from None


def to_json(content: object) -> bytes:
    """`content` as a JSON text."""
    return (json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()
