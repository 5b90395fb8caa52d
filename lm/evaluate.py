"""Perplexity of a text under a model."""

from __future__ import annotations

import math

import torch

from lm.data import evaluation_batches
from lm.model import LM_LSTM


def perplexity_of(nll: float) -> float:
    """exp(nll), nll being a mean in nats; infinite where that is NaN or overflows."""
    return math.exp(nll) if nll < 700 else math.inf


@torch.no_grad()
def perplexity(model: LM_LSTM, ids: torch.Tensor, batch_size: int) -> float:
    """Perplexity of every token of `ids` [N] int64 but the first, which has nothing before it.

    The text is read in `batch_size` columns, the state carried down each: more columns are
    faster, and each column's first words have less before them. The model is put in evaluation
    mode, and back.
    """
    was_training = model.training
    model.eval()
    ids = ids.to(model.sm_fc.weight.device)
    hidden, losses = model.init_hidden(batch_size), []
    for inputs, targets in evaluation_batches(ids, batch_size, model.num_steps):
        nll, hidden = model.loss(inputs, targets, hidden, reduction="sum")
        losses.append(nll)
    model.train(was_training)
    return perplexity_of(math.fsum(torch.stack(losses).tolist()) / (len(ids) - 1))
