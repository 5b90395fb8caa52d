"""The built-in text: the Python language reference, as `pydoc_data.topics` of the standard library.

Nothing is downloaded, and the text differs a little between Python versions, so perplexities
compare only within one version.
"""

from __future__ import annotations

import re
from itertools import chain

_PARAGRAPH = re.compile(r"\n\s*\n")
_RULER = re.compile(r"([^\w\s])\1{3,}")
_TOKEN = re.compile(r"\w+|([^\w\s])\1*")
_BLOCK = 20  # paragraphs


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


def python_docs() -> dict[str, list[list[str]]]:
    """Lines of words of each split: of every ten blocks, eight train, one validates, one tests."""
    splits: dict[str, list[list[str]]] = {"train": [], "valid": [], "test": []}
    for number, paragraph in enumerate(paragraphs()):
        split = {8: "valid", 9: "test"}.get(number // _BLOCK % 10, "train")
        lines = (line for line in paragraph.splitlines() if line.strip())
        splits[split].extend(tokenize(line) for line in lines)
    return splits
