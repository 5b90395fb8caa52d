"""A text in batches; and `python -m lm.data NAME`: what a text holds.

Legend: T time steps, B batch, N tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from lm.command import main_imports, run_command

with main_imports(__name__):
    import torch

    from lm import corpus, sources
    from lm.corpus import EOS, UNK, Corpus
    from lm.text import SPLITS

IGNORED = -100  # a target that pads a batch: F.cross_entropy leaves it out
_RESIDENT = 1 << 26  # tokens: a text up to this is kept on an accelerator, 256 MiB
_CHUNK = 1 << 20  # tokens
_ALL = slice(None)


def load_corpus(name: str) -> Corpus:
    """A text by its name, or a directory of three files; UserError names what is wrong."""
    return corpus.load(sources.find(name))


class Columns:
    """A text, ids [N], as `batch_size` contiguous stretches side by side; the rest is left out.

    Only the rows that are asked for are read, so a memory-mapped text stays in its file. `own`
    picks the columns of one process among several.
    """

    def __init__(
        self, ids: torch.Tensor, batch_size: int, device: torch.device, own: slice = _ALL
    ) -> None:
        length = len(ids) // batch_size
        self._ids = ids[: length * batch_size].view(batch_size, length)[own]
        self._device = device
        if device.type != "cpu" and self._ids.numel() <= _RESIDENT:
            self._ids = self._ids.to(device)

    def batch(self, number: int, num_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(inputs, targets), int64 [T, B], of the training step `number`, from 0, of an epoch.

        The state after one step is the next one's first; a target is the word after its input.
        """
        start = number * num_steps
        block = self._ids[:, start : start + num_steps + 1].t()
        block = block.to(self._device, torch.int64, memory_format=torch.contiguous_format)
        return block[:-1], block[1:]


def steps_per_epoch(tokens: int, batch_size: int, num_steps: int) -> int:
    """Training steps in one pass over `tokens` tokens: whole blocks of T, each with a next word."""
    return max(tokens // batch_size - 1, 0) // num_steps


def evaluation_batches(
    ids: torch.Tensor, batch_size: int, num_steps: int, own: slice = _ALL
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(inputs, targets), int64 [T, B]: every token of `ids` but the first is a target, once.

    Nothing is cut off: the last columns are padded, with targets `IGNORED`, so that all batches
    have one shape, for which an engine may have compiled. `own` picks some of the columns.
    """
    pairs = len(ids) - 1
    length = -(-pairs // (batch_size * num_steps)) * num_steps
    first = torch.arange(batch_size, device=ids.device)[own] * length
    for start in range(0, length, num_steps):
        rows = torch.arange(start, start + num_steps, device=ids.device)
        places = rows[:, None] + first
        inside = places < pairs
        places = places.clamp(max=pairs - 1)
        targets = torch.where(inside, ids[places + 1].long(), IGNORED)
        yield ids[places].long(), targets


def unigram_perplexity(text: Corpus) -> float:
    """Perplexity of the test text under the training text's word frequencies, order ignored.

    Each count is raised by one (Laplace), so that a word absent from the training text, such as
    an `<unk>` that only the test text needs, has a probability too. It is the figure to beat.
    """
    counts = text.counts.double() + 1
    log_probability = (counts / counts.sum()).log()
    return float((-log_probability[text.test[1:].long()].mean()).exp())


# --- the command ---


def longest_line(ids: torch.Tensor, eos: int) -> int:
    """Words of the longest line in ids [N], its end not counted."""
    longest, since = 0, -1
    for start in range(0, len(ids), _CHUNK):
        ends = (ids[start : start + _CHUNK] == eos).nonzero().flatten() + start
        if len(ends):
            lengths = ends.diff(prepend=torch.tensor([since])) - 1
            longest, since = max(longest, int(lengths.max())), int(ends[-1])
    return longest


def describe(text: Corpus) -> Iterator[str]:
    """What a text holds, in lines for a person."""
    yield f"{'text':<12} {text.name}"
    yield f"{'vocabulary':<12} {len(text.vocabulary):,} words"
    eos = text.vocabulary.index(EOS)
    for split in SPLITS:
        ids, unknown = getattr(text, split), text.unknown[split]
        yield (
            f"{split:<12} {len(ids):,} tokens, {unknown:,} outside the vocabulary "
            f"({unknown / len(ids):.2%}), longest line {longest_line(ids, eos):,} words"
        )
    if UNK in text.vocabulary:
        share = float(text.counts[text.vocabulary.index(UNK)]) / len(text.train)
        yield f"{UNK:<12} {share:.2%} of the training text"
    yield f"{'unigram':<12} perplexity {unigram_perplexity(text):.3f} of the test text"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, or this process's; return the exit status."""
    from lm.arguments import Parser

    parser = Parser("lm.data", "What a text holds; one with a name is downloaded if it must be.")
    help = f"{', '.join(sources.NAMED)}, or a directory of three files"
    parser.add_argument("text", metavar="NAME", help=help)
    name = parser.parse_args(argv).text
    return run_command("lm.data", lambda: print(*describe(load_corpus(name)), sep="\n"))


if __name__ == "__main__":
    sys.exit(main())
