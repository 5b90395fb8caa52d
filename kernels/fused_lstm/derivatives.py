"""Derivatives of a kernel, of any order, forwards or in reverse, under vmap: the machinery.

A kernel brings at most one derivative, its backward. Every other one is taken of the same function
in plain PyTorch, its twin: right everywhere, at the speed of a step loop. fused_lstm.ops says which
kernel has which twin, docs/functions.md has the table of what that gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .errors import meant


class Call(Protocol):
    """A kernel and its twin, with all their arguments but the tensors."""

    kernel: Callable
    inputs: int  # the first tensors, by which it is differentiated; the others are constants

    def arguments(self, *tensors: Tensor | None) -> tuple[tuple, dict]:
        """What `kernel` takes, by place and by name."""

    def twin(self, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        """What `kernel` gives first; the rest of that has no derivative."""


class Differentiable(Call, Protocol):
    """One whose first derivative is a kernel too."""

    results: int  # the kernel's first outputs, which have a derivative

    def kept(self, *outputs: Tensor) -> tuple[Tensor, ...]:
        """Which of the kernel's outputs the backward needs, after all the inputs."""

    def backward(self, needed: Sequence[bool]) -> Call:
        """Of the gradients by the results, the inputs and what was kept."""


class Transposable(Protocol):
    """A kernel that is linear in its first tensor, and its transpose with the same other ones."""

    kernel: Callable

    def arguments(self, *tensors: Tensor) -> tuple[tuple, dict]:
        """What `kernel` takes, by place and by name."""

    def transposed(self) -> Transposable:
        """What takes a gradient by the result to one by the first tensor."""


def call_of(function: type[Twin], differentiable: bool) -> Callable[..., Any]:
    """What to call with (call, *tensors): as little of `function` as the moment needs."""
    if torch._C._are_functorch_transforms_active():
        return function.apply
    if differentiable or forward_ad._current_level >= 0:
        return function.eager.apply
    return function.forward


def dispatched(function: Callable, plain: Callable) -> Callable:
    """What torch's dispatcher is to call where a graph, or anyone else, calls an operator itself.

    The dispatcher comes at one level of torch.func, of which there may be more: each has to see
    plain PyTorch.
    """

    def run(*args, **kwargs):
        transformed = torch._C._are_functorch_transforms_active()
        return (plain if transformed else function)(*args, **kwargs)

    return run


def filled(found: Sequence[Tensor | None], like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """`found`, or zeros `like` what there should be in place of None."""
    pairs = zip(found, like, strict=True)
    return tuple(torch.zeros_like(t) if f is None else f for f, t in pairs)


Kind = TypeVar("Kind", bound="Twin")


def _has_eager_form(function: type[Kind]) -> type[Kind]:
    """Give it `eager`, the same where no torch.func transform is active: half as long to call."""

    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx, call, *tensors):
            with torch._C._AutoDispatchBelowAutograd():
                arguments, options = call.arguments(*tensors)
                try:
                    output = call.kernel(*arguments, **options)
                except RuntimeError as error:
                    raise meant(error) from None
            function.setup_context(ctx, (call, *tensors), output)
            return output

        backward, jvp = staticmethod(function.backward), staticmethod(function.jvp)

    function.eager = Eager
    return function


@_has_eager_form
class Twin(torch.autograd.Function):
    """apply(call, *tensors): the kernel's result, with the derivatives of its twin."""

    eager: type[torch.autograd.Function]

    @staticmethod
    def forward(call, *tensors):
        with torch._C._AutoDispatchBelowAutograd():
            arguments, options = call.arguments(*tensors)
            try:
                return call.kernel(*arguments, **options)
            except RuntimeError as error:
                raise meant(error) from None

    @staticmethod
    def setup_context(ctx, inputs, output):
        (ctx.call, *tensors), ctx.outputs = inputs, len(output)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx, *grads):
        function, inputs, places = _variable(ctx.call, ctx.saved_tensors)
        outputs, pullback = torch.func.vjp(function, *inputs)
        found = dict(zip(places, pullback(filled(grads[: len(outputs)], outputs)), strict=True))
        return None, *map(found.get, range(len(ctx.saved_tensors)))

    @staticmethod
    def jvp(ctx, _, *tangents):
        function, inputs, places = _variable(ctx.call, ctx.saved_tensors)
        # PyTorch turns forward mode off in here: an outer jvp would see a constant. With it on,
        # the inputs must lose the tangents of this jvp.
        with forward_ad._set_fwd_grad_enabled(True):
            inputs = [forward_ad.unpack_dual(t).primal for t in inputs]
            outputs, pullback = torch.func.vjp(function, *inputs)
            # The pullback is linear; its own pullback is the pushforward.
            _, pushforward = torch.func.vjp(pullback, outputs)
            (found,) = pushforward(filled([tangents[n] for n in places], inputs))
        return *found, *[None] * (ctx.outputs - len(found))

    @classmethod
    def vmap(cls, info, in_dims, *args):
        """All at once where the call knows how, else one call after another."""
        together = getattr(args[0], "together", None)
        found = together and together(cls.apply, info.batch_size, in_dims[1:], args[1:])
        if found is not None:
            return found
        pairs = list(zip(args, in_dims, strict=True))
        calls = [cls.apply(*_sample(pairs, n)) for n in range(info.batch_size)]
        calls = zip(*calls, strict=True)
        outputs = tuple(None if of[0] is None else torch.stack(of) for of in calls)
        return outputs, tuple(None if out is None else 0 for out in outputs)


@_has_eager_form
class Fused(Twin):
    """The same for a kernel whose first derivative is a kernel too: a `Differentiable` call."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        (ctx.call, *tensors), ctx.outputs = inputs, len(output)
        ctx.mark_non_differentiable(*output[ctx.call.results :])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *ctx.call.kept(*output))
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx, *grads):
        wanted = ctx.call.backward(ctx.needs_input_grad[1:])
        tensors = (*grads[: ctx.call.results], *ctx.saved_tensors)
        found = call_of(Twin, torch.is_grad_enabled())(wanted, *tensors)
        constants = len(ctx.needs_input_grad) - 1 - len(found)
        return None, *found, *[None] * constants


@_has_eager_form
class Linear(Twin):
    """The same for a kernel with one output, linear in its first tensor: a `Transposable` call."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.call, _, *constants = inputs
        ctx.save_for_backward(*constants)
        ctx.save_for_forward(*constants)

    @staticmethod
    def backward(ctx, grad):
        constants = ctx.saved_tensors
        found = call_of(Linear, torch.is_grad_enabled())(ctx.call.transposed(), grad, *constants)
        return None, found, *[None] * len(constants)

    @staticmethod
    def jvp(ctx, _, tangent, *_constants):
        with forward_ad._set_fwd_grad_enabled(True):
            run = call_of(Linear, torch.is_grad_enabled())
            return run(ctx.call, tangent, *ctx.saved_tensors)

    @classmethod
    def vmap(cls, info, in_dims, *args):
        pairs = list(zip(args, in_dims, strict=True))
        calls = [cls.apply(*_sample(pairs, n)) for n in range(info.batch_size)]
        return torch.stack(calls), 0


def _sample(pairs: Sequence[tuple], n: int) -> list:
    """The n-th of a vmap's arguments, each with the dimension that is mapped or None."""
    return [a if d is None else a.select(d, n) for a, d in pairs]


def _variable(call: Call, tensors: Sequence[Tensor | None]):
    """The twin as a function of those of its inputs that there are."""
    places = [n for n in range(call.inputs) if tensors[n] is not None]

    def function(*given):
        full = list(tensors)
        for n, tensor in zip(places, given, strict=True):
            full[n] = tensor
        return call.twin(*full)

    return function, [tensors[n] for n in places], places


# --- a loss ---


class Losses(torch.autograd.Function):
    """apply(kernel, hidden, weight, bias, target, factor, count, ignore_index, gradients):

    factor [N] times each row's loss under its label; given a count, their sum divided by it.
    kernel(hidden, weight, bias, target, row_grad, ignore_index) makes losses and, in one go, the
    gradients that row_grad [N] or None asks for.
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
            if not _is_one(grad):  # spares a pass over the largest
                grads = [g * grad for g in grads]
        else:  # only now is each row's own gradient known
            *inputs, target, factor = ctx.saved_tensors
            _, *grads = ctx.kernel(*inputs, target, grad * factor, ctx.ignore_index)
        wanted = zip(ctx.needs_input_grad[1:4], grads, ctx.dtypes, strict=True)
        found = (g.to(dtype) if needed else None for needed, g, dtype in wanted)
        return None, *found, *[None] * 5


def _is_one(grad: Tensor) -> bool:
    """Whether a scalar is known to be 1 without waiting for a GPU, or compiling for its value."""
    return not torch.compiler.is_compiling() and grad.device.type == "cpu" and grad.item() == 1
