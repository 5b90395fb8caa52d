"""Files that are either whole or absent."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from pathlib import Path

from lm.command import UserError


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path`, sync, rename: a crash leaves the old file as it was, or none.

    Raises UserError, naming the file, where it cannot be written.
    """
    temporary = path.with_name(f".{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Wait until the disk has the directory's names."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_directory(directory: Path, what: str) -> None:
    """Make `directory`; raise UserError, naming `what` it is for, unless it can be written to."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise UserError(f"{what}: cannot write to '{directory}': {error.strerror}") from None


def check_file(path: Path, what: str) -> None:
    """Raise UserError, naming `what` it is for, unless a file can be written at `path`."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = stat.S_IFREG
    except OSError as error:
        raise UserError(f"{what}: cannot write '{path}': {error.strerror}") from None
    if not stat.S_ISREG(mode):  # a device would be replaced by a file
        raise UserError(f"{what}: got '{path}'; expected a file's name")
    check_directory(path.parent, what)


def to_json(content: object) -> bytes:
    """Return `content` as a JSON text."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    return text.encode(errors="backslashreplace")  # of half a surrogate pair: JSON's own escape
