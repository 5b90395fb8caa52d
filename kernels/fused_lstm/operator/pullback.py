"""Autograd functions of an operator: a kernel's derivatives, or those of a plain form.

The first derivative is a kernel; operator.transforms has it under torch.func. In forward mode,
and where a backward is itself differentiated, the operator's plain form runs instead: the same
values, at a step loop's speed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..errors import meant


def is_transformed() -> bool:
    """Return whether torch.func or forward mode is active."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_differentiated(*tensors: Tensor | None) -> bool:
    """Return whether autograd records a gradient by one of the tensors."""
    if not torch.is_grad_enabled():
        return False
    if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():  # of no graph
        return False
    for t in tensors:  # noqa: SIM110  (any() takes twice as long)
        if t is not None and t.requires_grad:
            return True
    return False


def kernel(operator: Callable, *arguments: Any, **options: Any) -> Any:
    """Call an operator below autograd; a C++ error becomes the exception that it names."""
    with torch._C._AutoDispatchBelowAutograd():
        try:
            return operator(*arguments, **options)
        except RuntimeError as error:
            raise meant(error) from None


def version_of(tensor: Tensor) -> int | None:
    """Return the number of a tensor's changes in place; one of inference mode counts none."""
    return None if tensor.is_inference() else tensor._version


def filled(grads: Sequence[Tensor | None], like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return a gradient for each tensor: zeros where there is none.

    A gradient may have more rows than its tensor: a kernel's c has more after the states.
    """
    missing = [None] * (len(like) - len(grads))
    pairs = zip([*grads[: len(like)], *missing], like, strict=True)
    return tuple(
        torch.zeros_like(t) if g is None else (g if g.shape == t.shape else g[: len(t)]).to(t.dtype)
        for g, t in pairs
    )


def pulled_back(
    function: Callable, inputs: Sequence[Tensor | None], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Return the gradients by `inputs` of function(*inputs), a tuple, in plain PyTorch.

    grads: the gradients by the function's first results; the others have none. An input that is
    None has no gradient. The result can be differentiated again.
    """
    places = [n for n, t in enumerate(inputs) if t is not None]

    def of_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
        full = list(inputs)
        for n, tensor in zip(places, tensors, strict=True):
            full[n] = tensor
        return function(*full)

    outputs, pullback, *_ = torch.func.vjp(of_tensors, *(inputs[n] for n in places))
    by_place = dict(zip(places, pullback(filled(grads, outputs)), strict=True))
    return [by_place.get(n) for n in range(len(inputs))]


class Backward(torch.autograd.Function):
    """apply(run, plain, results, *grads, *inputs): a kernel's backward, derived by the plain form.

    run(*grads, *inputs) returns the gradient by each input, None where the input is None, which
    only the last may be. plain(*inputs) returns the results; `grads` are by the first `results`.
    """

    @staticmethod
    def forward(ctx, run, plain, results, *tensors):
        ctx.plain, ctx.results = plain, results
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        return run(*tensors)

    @staticmethod
    def backward(ctx, *by_gradients):
        def gradients(*tensors):
            grads, inputs = tensors[: ctx.results], tensors[ctx.results :]
            by_input = pulled_back(ctx.plain, inputs, grads)
            return tuple(t for t in by_input if t is not None)

        return None, None, None, *pulled_back(gradients, ctx.saved_tensors, by_gradients)


class Forms(NamedTuple):
    """The forms of an operator that runs a recurrence: `lstm` or `recurrence` of operator.ops.

    call: everything about a call except its tensors. constants: its tensors without gradients.
    """

    # (ops, call, save, *constants, *inputs) -> y, h_n, c_n, and with `save` what a backward needs
    kernel: Callable[..., tuple[Tensor, ...]]
    # (ops, call, needs_dx, (*constants, y, *saved), dy, dh_n, dc_n, *inputs) -> gradients by
    # inputs. by_states=: gradients by what is saved but the last, or nothing where none come
    backward: Callable[..., Sequence[Tensor | None]]
    # (call, *constants, *inputs) -> y, h_n, c_n, and what is saved except the last, the gates
    plain: Callable[..., tuple[Tensor, ...]]
    # (ops, call) -> whether `backward` takes samples=n, and returns weights' gradients of each
    keeps_samples: Callable[..., bool]
    rows: tuple[int, int, int]  # where rows of batch are in x, h0, c0, and in y, h_n, c_n


class Forward(torch.autograd.Function):
    """apply(forms, ops, call, constants, *inputs) -> the kernel's outputs.

    All outputs except the last, the gates, can be differentiated. The caller may write over y
    before the backward (`y.mul_(2)`), which then computes it again.
    """

    @staticmethod
    def forward(ctx, forms, ops, call, constants, *inputs):
        outputs = forms.kernel(ops, call, True, *constants, *inputs)
        y, _, _, *saved = outputs
        ctx.forms, ctx.ops, ctx.call = forms, ops, call
        ctx.inputs, ctx.constants = len(inputs), len(constants)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(saved[-1])
        ctx.y, saved_y = None, y
        # Not where hooks take what is saved, as torch.utils.checkpoint's do, nor in a graph.
        if type(y) is Tensor and torch._C._autograd._top_saved_tensors_default_hooks(True) is None:
            ctx.y, ctx.version, saved_y = y.detach(), version_of(y), None
        ctx.save_for_backward(*inputs, *constants, saved_y, *saved)
        return outputs

    @staticmethod
    def backward(ctx, dy, dh_n, dc_n, *dstates):
        forms, call, tensors = ctx.forms, ctx.call, ctx.saved_tensors
        inputs, rest = tensors[: ctx.inputs], tensors[ctx.inputs :]
        constants, (y, *saved) = rest[: ctx.constants], rest[ctx.constants :]
        y = ctx.y if y is None else y
        if ctx.y is not None and version_of(y) != ctx.version:  # the caller has written over y
            with torch.no_grad():
                y = forms.kernel(ctx.ops, call, False, *constants, *inputs)[0]
        if not torch._C._autograd._get_current_graph_task_keep_graph():
            ctx.y = None  # as what is saved is let go
        grads, of_call = (dy, dh_n, dc_n), (ctx.needs_input_grad[4], (*constants, y, *saved))
        by_states = dstates[:-1]
        if all(gradient is None for gradient in by_states):
            by_states = ()
        plain = partial(forms.plain, call, *constants)
        if torch._C._are_functorch_transforms_active() or (by_states and torch.is_grad_enabled()):
            return *[None] * 4, *pulled_back(plain, inputs, (*grads, *by_states))
        run = partial(forms.backward, ctx.ops, call, *of_call)
        if torch.is_grad_enabled():
            return *[None] * 4, *Backward.apply(run, plain, 3, *grads, *inputs)
        return *[None] * 4, *run(*grads, *inputs, by_states=by_states)
