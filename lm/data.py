"""`python -m lm.data NAME`: what a text holds."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from lm.command import main_imports, run_command

with main_imports(__name__):
    import torch

    from lm.arguments import Parser
    from lm.text.corpus import UNK, Corpus, load_corpus, unigram_perplexity
    from lm.text.sources import NAMED
    from lm.text.tokens import EOS, SPLITS

_CHUNK = 1 << 20  # tokens


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
    parser = Parser("lm.data", "What a text holds; one with a name is downloaded if it must be.")
    what = f"{', '.join(NAMED)}, or a directory of three files"
    parser.add_argument("text", metavar="NAME", help=what)
    name = parser.parse_args(argv).text
    return run_command("lm.data", lambda: print(*describe(load_corpus(name)), sep="\n"))


if __name__ == "__main__":
    sys.exit(main())
