"""`python -m lm.evaluate DIR`: perplexity of a text under a trained model."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from lm.command import main_imports, run_command

with main_imports(__name__):
    from lm.arguments import COUNT, Parser, add_checkpoint, add_engine, number
    from lm.errors import UserError
    from lm.saving import checkpoint
    from lm.text import corpus, sources
    from lm.text.tokens import SPLITS
    from lm.training.perplexity import perplexity


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, or this process's; return the exit status."""
    parser = Parser("lm.evaluate", "Perplexity of a text under a trained model.")
    add_checkpoint(parser)
    add_engine(parser)
    add = parser.add_argument
    add("--data", metavar="NAME", help="as lm.train's [the text that the model was trained on]")
    add("--split", default="test", choices=SPLITS, help="which part of the text [test]")
    add("--batch-size", type=number(int, COUNT), metavar="N", help="columns of text [as in "
        "training: test_batch_size]")  # fmt: skip
    options = parser.parse_args(argv)
    return run_command("lm.evaluate", lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    found, model = checkpoint.open_trained(options)
    data = found.run.get("data") if options.data is None else options.data
    if not isinstance(data, str):
        raise UserError("--data: the checkpoint names no text; name one")
    source = sources.find(data)
    title = source.titles[options.split]
    ids, unknown = corpus.encode(source.tokens()[options.split], found.vocabulary, title)
    if len(ids) < 2:
        raise UserError(f"{title} holds no words")
    begin = time.perf_counter()
    value = perplexity(model, ids, options.batch_size or found.config.test_batch_size)
    seconds = time.perf_counter() - begin
    print(f"checkpoint {found.path}, step {found.step}")
    print(f"text       {title}: {len(ids):,} tokens, {unknown:,} unknown")
    print(f"speed      {len(ids) / seconds:,.0f} words per second")
    print(f"perplexity {value:.3f}")


if __name__ == "__main__":
    sys.exit(main())
