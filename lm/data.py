"""From text to token ids, and from token ids to batches.

Legend: T time steps, B batch, N tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from lm import text
from lm.errors import UserError

EOS = "<eos>"  # ends every line
UNK = "<unk>"  # stands for a word outside the vocabulary
SPLITS = ("train", "valid", "test")
BUILT_IN = "python-docs"
FILE_NAMES = ("ptb.{}.txt", "wiki.{}.tokens", "{}.txt")
IGNORED = -100  # a target that pads a batch: F.cross_entropy leaves it out

Lines = Iterable[list[str]]


@dataclass(frozen=True)
class Corpus:
    """A text as token ids.

    `vocabulary[i]` is the word of id i; train, valid and test are int64 [N]; `unknown` counts the
    words outside the vocabulary in each split; `sources` names each split in messages.
    """

    name: str
    vocabulary: tuple[str, ...]
    train: torch.Tensor
    valid: torch.Tensor
    test: torch.Tensor
    unknown: dict[str, int]
    sources: dict[str, str]


def load_corpus(name: str) -> Corpus:
    """The built-in text by its name, or a directory of three files; UserError names what is wrong.

    A file's words are what white space separates. In the built-in text a word seen once in the
    training split is unknown, so that `<unk>` is learned; in a file every training word is known.
    """
    if name == BUILT_IN:
        sources = {split: f"{name} ({split})" for split in SPLITS}
        return build_corpus(name, text.python_docs(), sources, min_count=2)
    files = find_files(Path(name))
    sources = {split: str(path) for split, path in files.items()}
    return build_corpus(name, {s: read_lines(p) for s, p in files.items()}, sources)


def find_files(directory: Path) -> dict[str, Path]:
    """The file of each split in `directory`, by the first naming scheme of which it holds any."""
    if not directory.is_dir():
        what = "is not a directory" if directory.exists() else "does not exist"
        raise UserError(f"data '{directory}' {what}; the built-in text is '{BUILT_IN}'")
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


def build_corpus(
    name: str, lines: dict[str, Lines], sources: dict[str, str], min_count: int = 1
) -> Corpus:
    """Number the words of the training text by falling count, then alphabetically.

    Words outside the vocabulary, and training words seen fewer than `min_count` times, become
    `<unk>`, which joins the vocabulary where it is needed.
    """
    # One pass over each text numbers its words by first appearance; one table then renumbers
    # whole arrays at once.
    first: defaultdict[str, int] = defaultdict()
    first.default_factory = first.__len__
    unk = first[UNK]
    ids = {}
    for split in SPLITS:
        ids[split] = _first_ids(lines[split], first)
        if (ids[split] == first[EOS]).all():
            raise UserError(f"{sources[split]} holds no words")
    counts = np.bincount(ids["train"], minlength=len(first))
    outside = counts < min_count
    outside[unk] = counts[unk] == 0
    unknown = {split: int(outside[ids[split]].sum()) for split in SPLITS}
    counts[unk] += counts[outside].sum()
    outside[unk] = counts[unk] == 0 and not any(unknown.values())  # else it joins
    vocabulary, final = _number(list(first), counts, outside, unk)
    tensors = {split: torch.from_numpy(final[ids[split]]) for split in SPLITS}
    return Corpus(name, vocabulary, **tensors, unknown=unknown, sources=sources)


def _first_ids(lines: Lines, first: defaultdict[str, int]) -> np.ndarray:
    words = chain.from_iterable(chain(line, (EOS,)) for line in lines)
    return np.fromiter(map(first.__getitem__, words), dtype=np.int32)


def _number(
    words: list[str], counts: np.ndarray, outside: np.ndarray, unk: int
) -> tuple[tuple[str, ...], np.ndarray]:
    """The vocabulary, and the final id of every first id; words `outside` share `<unk>`'s."""
    order = sorted(np.flatnonzero(~outside), key=lambda i: (-counts[i], words[i]))
    final = np.zeros(len(words), dtype=np.int64)
    final[order] = np.arange(len(order))
    final[outside] = final[unk]
    return tuple(words[i] for i in order), final


def batchify(ids: torch.Tensor, batch_size: int) -> torch.Tensor:
    """[N] -> [N // B, B]: B contiguous stretches of the text side by side; the rest is left out."""
    length = len(ids) // batch_size
    return ids[: length * batch_size].view(batch_size, length).t().contiguous()


def steps_per_epoch(tokens: int, batch_size: int, num_steps: int) -> int:
    """Training steps in one pass over `tokens` tokens: whole blocks of T, each with a next word."""
    return max(tokens // batch_size - 1, 0) // num_steps


def training_batches(
    columns: torch.Tensor, num_steps: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(inputs, targets), each [T, B], of one epoch; the state after one is the next one's first.

    `columns` is [N // B, B] from `batchify`; a target is the word that follows its input.
    """
    for start in range(0, len(columns) - num_steps, num_steps):
        stop = start + num_steps
        yield columns[start:stop], columns[start + 1 : stop + 1]


def evaluation_batches(
    ids: torch.Tensor, batch_size: int, num_steps: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(inputs, targets), each [T, B]: every token of `ids` but the first is a target, once.

    Nothing is cut off: the last columns are padded, with targets `IGNORED`, so that all batches
    have one shape, for which an engine may have compiled.
    """
    pairs = len(ids) - 1
    length = -(-pairs // (batch_size * num_steps)) * num_steps
    inputs = ids.new_zeros(length * batch_size)
    targets = ids.new_full((length * batch_size,), IGNORED)
    inputs[:pairs], targets[:pairs] = ids[:-1], ids[1:]
    inputs, targets = batchify(inputs, batch_size), batchify(targets, batch_size)
    yield from zip(inputs.split(num_steps), targets.split(num_steps), strict=True)


def unigram_perplexity(corpus: Corpus) -> float:
    """Perplexity of the test text under the training text's word frequencies, order ignored.

    Each count is raised by one (Laplace), so that a word absent from the training text, such as
    an `<unk>` that only the test text needs, has a probability too. It is the figure to beat.
    """
    counts = torch.bincount(corpus.train, minlength=len(corpus.vocabulary)).double() + 1
    log_probability = (counts / counts.sum()).log()
    return float((-log_probability[corpus.test[1:]].mean()).exp())
