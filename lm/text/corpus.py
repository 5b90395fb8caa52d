"""A text as token ids, memory-mapped from a cache, so that memory does not grow with the text.

    CACHE/ids/<name>/train.bin    int32, one id a token; valid.bin and test.bin likewise
                     counts.bin   int64, how often the training text has each word
                     corpus.json  vocabulary, numbers of tokens and unknown words, the text's key

A text whose key is another one than the cache's is encoded anew.

N tokens, V words of the vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lm.errors import UserError
from lm.saving.files import cache_directory, remove, sync, to_json, whole_directory, write_synced
from lm.text.sources import Source, find
from lm.text.tokens import EOS, SPLITS, Tokens

UNK = "<unk>"  # stands for a word outside the vocabulary
_FORMAT = 2  # of the cache
_CHUNK = 1 << 20  # tokens that are in memory at a time


@dataclass(frozen=True)
class Corpus:
    """A text as token ids.

    `vocabulary[i]` is the word of id i, and `counts` [V] int64 how often the training text has it;
    train, valid and test are int32 [N], read from a file as they are used; `unknown` counts the
    words outside the vocabulary in each split; `titles` names each split in messages.
    """

    name: str
    vocabulary: tuple[str, ...]
    counts: torch.Tensor
    train: torch.Tensor
    valid: torch.Tensor
    test: torch.Tensor
    unknown: dict[str, int]
    titles: dict[str, str]


def load_corpus(name: str) -> Corpus:
    """A text by its name, or a directory of three files; UserError names what is wrong."""
    return _cached(find(name))


def _cached(source: Source) -> Corpus:
    """The text's ids from the cache, where they are put first if they are not there yet."""
    digest = hashlib.sha256(os.fsencode(source.place)).hexdigest()[:16]
    name = re.sub(r"\W+", "-", Path(source.place).name) or "text"
    path = cache_directory() / "ids" / f"{name}-{digest}"
    with suppress(OSError, KeyError, TypeError, ValueError):  # absent, or not what was written
        return _open(source, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(path)
        writable = os.access(path.parent, os.W_OK) and not path.exists()
    except OSError:
        writable = False
    if not writable:  # the files go with their names, and the maps of them stay
        with tempfile.TemporaryDirectory() as directory:
            return build(source, Path(directory) / name)
    try:
        return build(source, path)
    except FileExistsError:  # another process was faster
        return _cached(source)


def build(source: Source, path: Path) -> Corpus:
    """Number the words of the training text by falling count, then alphabetically, into `path`.

    Words outside the vocabulary, and training words seen fewer than `source.min_count` times,
    become `<unk>`, which joins the vocabulary where it is needed.
    """
    with whole_directory(path) as directory:
        # A pass over each text numbers its words by first appearance; one table then renumbers
        # the files in place.
        first: defaultdict[str, int] = defaultdict()
        first.default_factory = first.__len__
        unk, eos = first[UNK], first[EOS]
        tokens, counts = source.tokens(), {}
        for split in SPLITS:
            counts[split] = _write_first_ids(tokens[split], first, directory / f"{split}.bin")
            if counts[split].sum() == counts[split][eos]:
                raise UserError(f"{source.titles[split]} holds no words")
        counts = {split: np.pad(c, (0, len(first) - len(c))) for split, c in counts.items()}
        known = counts["train"].copy()
        outside = known < source.min_count
        outside[unk] = known[unk] == 0
        unknown = {split: int(counts[split][outside].sum()) for split in SPLITS}
        known[unk] += known[outside].sum()
        outside[unk] = known[unk] == 0 and not any(unknown.values())  # else it joins
        vocabulary, final, known = _number(list(first), known, outside, unk)
        for split in SPLITS:
            _renumber(directory / f"{split}.bin", final)
        write_synced(directory / "counts.bin", known.tobytes())
        sizes = {split: int(counts[split].sum()) for split in SPLITS}
        about: dict[str, Any] = {"key": _key(source), "tokens": sizes, "unknown": unknown}
        about["vocabulary"] = vocabulary
        write_synced(directory / "corpus.json", to_json(about))
        corpus = _open(source, directory)  # once it is in place another process may remove it
    return corpus


def encode(tokens: Tokens, vocabulary: tuple[str, ...], title: str) -> tuple[torch.Tensor, int]:
    """ids [N] int32 of a text under a given vocabulary, and how many words are outside it.

    Raises UserError where there are some and the vocabulary has no `<unk>`, or no `<eos>`.
    """
    ids = {word: i for i, word in enumerate(vocabulary)}
    words = chain.from_iterable(tokens)
    found = np.fromiter((ids.get(word, -1) for word in words), dtype=np.int32)
    unknown = int((found < 0).sum())
    if unknown:
        if UNK not in ids:
            raise UserError(f"{title} has {unknown:,} words outside the vocabulary, which has no "
                            f"{UNK}")  # fmt: skip
        found[found < 0] = ids[UNK]
    return torch.from_numpy(found), unknown


def unigram_perplexity(text: Corpus) -> float:
    """Perplexity of the test text under the training text's word frequencies, order ignored.

    Each count is raised by one (Laplace), so that a word absent from the training text, such as
    an `<unk>` that only the test text needs, has a probability too. It is the figure to beat.
    """
    counts = text.counts.double() + 1
    log_probability = (counts / counts.sum()).log()
    return float((-log_probability[text.test[1:].long()].mean()).exp())


def _open(source: Source, path: Path) -> Corpus:
    about = json.loads((path / "corpus.json").read_bytes())
    if about["key"] != _key(source):
        raise ValueError(f"{path} holds another version of the text")
    vocabulary, tokens = tuple(about["vocabulary"]), about["tokens"]
    ids = {split: _map(path / f"{split}.bin", tokens[split], torch.int32) for split in SPLITS}
    counts = _map(path / "counts.bin", len(vocabulary), torch.int64)
    return Corpus(
        source.name, vocabulary, counts, **ids, unknown=about["unknown"], titles=source.titles
    )


def _key(source: Source) -> list:
    return [_FORMAT, source.min_count, source.key]


def _map(path: Path, size: int, dtype: torch.dtype) -> torch.Tensor:
    """The file as a tensor [size]; ValueError unless it has just that size."""
    if path.stat().st_size != size * dtype.itemsize:
        raise ValueError(f"{path} should hold {size} x {dtype}")
    return torch.from_file(str(path), shared=False, size=size, dtype=dtype)


def _write_first_ids(tokens: Tokens, first: defaultdict[str, int], path: Path) -> np.ndarray:
    """Write each word's place in `first`, which grows, to `path`; how often each occurs."""
    words = chain.from_iterable(tokens)
    ids, counts = map(first.__getitem__, words), np.zeros(len(first), dtype=np.int64)
    with path.open("wb") as file:
        while (chunk := np.fromiter(islice(ids, _CHUNK), dtype=np.int32)).size:
            file.write(chunk.tobytes())
            more = np.bincount(chunk, minlength=len(counts))
            more[: len(counts)] += counts
            counts = more
    return counts


def _number(
    words: list[str], counts: np.ndarray, outside: np.ndarray, unk: int
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """The vocabulary, the final id of every first id, and the vocabulary's counts.

    Words `outside` share `<unk>`'s id.
    """
    order = sorted(np.flatnonzero(~outside), key=lambda i: (-counts[i], words[i]))
    final = np.zeros(len(words), dtype=np.int32)
    final[order] = np.arange(len(order))
    final[outside] = final[unk]
    return tuple(words[i] for i in order), final, counts[order]


def _renumber(path: Path, final: np.ndarray) -> None:
    with path.open("r+b") as file:
        while content := file.read(_CHUNK * final.itemsize):
            file.seek(-len(content), os.SEEK_CUR)
            file.write(final[np.frombuffer(content, dtype=np.int32)].tobytes())
        sync(file)
