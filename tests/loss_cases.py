"""Problems of a softmax layer and its loss, and PyTorch's answers to them."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def problem(N, H, V, bias=True, dtype=torch.float32):
    inputs = [torch.randn(N, H, dtype=dtype), torch.randn(V, H, dtype=dtype) / H**0.5]
    inputs += [torch.randn(V, dtype=dtype)] if bias else []
    return [t.requires_grad_() for t in inputs], torch.randint(V, (N,))


def stock(hidden, linear_weight, target, *, linear_bias=None, reduction="mean", **options):
    """PyTorch's loss of [..., H] under [...], in the dtype that it was given."""
    logits = F.linear(hidden, linear_weight, linear_bias).flatten(0, -2)
    target = target.flatten(0, -2) if target.is_floating_point() else target.flatten()
    loss = F.cross_entropy(logits, target, reduction=reduction, **options)
    return loss.reshape(hidden.shape[:-1]) if reduction == "none" else loss


def losses_and_gradients(function, inputs, target, **options):
    """By name, for gradients of the loss that differ from row to row."""
    hidden, weight, bias = (*inputs, None)[:3]
    loss = function(hidden, weight, target, linear_bias=bias, **options)
    grad = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).reshape(loss.shape)
    grads = torch.autograd.grad(loss, inputs, -3 * grad)
    return {"loss": loss.detach()} | dict(zip(("dhidden", "dweight", "dbias"), grads, strict=False))
