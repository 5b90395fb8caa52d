"""The softmax layer's product and cross entropy as one, without the [N, V] logits.

A language model with a large vocabulary spends more on its softmax layer than on its LSTM, and most
of that on moving logits. Here rows are taken in chunks: a chunk's logits are made, turned into
losses and gradients and used up while they are in cache. The forward makes the gradients too, since
making the logits a second time would cost a third more; `backward` only scales them. (The idea is
Liger-Kernel's, https://github.com/linkedin/Liger-Kernel.)

N, H, V: rows (T * B), hidden size, vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .native import OPS, missing
from .reference import state_dtype

CHUNK_BYTES = 64 << 20  # of logits at once, where torch makes them
REDUCTIONS = ("none", "mean", "sum")


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Tensor:
    """F.cross_entropy(F.linear(hidden, weight, bias), target), in C++ on a CPU that has it built.

    Args:
        hidden: [N, H]; weight: [V, H]; bias: [V] or None, all of one dtype.
        target: [N] int64, classes in [0, V).
        reduction: "none" gives [N] losses, "mean" and "sum" a scalar, as F.cross_entropy does.
        ignore_index: a target that has no loss and is not counted in the mean.

    Returns:
        The loss, float64 for float64 and float32 for anything else.

    Raises:
        ValueError: a shape, dtype or reduction that does not fit.
        IndexError: a target that is no class (on a CPU; elsewhere undefined).
    """
    _check(hidden, weight, bias, target, reduction)
    inputs = (hidden, weight) if bias is None else (hidden, weight, bias)
    gradients = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    return _LinearCrossEntropy.apply(
        hidden, weight, bias, target, reduction, ignore_index, gradients
    )


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, target, reduction, ignore_index, gradients):
        ctx.reduction, ctx.ignore_index = reduction, ignore_index
        row_grad = None
        if reduction == "none":
            ctx.save_for_backward(hidden, weight, bias, target)
        elif gradients:
            row_grad = hidden.new_ones(len(hidden), dtype=state_dtype(hidden.dtype))
        if reduction == "mean":
            count = (target != ignore_index).sum()
            if row_grad is not None:
                row_grad = row_grad / count
        loss, *grads = _losses(hidden, weight, bias, target, row_grad, ignore_index)
        if row_grad is not None:
            ctx.save_for_backward(*grads)
        if reduction == "none":
            return loss
        return loss.sum() / count if reduction == "mean" else loss.sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        if ctx.reduction == "none":  # only now is each row's own gradient known
            hidden, weight, bias, target = ctx.saved_tensors
            _, *grads = _losses(hidden, weight, bias, target, grad.contiguous(), ctx.ignore_index)
        else:
            grads = ctx.saved_tensors
            if grad.device.type != "cpu" or grad.item() != 1:  # spares a pass over the largest
                grads = [g * grad.to(g.dtype) for g in grads]
        wanted = zip(ctx.needs_input_grad[:3], grads, strict=True)
        return *(g if needed else None for needed, g in wanted), None, None, None, None


def _losses(hidden, weight, bias, target, row_grad, ignore_index):
    """[N] losses and, where row_grad [N] says the gradients by them, those of the inputs."""
    if missing(hidden.device) is None:
        return OPS.linear_cross_entropy(hidden, weight, bias, target, row_grad, ignore_index)
    return _losses_in_chunks(hidden, weight, bias, target, row_grad, ignore_index)


@torch.no_grad()
def _losses_in_chunks(hidden, weight, bias, target, row_grad, ignore_index):
    """The same in torch's own operators, on any device."""
    dtype = state_dtype(hidden.dtype)
    rows = max(1, CHUNK_BYTES // (len(weight) * dtype.itemsize))
    losses = hidden.new_empty(len(hidden), dtype=dtype)
    dhidden = dweight = dbias = hidden.new_empty(0)
    if row_grad is not None:
        dhidden = torch.empty_like(hidden)
        dweight = torch.zeros_like(weight, dtype=dtype)
        dbias = dbias if bias is None else torch.zeros_like(bias, dtype=dtype)
    for first in range(0, len(hidden), rows):
        chunk = slice(first, first + rows)
        x, t = hidden[chunk], target[chunk]
        counts = t != ignore_index
        logits = torch.nn.functional.linear(x, weight, bias).to(dtype)
        picked = logits.gather(1, torch.where(counts, t, 0)[:, None])
        log_sum = logits.logsumexp(1, keepdim=True)
        losses[chunk] = torch.where(counts, (log_sum - picked)[:, 0], 0)
        if row_grad is None:
            continue
        grad = torch.where(counts, row_grad[chunk], 0)[:, None]
        dlogits = logits.sub_(log_sum).exp_().mul_(grad)
        dlogits.scatter_add_(1, torch.where(counts, t, 0)[:, None], -grad)
        factor = dlogits.to(hidden.dtype)
        torch.mm(factor, weight, out=dhidden[chunk])
        dweight += factor.T @ x
        if bias is not None:
            dbias += dlogits.sum(0)
    return losses, dhidden, dweight.to(weight.dtype), dbias.to(weight.dtype)


def _check(hidden, weight, bias, target, reduction) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction: got {reduction!r}, should be one of {', '.join(REDUCTIONS)}")
    if hidden.dim() != 2:
        raise ValueError(f"hidden: got shape {list(hidden.shape)}, should be [N, H]")
    (rows, size), classes = hidden.shape, len(weight)
    expected = [("weight", weight, [classes, size]), ("target", target, [rows])]
    expected += [] if bias is None else [("bias", bias, [classes])]
    for name, tensor, shape in expected:
        if list(tensor.shape) != shape:
            raise ValueError(f"{name}: got shape {list(tensor.shape)}, should be {shape}")
        if tensor.device != hidden.device:
            raise ValueError(f"{name}: got device {tensor.device}, should be {hidden.device}")
        dtype = torch.int64 if name == "target" else hidden.dtype
        if tensor.dtype != dtype:
            raise ValueError(f"{name}: got dtype {tensor.dtype}, should be {dtype}")
