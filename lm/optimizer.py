"""The optimizer: gradients scaled down to a norm, then one fused pass over the parameters."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

from lm.settings import Config


class Optimizer:
    """The optimizer of a `Config`, with its gradient clipping; `base` is PyTorch's.

    Nothing in it waits for a GPU, and what changes between steps is in tensors that stay where they
    are: the rate too, so that a CUDA graph may hold a step.

    Where it can, on a CPU, it has the model's embedding give its gradient by the rows that a step
    has read (`nn.Embedding.sparse`): of the others, nearly all, a step then touches nothing.
    """

    def __init__(self, model: nn.Module, config: Config) -> None:
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[config.optimizer]
        self.parameters = list(model.parameters())
        device = self.parameters[0].device
        # The fused kernels of a GPU read a float; those of a CPU a double.
        dtype = torch.float64 if device.type == "cpu" else torch.float32
        self._rate = torch.zeros((), dtype=dtype, device=device)
        self.base = kind(
            self.parameters, lr=self._rate, weight_decay=config.weight_decay, fused=True
        )
        self.max_norm = config.max_grad_norm
        # Plain SGD is linear in the gradient, so that a factor of the gradient is one of the rate:
        # no pass over the gradients to scale them. And where a gradient is 0 it does nothing.
        self._linear = config.optimizer == "sgd" and config.weight_decay == 0
        if self._linear and device.type == "cpu":  # to find equal rows a GPU would be waited for
            give_rows(model)
        self.set_rate(config.learning_rate)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate from now on."""
        self.rate = rate
        self._rate.fill_(rate)

    def step(self, scale: float = 1.0) -> torch.Tensor:
        """Update the parameters by `scale` times their gradients, clipped.

        Returns the norm of those before they were clipped, a scalar on the device. The gradients
        are not what they were, afterwards.
        """
        gradients = {p: p.grad for p in self.parameters if p.grad is not None}
        rows = {p: grad.coalesce() for p, grad in gradients.items() if grad.is_sparse}
        grads = [rows[p].values() if p in rows else grad for p, grad in gradients.items()]
        norm = nn.utils.get_total_norm(grads) * scale
        factor = (self.max_norm / (norm + 1e-6)).clamp(max=1) * scale  # as clip_grad_norm_ has it
        rate = self._rate
        if self._linear:
            rate = (factor * rate.to(factor.dtype)).to(rate.dtype)
        else:
            torch._foreach_mul_(grads, factor)
        (group,) = self.base.param_groups
        group["lr"] = rate
        if "capturable" in group:  # Adam asks for it in a capture, and warns of it elsewhere
            on_gpu = rate.device.type == "cuda"
            group["capturable"] = on_gpu and torch.cuda.is_current_stream_capturing()
        for parameter, grad in rows.items():
            parameter.grad = None  # the fused update takes no rows
            parameter.detach().add_(grad, alpha=-rate.item())
        self.base.step()
        return norm


def give_rows(model: nn.Module) -> None:
    """Ask for sparse gradients of the embeddings whose weights nothing else has."""
    users = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.sparse = users[id(module.weight)] == 1
