"""The update: gradients scaled down to a norm, then one fused pass over the parameters."""

from __future__ import annotations

import torch
from torch import nn

from lm.config import Config


class Updater:
    """The optimizer of a `Config`, with its gradient clipping.

    Nothing here waits for the device: the clip's factor stays there.
    """

    def __init__(self, model: nn.Module, config: Config) -> None:
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[config.optimizer]
        self.parameters = list(model.parameters())
        self.optimizer = kind(
            self.parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.max_norm = config.max_grad_norm
        # Plain SGD is linear in the gradient, so that a factor of the gradient is one of the rate:
        # no pass over the gradients to scale them.
        self._linear = config.optimizer == "sgd" and config.weight_decay == 0
        self.set_rate(config.learning_rate)

    def set_rate(self, rate: float) -> None:
        """The learning rate from now on."""
        self.rate = rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def step(self, scale: float = 1.0) -> torch.Tensor:
        """Update the parameters by `scale` times their gradients, clipped.

        Returns the norm of those before they were clipped, a scalar on the device. The gradients
        are not what they were, afterwards.
        """
        grads = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(grads) * scale
        factor = (self.max_norm / (norm + 1e-6)).clamp(max=1) * scale  # as clip_grad_norm_ has it
        if self._linear:
            self.optimizer.param_groups[0]["lr"] = factor * self.rate
        else:
            torch._foreach_mul_(grads, factor)
        self.optimizer.step()
        return norm
