"""`python -m lm.evaluate DIR`: perplexity of a text under a trained model."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence

import torch

from lm.batches import evaluation_batches
from lm.checkpoint import open_trained
from lm.command import COUNT, Parser, UserError, add_checkpoint, add_engine, add_weights, command
from lm.data import SPLITS, encode, read_words
from lm.distributed import World
from lm.model import LM_LSTM


def perplexity_of(nll: float) -> float:
    """Return exp(nll), nll being a mean in nats; raise UserError where that is not finite."""
    if not nll < 700:
        raise UserError(f"the perplexity is not finite (loss {nll:.4g}): the run has diverged; try "
                        "a lower --learning-rate or --max-grad-norm")  # fmt: skip
    return math.exp(nll)


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
    device = model.sm_fc.weight.device
    losses = [torch.zeros((), device=device)]
    hidden = model.eval().init_hidden(part.stop - part.start)
    with torch.no_grad():
        for batch in evaluation_batches(ids.to(device), batch_size, model.num_steps):
            inputs, targets = (side[:, part].long() for side in batch)
            if inputs.numel():  # a rank may have no column
                nll, hidden = model.loss(inputs, targets, hidden, reduction="sum")
                losses.append(nll)
            if after_batch is not None:
                after_batch()
    model.train(was_training)
    total = torch.stack(losses).double().sum()
    return perplexity_of(float(world.sum(total)) / (len(ids) - 1))


# --- the command ---


@command("lm.evaluate")
def main(argv: Sequence[str] | None = None) -> None:
    """Do what the command line `argv` says, or this process's; return the exit status."""
    parser = Parser("lm.evaluate", "Perplexity of a text under a trained model.")
    add_checkpoint(parser)
    add_engine(parser)
    add_weights(parser)
    add = parser.add_argument
    add("--data", metavar="NAME", help="as lm.train's [the text that the model was trained on]")
    add("--split", default="test", choices=SPLITS, help="which part of the text [test]")
    add("--batch-size", type=COUNT, metavar="N", help="columns of text [as in training: "
        "test_batch_size]")  # fmt: skip
    args = parser.parse_args(argv)
    checkpoint, model = open_trained(args)
    name = args.data or checkpoint.options["data"]
    ids, unknown = encode(read_words(name)[args.split], checkpoint.vocabulary)
    if len(ids) < 2:
        raise UserError(f"--data: the {args.split} text of '{name}' holds no words")
    begin = time.perf_counter()
    value = perplexity(model, ids, args.batch_size or checkpoint.config.test_batch_size)
    seconds = time.perf_counter() - begin
    print(f"checkpoint {checkpoint.path}, step {checkpoint.step}")
    print(f"text       {name}, {args.split}: {len(ids):,} tokens, {unknown:,} unknown")
    print(f"speed      {len(ids) / seconds:,.0f} words per second")
    print(f"perplexity {value:.3f}")


if __name__ == "__main__":
    sys.exit(main())
