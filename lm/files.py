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
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(directory)  # the disk has the new name too
        os.close(directory)
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def check_file(path: Path, option: str) -> None:
    """Make the directory of `path`; raise UserError, naming the option, unless a file can be there.

    A device cannot: a file would take its place.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(path.stat().st_mode):
                raise UserError(f"{option}: got '{path}'; expected a file's name")
    except OSError as error:
        raise UserError(f"{option}: cannot write '{path}': {error.strerror}") from None


def to_json(content: object) -> bytes:
    """Return `content` as a JSON text."""
    return (json.dumps(content, allow_nan=False, indent=1) + "\n").encode()
