"""The softmax layer's product and cross entropy as one operator, without the [N, V] logits.

A language model with a large vocabulary spends more time on its softmax layer than on its LSTM,
most of it on moving logits. This operator takes rows in chunks: a chunk's logits become losses and
gradients while they are in cache. The forward pass computes the gradients too, because computing
the logits twice would cost a third more; the backward pass only scales them. (The idea is
Liger-Kernel's, https://github.com/linkedin/Liger-Kernel.)

N, H, V: rows (all of a batch's and a sequence's), hidden size, vocabulary.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..call.choose import can_run
from ..call.run import autocast_dtype, precision_now, without_autocast
from ..errors import meant
from ..operator.autograd import Losses
from ..operator.ops import NATIVE
from ..operator.pullback import is_transformed
from ..reference import state_dtype

CHUNK_BYTES = 64 << 20  # the most logits at once where PyTorch computes them
REDUCTIONS = ("none", "mean", "sum")


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return F.cross_entropy(F.linear(input, linear_weight, linear_bias), target, ...).

    On a CPU it runs in C++; on a GPU, and where the C++ engine is missing, PyTorch's operators
    compute each chunk. Arguments are those of F.linear_cross_entropy (torch 2.13) except `options`:
    rows are always taken in chunks. Under autocast the inputs are cast as F.linear's are.

    Args:
        input: [..., H]; linear_weight: [V, H]; linear_bias: [V] or None, all of one dtype.
        target: [...] int64, classes in [0, V); or [..., V], probabilities in a floating dtype. They
            are as large as the logits, so the logits are computed in full too.
        weight: [V], a factor for each class's loss, or None; it gets no gradient.
        reduction: "none" gives losses [...], "mean" and "sum" a scalar. The mean is weighted.
        ignore_index: a class that has no loss and is not counted in the mean; None is -100.
        label_smoothing: the part of each target that is spread over all classes, in [0, 1].

    Returns:
        The loss: float64 for float64 inputs, else float32. (F.linear_cross_entropy returns half
        precision for half precision outside autocast.)

    Raises:
        ValueError: a shape, dtype or value does not fit; the message names the argument.
        IndexError: a target is no class (on a CPU; on a GPU the result is undefined).
    """
    _check(
        input, linear_weight, target, linear_bias, weight,
        reduction, ignore_index, label_smoothing,
    )  # fmt: skip
    input = input.to(autocast_dtype(input))  # the weights are cast to it too
    if input.shape[-1] == 0:  # an empty sum is the sum of one zero
        input, linear_weight = F.pad(input, (0, 1)), F.pad(linear_weight, (0, 1))
    shape = input.shape[:-1]
    hidden = input.reshape(-1, input.shape[-1])
    with without_autocast(input.device):
        if target.is_floating_point():
            loss = _of_probabilities(
                hidden, linear_weight, target, linear_bias, weight, reduction, label_smoothing
            )
        else:
            loss = _of_labels(
                hidden, linear_weight, target.reshape(-1), linear_bias, weight, reduction,
                -100 if ignore_index is None else ignore_index, label_smoothing,
            )  # fmt: skip
    return loss.reshape(shape) if reduction == "none" else loss


def _rounded(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Cast a product's factor; None stays None."""
    return None if tensor is None else tensor.to(dtype)


def _of_probabilities(hidden, linear_weight, target, bias, weight, reduction, smoothing):
    linear_weight, bias = linear_weight.to(hidden.dtype), _rounded(bias, hidden.dtype)
    dtype, classes = state_dtype(hidden.dtype), len(linear_weight)
    weight = _rounded(weight, dtype)
    logits = F.linear(hidden, linear_weight, bias).to(dtype)
    target = target.reshape(-1, classes).to(dtype)
    return F.cross_entropy(logits, target, weight, reduction=reduction, label_smoothing=smoothing)


def _of_labels(hidden, linear_weight, target, bias, weight, reduction, ignore_index, smoothing):
    """Return the loss of integer targets, from the unweighted losses that `Losses` computes.

    Let z be the logits, w = `weight`, W = sum(w), s = smoothing, and l = logsumexp(z) - z_t the
    unweighted loss of target t. A row's loss is (1 - s) w_t l + s/V sum_c w_c (l + z_t - z_c),
    which is ((1 - s) w_t + s/V W) l + s/V sum_c w_c (z_t - z_c).
    """
    dtype, classes = state_dtype(hidden.dtype), len(linear_weight)
    counts = target != ignore_index
    label = torch.where(counts, target, 0)
    if weight is None:
        each, weight = counts.to(dtype), hidden.new_ones((), dtype=dtype).expand(classes)
    else:
        weight = weight.to(dtype)
        each = torch.where(counts, weight[label], 0)
    count = each.sum() if reduction == "mean" else hidden.new_ones((), dtype=dtype)
    factor = each
    if smoothing > 0:
        factor = torch.where(counts, (1 - smoothing) * each + smoothing / classes * weight.sum(), 0)
    loss = _weighted(
        hidden, linear_weight, bias, target, factor,
        None if reduction == "none" else count, ignore_index,
    )  # fmt: skip
    if smoothing == 0:
        return loss
    rounded = (_rounded(t, hidden.dtype) for t in (hidden, linear_weight, bias))
    parts = (_rounded(t, dtype) for t in rounded)
    below = torch.where(counts, _advantage(label, weight, *parts), 0) * (smoothing / classes)
    return loss + (below if reduction == "none" else below.sum() / count)


def _weighted(hidden, linear_weight, bias, target, factor, count, ignore_index):
    """Return factor [N] times each row's unweighted loss, or their sum divided by `count`."""
    # The backward is as exact as its forward, whatever PyTorch's switch says by then.
    precision = precision_now(hidden.dtype, "matmul")
    losses = partial(_losses, precision=precision) if precision else _losses
    if is_transformed():  # torch.func wants derivatives of any order
        rounded = (_rounded(t, hidden.dtype) for t in (hidden, linear_weight, bias))
        logits = F.linear(*rounded).to(state_dtype(hidden.dtype))
        each = F.cross_entropy(logits, target, reduction="none", ignore_index=ignore_index)
        return each * factor if count is None else (each * factor).sum() / count
    wants_grad = (t is not None and t.requires_grad for t in (hidden, linear_weight, bias))
    gradients = torch.is_grad_enabled() and any(wants_grad)
    return Losses.apply(
        losses, hidden, linear_weight, bias, target, factor, count, ignore_index, gradients
    )


def _advantage(label, weight, hidden, linear_weight, bias):
    """Return sum_c weight_c (z_label - z_c) of each row [N], which needs no logits."""
    total = weight.sum()
    direction = total * F.embedding(label, linear_weight) - weight @ linear_weight
    found = (hidden * direction).sum(1)
    return found if bias is None else found + (total * bias[label] - weight @ bias)


def _losses(hidden, weight, bias, target, row_grad, ignore_index, precision=None):
    """Return the losses [N] and, given row_grad [N], the gradients by hidden, weight and bias.

    Weights are rounded to the dtype of `hidden`. Gradients of half precision are float32: float16
    would round them to 0 before a GradScaler's factor is applied.
    """
    weight, bias = weight.to(hidden.dtype), _rounded(bias, hidden.dtype)
    if not can_run("native", hidden.device):
        return _losses_in_chunks(hidden, weight, bias, target, row_grad, ignore_index)
    options = {} if precision is None else {"precision": precision}
    try:
        return NATIVE.linear_cross_entropy(
            hidden, weight, bias, target, row_grad, ignore_index, **options
        )
    except RuntimeError as error:
        raise meant(error) from None


@torch.no_grad()
def _losses_in_chunks(hidden, weight, bias, target, row_grad, ignore_index):
    """Return what `_losses` does, by PyTorch's operators on any device."""
    dtype = state_dtype(hidden.dtype)
    rows = max(1, CHUNK_BYTES // (len(weight) * dtype.itemsize))
    losses = hidden.new_empty(len(hidden), dtype=dtype)
    dhidden = dweight = dbias = hidden.new_empty(0)
    if row_grad is not None:
        row_grad = torch.where(target != ignore_index, row_grad, 0)
        # Products in half precision take factors of order 1: a mean's 1 / N is lost in float16.
        scale = F.pad(row_grad.abs(), (0, 1), value=torch.finfo(dtype).tiny).amax()
        dhidden = torch.empty_like(hidden, dtype=dtype)
        dweight = torch.zeros_like(weight, dtype=dtype)
        dbias = dbias if bias is None else torch.zeros_like(bias, dtype=dtype)
    for first in range(0, len(hidden), rows):
        chunk = slice(first, first + rows)
        x, t = hidden[chunk], target[chunk]
        counts = t != ignore_index
        label = torch.where(counts, t, 0)[:, None]
        logits = F.linear(x, weight, bias).to(dtype)
        log_sum = logits.logsumexp(1, keepdim=True)
        losses[chunk] = torch.where(counts, (log_sum - logits.gather(1, label))[:, 0], 0)
        if row_grad is None:
            continue
        grad = (row_grad[chunk] / scale)[:, None]
        dlogits = logits.sub_(log_sum).exp_().mul_(grad).scatter_add_(1, label, -grad)
        factor = dlogits.to(hidden.dtype)
        dhidden[chunk] = factor @ weight
        dweight += factor.T @ x
        if bias is not None:
            dbias += dlogits.sum(0)
    if row_grad is not None:
        dhidden, dweight, dbias = dhidden * scale, dweight * scale, dbias * scale
    return losses, dhidden, dweight, dbias


def _check(
    input, linear_weight, target, linear_bias, weight, reduction, ignore_index, label_smoothing
) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction: got {reduction!r}; expected one of {', '.join(REDUCTIONS)}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing: got {label_smoothing}; expected in [0, 1]")
    if input.dim() == 0 or not input.is_floating_point():
        got = f"shape {list(input.shape)} and {input.dtype}"
        raise ValueError(f"input: got {got}; expected [..., H] in a floating dtype")
    if linear_weight.dim() != 2 or len(linear_weight) == 0:
        raise ValueError(
            f"linear_weight: got shape {list(linear_weight.shape)}; expected [V, H] with V > 0"
        )
    (*rows, size), classes = input.shape, len(linear_weight)
    probabilities = target.is_floating_point()
    if probabilities and ignore_index is not None:
        raise ValueError(f"ignore_index: got {ignore_index}; expected None: target is no class")
    kind = None if probabilities else torch.int64
    expected = [
        ("linear_weight", linear_weight, [classes, size], autocast_dtype(input)),
        ("linear_bias", linear_bias, [classes], autocast_dtype(input)),
        ("weight", weight, [classes], None),
        ("target", target, [*rows, classes] if probabilities else rows, kind),
    ]
    for name, tensor, shape, dtype in expected:
        if tensor is None:
            continue
        if list(tensor.shape) != shape:
            raise ValueError(f"{name}: got shape {list(tensor.shape)}; expected {shape}")
        if tensor.device != input.device:
            raise ValueError(f"{name}: got device {tensor.device}; expected {input.device}")
        if dtype is not None and autocast_dtype(tensor) != dtype:
            raise ValueError(f"{name}: got dtype {tensor.dtype}; expected {dtype}")
    if weight is not None and weight.requires_grad:
        raise ValueError(
            "weight: got a tensor that requires a gradient; expected a detached one, since the loss"
            " has no gradient by it"
        )
