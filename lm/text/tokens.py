"""The words of a text: those of a line of English, and those of a file."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from lm.errors import UserError

SPLITS = ("train", "valid", "test")
EOS = "<eos>"  # ends every line

_RULER = re.compile(r"([^\w\s])\1{3,}")
_TOKEN = re.compile(r"\w+|([^\w\s])\1*")
_BLOCK = 1 << 16  # bytes of a file that are in memory at a time

Tokens = Iterable[list[str]]  # a text's words in lists of any length, <eos> after each line's


def tokenize(line: str) -> list[str]:
    """Lower-case words and punctuation, apart.

    A run of one mark is a token (`**`, `...`); a ruler, four marks or more, is cut to three, so
    that its length is not a word of its own.
    """
    line = _RULER.sub(r"\1\1\1", line.lower())
    return [match.group() for match in _TOKEN.finditer(line)]


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
