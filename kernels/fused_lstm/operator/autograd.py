"""The operators with derivatives: `lstm` and `dropout`, and a loss.

operator.pullback has the autograd function; docs/functions.md lists what works on which engine.
Shapes are those of fused_lstm.operator.ops; `ops` is an engine's operators.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..call import door
from ..call.choose import STEP_BY_STEP, in_a_graph
from ..call.record import Call
from ..call.spec import CELLS, Spec
from ..errors import meant
from ..reference import ladder
from . import recurrence, transforms
from .pullback import Forms, Forward, is_differentiated, is_transformed, kernel

# --- a stack of layers ---


def run(ops: SimpleNamespace, call: Call) -> tuple[Tensor, ...]:
    """Run a call, as in fused_lstm.call.choose, on an engine's operators.

    Levels "steps" and "layers" are one operator; the others are in fused_lstm.reference.ladder.
    """
    spec, inputs = call.spec, (call.x, call.h0, call.c0, *call.weights)
    if not call.is_whole:
        if spec.in_heads or spec.level in STEP_BY_STEP:
            drop = None if spec.dropout == 0 else partial(_drop, ops, spec.dropout, call.seed)
            return (recurrence.run if spec.in_heads else ladder.climb)(ops, call, drop)
        if in_a_graph():
            return _in_a_graph(ops, call)
        if is_transformed():
            if call.states or not transforms.have_kernels():
                return reference.run(call)
            return transforms.run(LSTM, ops, spec, call.constants, *inputs)
    constants = call.seed, call.batch_sizes, call.not_reset
    if is_differentiated(*inputs):
        return Forward.apply(LSTM, ops, spec, constants, *inputs)
    return lstm_forward(ops, spec, call.states, *constants, *inputs)


def _in_a_graph(ops: SimpleNamespace, call: Call) -> tuple[Tensor, ...]:
    """Run a call that torch.compile or torch.jit.trace records."""
    spec = call.spec
    save = call.states or is_differentiated(*call.inputs)
    save = save or torch.jit.is_tracing()  # a trace may be trained later
    return ops.lstm(
        call.x, call.h0, call.c0, call.weights, spec.dropout, call.seed, spec.level, save,
        directions=spec.schema_directions, batch_sizes=call.batch_sizes, not_reset=call.not_reset,
        cell=spec.schema_cell,
        rates=list(spec.schema_rates) if spec.schema_cell or any(spec.schema_rates) else [],
        precision=spec.precision,
    )  # fmt: skip


def lstm_forward(
    ops: SimpleNamespace,
    spec: Spec,
    save: bool,
    seed: Tensor | None,
    batch_sizes: Tensor | None,
    not_reset: Tensor | None,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    *weights: Tensor,
) -> tuple[Tensor, ...]:
    """Return the operator's outputs: y, h_n, c_n, and h, c, gates, which a backward needs.

    Without `save` the last three have no elements, or are left out.
    """
    options = spec.schema
    if batch_sizes is not None or not_reset is not None:
        options = named(spec, batch_sizes, not_reset)
    elif _has_door(ops, seed):
        outputs = door.of(spec, door.FORWARD, save)(x, h0, c0, weights)
        if outputs is not None:
            return outputs
    with torch._C._AutoDispatchBelowAutograd():
        try:
            return ops.lstm.default(
                x, h0, c0, weights, spec.dropout, seed, spec.level, save, **options
            )
        except RuntimeError as error:
            raise meant(error) from None


def _has_door(ops: SimpleNamespace, seed: Tensor | None) -> bool:
    """Return whether a call of an engine's operators may take the door."""
    return seed is None and ops.name == "fused_lstm_native" and door.is_open()


def named(spec: Spec, batch_sizes: Tensor | None, not_reset: Tensor | None) -> dict[str, Any]:
    """Return the operator's keyword arguments for a call with lengths or resets."""
    return {**spec.schema, "batch_sizes": batch_sizes, "not_reset": not_reset}


def lstm_backward(
    ops, spec, needs_dx, saved, dy, dh_n, dc_n, x, h0, c0, *weights, samples=0, by_states=()
):
    """Return the kernel's gradients by x, h0, c0 and each weight; x's is None without needs_dx."""
    seed, batch_sizes, not_reset, y, h, c, gates = saved
    options = spec.schema
    if batch_sizes is not None or not_reset is not None:
        options = named(spec, batch_sizes, not_reset)
    elif not samples and not by_states and _has_door(ops, seed):
        grads = door.of(spec, door.BACKWARD, needs_dx)(
            dy, dh_n, dc_n, x, h0, c0, y, h, c, gates, weights
        )
        if grads is not None:
            return grads if needs_dx else (None, *grads[1:])
    if samples:
        options = {**options, "samples": samples}
    if by_states:
        options = {**options, "dh": by_states[0], "dc": by_states[1]}
    with torch._C._AutoDispatchBelowAutograd():
        try:
            dx, dh0, dc0, dweights = ops.lstm_backward.default(
                dy, dh_n, dc_n, x, h0, c0, weights, spec.dropout, seed, spec.level, y, h, c, gates,
                needs_dx, **options,
            )  # fmt: skip
        except RuntimeError as error:
            raise meant(error) from None
    return dx if needs_dx else None, dh0, dc0, *dweights


def plain_lstm(spec, seed, batch_sizes, not_reset, x, h0, c0, *weights):
    """Return y, h_n, c_n, h and c, computed by the reference, which autograd can differentiate."""
    call = Call(spec, x, h0, c0, weights, seed=seed, batch_sizes=batch_sizes, not_reset=not_reset)
    return reference.run(call)


def keeps_samples(ops: SimpleNamespace, spec: Spec) -> bool:
    """Return whether an engine's backward has per-sample gradients of a cell."""
    if spec.peephole or spec.layer_norm or CELLS[spec.cell].weights:
        return False
    plain = CELLS[spec.cell].is_lstm and not spec.coupled
    return plain or ops.name == "fused_lstm_native"


LSTM = Forms(lstm_forward, lstm_backward, plain_lstm, keeps_samples, rows=(1, 1, 1))


# --- dropout ---


def draw_seed(device: torch.device) -> Tensor:
    """Draw the seed [1] int64 of a call's masks from PyTorch's generator.

    The seed stays on the device: no synchronization, and a CUDA graph can replay it.
    """
    return torch.randint(2**63 - 1, (1,), device=device)


def dropout(
    ops: SimpleNamespace, x: Tensor, p: float, seed: Tensor | None, first: int = 0
) -> Tensor:
    """Return x times its dropout mask.

    seed: [1] int64; None draws one.
    first: the number of x's first element in the mask of a longer tensor, such as a stack's.
    """
    if seed is None:
        seed = torch.randint(2**63 - 1, (1,), device=x.device)
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return ops.dropout(x, p, seed, first)
    if is_transformed():
        return plain_dropout(x, p, seed, first)
    if torch.is_grad_enabled() and x.requires_grad:
        return DropoutFunction.apply(ops, x, p, seed, first)
    return kernel(ops.dropout.default, x, p, seed, first)


def plain_dropout(x: Tensor, p: float, seed: Tensor, first: int = 0) -> Tensor:
    """Return the result of `dropout`, computed in plain PyTorch."""
    return (x * reference.dropout_mask(seed, x.shape, p, first)).to(x.dtype)


def _drop(ops, p, seed, y, layer):
    """Apply the dropout after `layer`; all layers share one mask, the same at every level."""
    return dropout(ops, y, p, seed[:1], layer * y.numel())  # [2] where a call is part of another


class DropoutFunction(torch.autograd.Function):
    """apply(ops, x, p, seed, first): linear in x, so its backward applies the same mask."""

    @staticmethod
    def forward(ctx, ops, x, p, seed, first):
        ctx.options = ops, p, first
        ctx.save_for_backward(seed)
        with torch._C._AutoDispatchBelowAutograd():
            try:
                return ops.dropout.default(x, p, seed, first)
            except RuntimeError as error:
                raise meant(error) from None

    @staticmethod
    def backward(ctx, grad):
        (ops, p, first), (seed,) = ctx.options, ctx.saved_tensors
        return None, dropout(ops, grad, p, seed, first), None, None, None


# --- a loss ---


class Losses(torch.autograd.Function):
    """apply(kernel, hidden, weight, bias, target, factor, count, ignore_index, gradients).

    Returns factor [N] times each row's loss or, where `count` is a tensor, their sum divided by it.
    kernel(hidden, weight, bias, target, row_grad, ignore_index) returns the losses and, where
    row_grad [N] is not None, the gradients too. A second derivative is an error.
    """

    @staticmethod
    def forward(ctx, kernel, hidden, weight, bias, target, factor, count, ignore_index, gradients):
        ctx.kernel, ctx.ignore_index, ctx.summed = kernel, ignore_index, count is not None
        row_grad = factor / count if gradients and ctx.summed else None
        losses, *grads = kernel(hidden, weight, bias, target, row_grad, ignore_index)
        inputs = (hidden, weight, bias)
        ctx.dtypes = [None if t is None else t.dtype for t in inputs]
        ctx.save_for_backward(*(grads if ctx.summed else (*inputs, target, factor)))
        losses = losses * factor
        return losses.sum() / count if ctx.summed else losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        if ctx.summed:
            grads = ctx.saved_tensors
            if not _is_one(grad):  # saves a pass over the largest gradient
                grads = [g * grad for g in grads]
        else:  # only now is each row's gradient known
            *inputs, target, factor = ctx.saved_tensors
            _, *grads = ctx.kernel(*inputs, target, grad * factor, ctx.ignore_index)
        wanted = zip(ctx.needs_input_grad[1:4], grads, ctx.dtypes, strict=True)
        cast = (g.to(dtype) if needed else None for needed, g, dtype in wanted)
        return None, *cast, *[None] * 5


def _is_one(grad: Tensor) -> bool:
    """Return whether a scalar is 1; False where only a GPU or a graph knows."""
    return not torch.compiler.is_compiling() and grad.device.type == "cpu" and grad.item() == 1
