"""The softmax layer and the loss behind one function, the largest part of a small model's work."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    target: torch.Tensor,
    reduction: str = "mean",
) -> torch.Tensor:
    """Cross entropy, in nats, of a linear layer's softmax, without handing out the logits.

    hidden [N, H], weight [V, H], bias [V], target [N] int64; a target of -100 is left out. Half
    precision is widened to float32 for the softmax.
    """
    logits = F.linear(hidden, weight, bias)
    if logits.element_size() < 4:
        logits = logits.float()
    return F.cross_entropy(logits, target, reduction=reduction)
