"""Files that are either whole or absent, and written by one process at a time.

What is being written has a temporary name and a lock (flock), which goes with its process, however
that ends: an unlocked temporary was left by a killed one, and the next writer removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from lm.errors import UserError

LOCK = ".lock"
_LONGEST = 200  # bytes of a name that its temporary shares: a name may have 255


def cache_directory() -> Path:
    """Where downloads and encoded texts are kept: FUSED_LSTM_CACHE, or the user's cache."""
    own = os.environ.get("FUSED_LSTM_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fused-lstm"


# --- locks ---


@contextlib.contextmanager
def only_writer(directory: Path, what: str) -> Iterator[str | None]:
    """Lock `directory`; UserError, naming `what` it is for, if another process has locked it.

    Gives None, or why this file system has no locks: then nothing is locked.
    """
    with _reported(directory / LOCK):
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        why = _lock(descriptor)
        if why == errno.EWOULDBLOCK:
            raise UserError(f"{what}: another run is writing to '{directory}'")
        yield os.strerror(why) if why else None
    finally:
        _unlock(descriptor)


def _lock(descriptor: int) -> int:
    """0 where the file or directory is locked now, EWOULDBLOCK where another has it, or why not."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return errno.EWOULDBLOCK
    except OSError as error:  # NFS locks no directories, some file systems nothing
        return error.errno or errno.EIO
    return 0


def _unlock(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # forked processes may have the descriptor too
    os.close(descriptor)


# --- temporary names ---


@contextlib.contextmanager
def temporary_directory(path: Path) -> Iterator[Path]:
    """A directory beside `path`, locked, and gone afterwards unless it was renamed."""

    def make(place: Path) -> int:
        place.mkdir()
        return os.open(place, os.O_RDONLY)

    with _temporary(path, make) as place:
        yield place


@contextlib.contextmanager
def _temporary(path: Path, make: Callable[[Path], int]) -> Iterator[Path]:
    """What `make` makes under a name of its own beside `path`; a descriptor of it is locked."""
    with contextlib.suppress(OSError):  # a directory may be written to and not listed
        for place in path.parent.iterdir():
            if re.fullmatch(rf"\.{re.escape(_stem(path))}\.[0-9a-f]+\.tmp", place.name):
                _remove_stale(place)
    with _reported(path):
        place, descriptor = _locked(path, make)
    try:
        yield place
    finally:
        remove(place)
        _unlock(descriptor)


def _locked(path: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """A new temporary and its locked descriptor."""
    while True:
        place = _temporary_name(path)
        try:
            descriptor = make(place)
        except FileNotFoundError:
            if not path.parent.is_dir():
                raise
            continue  # before it was locked, it was taken for a killed process's; so below
        if _lock(descriptor) != errno.EWOULDBLOCK and place.exists():
            return place, descriptor
        os.close(descriptor)


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{_stem(path)}.{secrets.token_hex(4)}.tmp")


def _stem(path: Path) -> str:
    return os.fsdecode(os.fsencode(path.name)[:_LONGEST])


def remove_temporaries(directory: Path, pattern: str) -> None:
    """Remove the temporaries in `directory` that nobody else may be writing to."""
    for place in directory.glob(pattern):
        remove(place)


def _remove_stale(place: Path) -> None:
    """Remove a temporary unless the process that made it still lives."""
    with contextlib.suppress(OSError):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            if _lock(descriptor) == 0:
                remove(place)
        finally:
            _unlock(descriptor)


def remove(place: Path) -> None:
    """Remove a file, or a directory and what it holds, as far as the system lets us."""
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            place.unlink()


# --- writing ---


@contextlib.contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """A directory to fill that is called `path` afterwards; nothing is, if that fails.

    Its content must have been synced. Raises UserError, naming what could not be written; where
    `path` came to be meanwhile, FileExistsError.
    """
    with temporary_directory(path) as temporary, _reported(path):
        yield temporary
        sync_directory(temporary)
        if path.exists():  # rename would take the place of an empty one
            raise FileExistsError(path)
        try:
            temporary.rename(path)
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:
                raise FileExistsError(path) from None
            raise
        sync_directory(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path`, sync, rename: a crash leaves the old file as it was, or none.

    Raises UserError, naming the file, where it cannot be written.
    """
    create = os.O_RDWR | os.O_CREAT | os.O_EXCL
    with _temporary(path, lambda place: os.open(place, create, 0o666)) as place, _reported(path):
        write_synced(place, content)
        os.replace(place, path)
        sync_directory(path.parent)


def remove_directory(path: Path) -> None:
    """Remove a directory: it is there with all that it holds, or not at all."""
    with _reported(path):
        gone = _temporary_name(path)
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    """UserError, naming `path`, for what the system refuses; FileExistsError goes on."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror}") from None


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it; UserError where it cannot."""
    with _reported(path), path.open("wb") as file:
        file.write(content)
        sync(file)


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


def check_output(path: Path, what: str) -> None:
    """UserError, naming `what` it is for, unless a file can be written, or replaced, at `path`."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = stat.S_IFREG
    except OSError as error:
        raise UserError(f"{what}: cannot write '{path}': {error.strerror}") from None
    if not stat.S_ISREG(mode):  # a device would be replaced by a file
        kind = "a directory" if stat.S_ISDIR(mode) else "no file"
        raise UserError(f"{what}: '{path}' is {kind}")
    check_writable(path.parent, what)


def to_json(content: object) -> bytes:
    """`content` as a JSON text."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    return text.encode(errors="backslashreplace")  # of half a surrogate pair: JSON's own escape
