"""Perplexity of a text under a model."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from lm.model import LM_LSTM
from lm.text.batches import evaluation_batches
from lm.training.ranks import ALONE, Ranks


def perplexity_of(nll: float) -> float:
    """exp(nll), nll being a mean in nats; infinite where that is NaN or overflows."""
    return math.exp(nll) if nll < 700 else math.inf


def perplexity(
    model: LM_LSTM,
    ids: torch.Tensor,
    batch_size: int,
    ranks: Ranks = ALONE,
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
