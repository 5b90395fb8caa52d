"""The update: gradients scaled down to a norm, then one fused pass over the parameters."""

from __future__ import annotations

import torch
from torch import nn

from lm.config import Config


class Updater:
    """The optimizer of a `Config`, with its gradient clipping.

    Nothing here waits for the device, and what changes between steps is in tensors that stay where
    they are: the rate too, so that a CUDA graph may hold a step.
    """

    def __init__(self, model: nn.Module, config: Config) -> None:
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[config.optimizer]
        self.parameters = list(model.parameters())
        device = self.parameters[0].device
        # The fused kernels of a GPU read a float; those of a CPU a double.
        dtype = torch.float64 if device.type == "cpu" else torch.float32
        self._rate = torch.zeros((), dtype=dtype, device=device)
        self.optimizer = kind(
            self.parameters, lr=self._rate, weight_decay=config.weight_decay, fused=True
        )
        self.max_norm = config.max_grad_norm
        # Plain SGD is linear in the gradient, so that a factor of the gradient is one of the rate:
        # no pass over the gradients to scale them.
        self._linear = config.optimizer == "sgd" and config.weight_decay == 0
        self.set_rate(config.learning_rate)

    def set_rate(self, rate: float) -> None:
        """The learning rate from now on."""
        self.rate = rate
        self._rate.fill_(rate)

    def step(self, scale: float = 1.0) -> torch.Tensor:
        """Update the parameters by `scale` times their gradients, clipped.

        Returns the norm of those before they were clipped, a scalar on the device. The gradients
        are not what they were, afterwards.
        """
        grads = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(grads) * scale
        factor = (self.max_norm / (norm + 1e-6)).clamp(max=1) * scale  # as clip_grad_norm_ has it
        rate = self._rate
        if self._linear:
            rate = (factor * rate.to(factor.dtype)).to(rate.dtype)
        else:
            torch._foreach_mul_(grads, factor)
        (group,) = self.optimizer.param_groups
        group["lr"] = rate
        if "capturable" in group:  # Adam asks for it in a capture, and warns of it elsewhere
            group["capturable"] = _capturing(rate.device)
        self.optimizer.step()
        return norm


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
