"""Derivatives of a fused engine's operators: of any order, forwards or in reverse, under vmap.

A kernel brings one derivative, its backward. Every other one is taken of the same function in
plain PyTorch, its twin in fused_lstm.reference: right everywhere, at the speed of a step loop.
docs/functions.md has the table of what that gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import reference


def operator(ops: SimpleNamespace, name: str) -> Callable:
    """An engine's operator; where nothing traces, the same without the dispatcher's toll."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return getattr(ops, name)
    return partial(OPERATORS[name][0], ops)


def cell(ops: SimpleNamespace, gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The operator `cell` of fused_lstm.ops, differentiable."""
    wanted = torch.is_grad_enabled() and (gates.requires_grad or c.requires_grad)
    return _apply(_Fused, wanted, _Cell(ops), gates, c)


def lstm(
    ops: SimpleNamespace,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weights: Sequence[Tensor],
    dropout: float,
    seed: Tensor | None,
    fuse: str,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The operator `lstm` of fused_lstm.ops, differentiable by all but the seed."""
    call = _LSTM(ops, dropout, fuse, save, inputs=3 + len(weights))
    return _apply(_Fused, save, call, x, h0, c0, *weights, seed)


def dropout(ops: SimpleNamespace, x: Tensor, p: float, seed: Tensor) -> Tensor:
    """The operator `dropout` of fused_lstm.native, differentiable by x."""
    wanted = torch.is_grad_enabled() and x.requires_grad
    return _apply(_Linear, wanted, _Dropout(ops, p), x, seed)[0]


def register(library: torch.library.Library, ops: SimpleNamespace, *names: str) -> None:
    """Make an engine's operators differentiable where they are called by torch.compile's graph.

    Not by torch.library.register_autograd, which torch.func cannot transform.
    """
    for name in names:
        function, plain = OPERATORS[name]
        call = partial(_dispatched, partial(function, ops), plain)
        for key in ("Autograd", "FuncTorchBatched"):
            library.impl(name, call, key)


def _dispatched(function: Callable, plain: Callable, *args):
    # The dispatcher comes here at one level of torch.func, of which there may be more: each has to
    # see plain PyTorch.
    return plain(*args) if torch._C._are_functorch_transforms_active() else function(*args)


def _plain_lstm(x, h0, c0, weights, dropout, seed, fuse, save):
    return *reference.lstm(x, h0, c0, weights, dropout, seed), *[x.new_empty(0)] * 3


def _plain_dropout(x, p, seed):
    return (x * reference.dropout_mask(seed, x.shape, p)).to(x.dtype)


# name -> the operator, and with the same arguments plain PyTorch
OPERATORS = {
    "cell": (cell, reference.cell),
    "lstm": (lstm, _plain_lstm),
    "dropout": (dropout, _plain_dropout),
}


# --- autograd, for any kernel with a twin ---


class _Call(Protocol):
    """A kernel and its twin, with all their arguments but the tensors."""

    inputs: int  # the first tensors, by which it is differentiated; the others are constants

    def kernel(self, *tensors: Tensor | None) -> tuple: ...

    def twin(self, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        """What `kernel` gives first; the rest of that has no derivative."""


def _has_eager_form(function: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    """Give it `eager`, the same where no torch.func transform is active: half as long to call."""

    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            output = function.forward(*inputs)
            function.setup_context(ctx, inputs, output)
            return output

        backward, jvp = staticmethod(function.backward), staticmethod(function.jvp)

    function.eager = Eager
    return function


@_has_eager_form
class _Twin(torch.autograd.Function):
    """apply(call, *tensors): the kernel's result, with the derivatives of its twin."""

    @staticmethod
    def forward(call, *tensors):
        with torch._C._AutoDispatchBelowAutograd():
            return call.kernel(*tensors)

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
        found = dict(zip(places, pullback(_filled(grads[: len(outputs)], outputs)), strict=True))
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
            (found,) = pushforward(_filled([tangents[n] for n in places], inputs))
        return *found, *[None] * (ctx.outputs - len(found))

    @classmethod
    def vmap(cls, info, in_dims, *args):
        """One call after another: a kernel has no dimension to spare."""

        pairs = list(zip(args, in_dims, strict=True))

        def call(n: int) -> tuple:
            picked = (a if d is None else a.select(d, n) for a, d in pairs)
            return cls.apply(*picked)

        calls = zip(*map(call, range(info.batch_size)), strict=True)
        outputs = tuple(None if of[0] is None else torch.stack(of) for of in calls)
        return outputs, tuple(None if out is None else 0 for out in outputs)


@_has_eager_form
class _Fused(_Twin):
    """The same for a kernel whose first derivative is a kernel too, `call.backward`."""

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
        found = _apply(_Twin, torch.is_grad_enabled(), wanted, *tensors)
        constants = len(ctx.needs_input_grad) - 1 - len(found)
        return None, *found, *[None] * constants


@_has_eager_form
class _Linear(_Twin):
    """The same for a kernel that is linear in its first tensor and its own derivative by it."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.call, _, *constants = inputs
        ctx.save_for_backward(*constants)
        ctx.save_for_forward(*constants)

    @staticmethod
    def backward(ctx, grad):
        constants = ctx.saved_tensors
        found = _apply(_Linear, torch.is_grad_enabled(), ctx.call, grad, *constants)
        return None, *found, *[None] * len(constants)

    @staticmethod
    def jvp(ctx, _, tangent, *_constants):
        with forward_ad._set_fwd_grad_enabled(True):
            return _apply(_Linear, torch.is_grad_enabled(), ctx.call, tangent, *ctx.saved_tensors)


def _apply(function: type[_Twin], differentiable: bool, call: _Call, *tensors: Tensor | None):
    """function.apply(call, *tensors), or as little of it as the moment needs."""
    if torch._C._are_functorch_transforms_active():
        return function.apply(call, *tensors)
    if differentiable or forward_ad._current_level >= 0:
        return function.eager.apply(call, *tensors)
    return function.forward(call, *tensors)


def _variable(call: _Call, tensors: Sequence[Tensor | None]):
    """The twin as a function of those of its inputs that there are."""
    places = [n for n in range(call.inputs) if tensors[n] is not None]

    def function(*given):
        full = list(tensors)
        for n, tensor in zip(places, given, strict=True):
            full[n] = tensor
        return call.twin(*full)

    return function, [tensors[n] for n in places], places


def _filled(found: Sequence[Tensor | None], like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """`found`, or zeros `like` what there should be in place of None."""
    pairs = zip(found, like, strict=True)
    return tuple(torch.zeros_like(t) if f is None else f for f, t in pairs)


# --- the operators ---


@dataclass(slots=True, eq=False)
class _Cell:
    ops: SimpleNamespace
    inputs: int = 2
    results: int = 2

    def kernel(self, gates, c):
        return self.ops.cell.default(gates, c)

    def twin(self, gates, c):
        return reference.cell(gates, c)

    def kept(self, h, c_next):
        return (c_next,)

    def backward(self, needed):
        return _CellBackward(self.ops)


@dataclass(slots=True, eq=False)
class _CellBackward:
    ops: SimpleNamespace
    inputs: int = 4

    def kernel(self, dh, dc_next, gates, c, c_next):
        dh = torch.zeros_like(c_next, dtype=gates.dtype) if dh is None else dh
        dc_next = torch.zeros_like(c_next) if dc_next is None else dc_next
        return self.ops.cell_backward.default(gates, c, c_next, dh, dc_next)

    def twin(self, dh, dc_next, gates, c, c_next):
        outputs, pullback = torch.func.vjp(reference.cell, gates, c)
        return pullback(_filled((dh, dc_next), outputs))


@dataclass(slots=True, eq=False)
class _LSTM:
    ops: SimpleNamespace
    dropout: float
    fuse: str
    save: bool
    inputs: int
    results: int = 3

    def kernel(self, x, h0, c0, *rest):
        *weights, seed = rest
        own = self.dropout, seed, self.fuse
        return self.ops.lstm.default(x, h0, c0, weights, *own, self.save)

    def twin(self, x, h0, c0, *rest):
        *weights, seed = rest
        return reference.lstm(x, h0, c0, weights, self.dropout, seed)

    def kept(self, y, h_n, c_n, h, c, gates):
        return y, h, c, gates

    def backward(self, needed):
        return _LSTMBackward(self, needed[0], 3 + self.inputs)


@dataclass(slots=True, eq=False)
class _LSTMBackward:
    forward: _LSTM
    needs_dx: bool
    inputs: int

    def kernel(self, dy, dh_n, dc_n, x, h0, c0, *rest):
        *weights, seed, y, h, c, gates = rest
        ops, own = self.forward.ops, (self.forward.dropout, seed, self.forward.fuse)
        if not self.forward.save:  # an outer transform wanted what nobody here knew of
            y, _, _, h, c, gates = ops.lstm.default(x, h0, c0, weights, *own, True)
        dx, dh0, dc0, dweights = ops.lstm_backward.default(
            dy, dh_n, dc_n, x, h0, c0, weights, *own, y, h, c, gates, self.needs_dx
        )
        return dx if self.needs_dx else None, dh0, dc0, *dweights

    def twin(self, dy, dh_n, dc_n, x, h0, c0, *rest):
        *rest, _, _, _, _ = rest
        seed = rest.pop()

        def forward(*tensors):
            return self.forward.twin(*tensors, seed)

        outputs, pullback = torch.func.vjp(forward, x, h0, c0, *rest)
        return pullback(_filled((dy, dh_n, dc_n), outputs))


@dataclass(slots=True, eq=False)
class _Dropout:
    ops: SimpleNamespace
    p: float

    def kernel(self, x, seed):
        return (self.ops.dropout.default(x, self.p, seed),)
