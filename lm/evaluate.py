"""`python -m lm.evaluate DIR`: perplexity of a text under a trained model."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence

import torch

from lm.batches import evaluation_batches
from lm.checkpoint import open_trained
from lm.command import COUNT, Parser, UserError, add_checkpoint, add_engine, number, run_command
from lm.data import SPLITS, encode, read_words
from lm.distributed import World
from lm.model import LM_LSTM


def perplexity_of(nll: float) -> float:
    """Return exp(nll), nll being a mean in nats; infinity where that is NaN or overflows."""
    return math.exp(nll) if nll < 700 else math.inf


def perplexity(
    model: LM_LSTM,
    ids: torch.Tensor,
    batch_size: int,
    world: World | None = None,
    after_batch: Callable[[], None] | None = None,
) -> float:
    """Return the perplexity of every token of `ids` [N] but the first, which nothing comes before.

    The text is read in `batch_size` columns, the state carried down each: more columns are
    faster, and each column's first words have less before them. The columns are divided among
    the ranks of `world`. The model is put in evaluation mode, and back.
    """
    world = world or World()
    was_training, part = model.training, world.columns(batch_size)
    columns = part.stop - part.start
    losses = [torch.zeros((), device=model.sm_fc.weight.device)]
    model.eval()
    try:
        with torch.no_grad():
            hidden = model.init_hidden(columns)
            ids = ids.to(losses[0].device)
            for inputs, targets in evaluation_batches(ids, batch_size, model.num_steps, part):
                if columns:
                    nll, hidden = model.loss(inputs, targets, hidden, reduction="sum")
                    losses.append(nll)
                if after_batch is not None:
                    after_batch()
    finally:
        model.train(was_training)
    total = torch.stack(losses).double().sum()
    return perplexity_of(float(world.sum(total)) / (len(ids) - 1))


# --- the command ---


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
    args = parser.parse_args(argv)
    return run_command("lm.evaluate", lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    checkpoint, model = open_trained(args)
    words, titles = read_words(args.data or checkpoint.options["data"])
    title = titles[args.split]
    ids, unknown = encode(words[args.split], checkpoint.vocabulary, title)
    if len(ids) < 2:
        raise UserError(f"{title} holds no words")
    begin = time.perf_counter()
    value = perplexity(model, ids, args.batch_size or checkpoint.config.test_batch_size)
    seconds = time.perf_counter() - begin
    print(f"checkpoint {checkpoint.path}, step {checkpoint.step}")
    print(f"text       {title}: {len(ids):,} tokens, {unknown:,} unknown")
    print(f"speed      {len(ids) / seconds:,.0f} words per second")
    print(f"perplexity {value:.3f}")


if __name__ == "__main__":
    sys.exit(main())
