"""Perplexity of a text under a model; and `python -m lm.evaluate`, for a trained one."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence

from lm.command import main_imports, run_command

with main_imports(__name__):
    import torch

    from lm import checkpoint, corpus, sources
    from lm.arguments import COUNT, Parser, add_checkpoint, number
    from lm.data import evaluation_batches
    from lm.errors import UserError
    from lm.model import LM_LSTM
    from lm.ranks import Ranks
    from lm.text import SPLITS


def perplexity_of(nll: float) -> float:
    """exp(nll), nll being a mean in nats; infinite where that is NaN or overflows."""
    return math.exp(nll) if nll < 700 else math.inf


def perplexity(
    model: LM_LSTM,
    ids: torch.Tensor,
    batch_size: int,
    ranks: Ranks = Ranks(),  # noqa: B008  frozen
    after_batch: Callable[[], None] | None = None,
) -> float:
    """Perplexity of every token of `ids` [N] but the first, which has nothing before it.

    The text is read in `batch_size` columns, the state carried down each: more columns are
    faster, and each column's first words have less before them. The columns are divided among
    `ranks`. The model is put in evaluation mode, and back.
    """
    was_training, own = model.training, ranks.own(batch_size)
    columns = own.stop - own.start
    losses = [torch.zeros((), device=model.sm_fc.weight.device)]
    model.eval()
    try:
        with torch.no_grad():
            hidden = model.init_hidden(columns)
            ids = ids.to(losses[0].device)
            for inputs, targets in evaluation_batches(ids, batch_size, model.num_steps, own):
                if columns:
                    nll, hidden = model.loss(inputs, targets, hidden, reduction="sum")
                    losses.append(nll)
                if after_batch is not None:
                    after_batch()
    finally:
        model.train(was_training)
    total = torch.stack(losses).double().sum()
    return perplexity_of(float(ranks.total(total)) / (len(ids) - 1))


# --- the command ---


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, or this process's; return the exit status."""
    parser = Parser("lm.evaluate", "Perplexity of a text under a trained model.")
    add_checkpoint(parser)
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
    ids, unknown = corpus.encode(
        source.tokens()[options.split], found.vocabulary, source.titles[options.split]
    )
    if len(ids) < 2:
        raise UserError(f"{source.titles[options.split]} holds no words")
    begin = time.perf_counter()
    value = perplexity(model, ids, options.batch_size or found.config.test_batch_size)
    seconds = time.perf_counter() - begin
    print(f"checkpoint {found.path}, step {found.step}")
    print(f"text       {source.titles[options.split]}: {len(ids):,} tokens, {unknown:,} unknown")
    print(f"speed      {len(ids) / seconds:,.0f} words per second")
    print(f"perplexity {value:.3f}")


if __name__ == "__main__":
    sys.exit(main())
