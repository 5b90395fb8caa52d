"""Kernels under torch.func: `grad`, `vjp` and `vmap`, one inside another, gradients by sample too.

torch.func hands an autograd function to one transform after another, the innermost first. Under
`vmap` a rule of ours runs: where all samples have the same weights, their rows are one batch, and
one backward keeps the gradients of the weights apart by sample, as for Opacus. Where weights differ
by sample, as in an ensemble, each sample is a call. Second derivatives are those of the plain form.
Forward mode (`jvp`, `jacfwd`, `hessian`) has no kernel: see fused_lstm.operator.pullback.

S: samples, the size that vmap maps over. A folded tensor has S * B rows in place of B.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd import forward_ad

from .pullback import Forms, pulled_back


def active() -> set[TransformType]:
    """Return the kinds of torch.func's transforms that are active."""
    return {level.key() for level in get_interpreter_stack() or ()}


def have_kernels() -> bool:
    """Return whether the active transforms are all such that a kernel has their derivatives."""
    return forward_ad._current_level < 0 and active() <= {TransformType.Grad, TransformType.Vmap}


def run(forms: Forms, ops: Any, call: Any, constants: tuple, *inputs: Tensor | None) -> tuple:
    """Return y, h_n and c_n of an operator under torch.func; arguments as those of Forward."""
    folds = TransformType.Grad not in active() or forms.keeps_samples(ops, call)
    return Forward.apply(forms, ops, call, folds, constants, *inputs)[:3]


class Forward(torch.autograd.Function):
    """apply(forms, ops, call, folds, constants, *inputs) -> y, h_n, c_n and what is saved.

    folds: whether samples may be rows of one batch. What is saved lies as a kernel left it: for
    torch.func it has no samples where they are rows.
    """

    @staticmethod
    def forward(forms, ops, call, folds, constants, *inputs):
        return tuple(forms.kernel(ops, call, True, *constants, *inputs))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.forms, ctx.ops, ctx.call, _, ctx.constants, *tensors = inputs
        y, _, _, *saved = output
        ctx.mark_non_differentiable(*saved)
        ctx.set_materialize_grads(False)
        ctx.inputs = len(tensors)
        ctx.save_for_backward(*tensors, y, *saved)

    @staticmethod
    def backward(ctx, dy, dh_n, dc_n, *_):
        tensors = ctx.saved_tensors
        inputs, (y, *saved) = tensors[: ctx.inputs], tensors[ctx.inputs :]
        grads = torch.zeros_like(y) if dy is None else dy, dh_n, dc_n
        if not have_kernels():
            plain = partial(ctx.forms.plain, ctx.call, *ctx.constants)
            return *[None] * 5, *pulled_back(plain, inputs, grads)
        needs_dx = ctx.needs_input_grad[5]
        found = Backward.apply(
            ctx.forms, ctx.ops, ctx.call, needs_dx, 0, ctx.constants, (y, *saved), *grads, *inputs
        )
        return *[None] * 5, *spread(found, needs_dx, inputs)

    @staticmethod
    def vmap(info, in_dims, forms, ops, call, folds, constants, *inputs):
        S, (of_constants, *dims) = info.batch_size, in_dims[4:]
        apply = partial(Forward.apply, forms, ops, call, folds)
        rows_alone = all(constant is None for constant in constants[:-1])
        if not (folds and rows_alone and all(dim is None for dim in dims[3:])):
            return one_by_one(S, apply, (constants, *inputs), (of_constants, *dims))
        constants = *constants[:-1], folded(constants[-1], of_constants[-1], -1, S)
        outputs = apply(constants, *all_folded(inputs, dims, forms.rows, S))
        results, out_dims = unfolded(outputs[:3], forms.rows, S)
        return (*results, *outputs[3:]), (*out_dims, *[None] * len(outputs[3:]))


class Backward(torch.autograd.Function):
    """apply(forms, ops, call, needs_dx, samples, constants, saved, *grads, *inputs) -> gradients.

    saved: y and what Forward has saved. grads: by y, h_n and c_n. samples: as of the operator
    `lstm_backward`. The result has the gradient by each input but those that have none: see
    `spread`.
    """

    @staticmethod
    def forward(forms, ops, call, needs_dx, samples, constants, saved, *tensors):
        of_samples = {"samples": samples} if samples else {}
        found = forms.backward(ops, call, needs_dx, (*constants, *saved), *tensors, **of_samples)
        return tuple(g for g in found if g is not None)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.forms, _, ctx.call, ctx.needs_dx, ctx.samples, ctx.constants, _, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, *by_gradients):
        needs_dx, samples = ctx.needs_dx, ctx.samples

        def of_one(constants: tuple, *tensors: Any) -> tuple[Tensor, ...]:
            plain = partial(ctx.forms.plain, ctx.call, *constants)
            found = pulled_back(plain, tensors[3:], tensors[:3])
            return tuple(g for g in found[not needs_dx :] if g is not None)

        def gradients(*tensors: Any) -> tuple[Tensor, ...]:
            if not samples:
                return of_one(ctx.constants, *tensors)
            return by_sample(of_one, samples, ctx.forms.rows, needs_dx, ctx.constants, *tensors)

        return *[None] * 7, *pulled_back(gradients, ctx.saved_tensors, by_gradients)

    @staticmethod
    def vmap(info, in_dims, forms, ops, call, needs_dx, samples, constants, saved, *tensors):
        S, (of_constants, of_saved, *dims) = info.batch_size, in_dims[5:]
        are_rows = all(dim is None for dim in (*of_saved[1:], *dims[6:]))
        if not (are_rows and any(dim is not None for dim in dims[3:6])):
            apply = partial(Backward.apply, forms, ops, call, needs_dx, samples)
            given = constants, saved, *tensors
            return one_by_one(S, apply, given, (of_constants, of_saved, *dims))
        constants = *constants[:-1], folded(constants[-1], of_constants[-1], -1, S)
        y = folded(saved[0], of_saved[0], forms.rows[0], S)
        places = *forms.rows, *forms.rows
        found = Backward.apply(
            forms, ops, call, needs_dx, S * max(samples, 1), constants, (y, *saved[1:]),
            *all_folded(tensors, dims, places, S),
        )  # fmt: skip
        of_rows, of_weights = found[: 2 + needs_dx], found[2 + needs_dx :]
        results, out_dims = unfolded(of_rows, forms.rows[not needs_dx :], S)
        if samples:
            of_weights = [g.unflatten(0, (S, samples)) for g in of_weights]
        return (*results, *of_weights), (*out_dims, *[0] * len(of_weights))


def spread(found: Sequence[Tensor], needs_dx: bool, inputs: Sequence[Tensor | None]) -> list:
    """Return a gradient for each input: of x with needs_dx alone, of None none."""
    rest = iter(found)
    wanted = needs_dx, *(t is not None for t in inputs[1:])
    return [next(rest) if one else None for one in wanted]


# --- samples and rows ---


def folded(t: Tensor | None, dim: int | None, at: int, S: int) -> Tensor | None:
    """Return t with its samples before its rows, as rows; dim: where samples are, None in none.

    at: where rows are without samples.
    """
    if t is None:
        return None
    at = at if at >= 0 else at + t.dim() - (dim is not None)
    if dim is not None:
        return t.movedim(dim, at).flatten(at, at + 1)
    return t.unsqueeze(at).expand(*t.shape[:at], S, *t.shape[at:]).flatten(at, at + 1)


def all_folded(tensors: Sequence, dims: Sequence, places: Sequence[int], S: int) -> list:
    """Return tensors folded, the first ones, which have rows at `places`, and the others."""
    pairs = zip(tensors[: len(places)], dims, places, strict=False)
    return [*(folded(t, dim, at, S) for t, dim, at in pairs), *tensors[len(places) :]]


def unfolded(tensors: Sequence[Tensor], places: Sequence[int], S: int) -> tuple[list, list]:
    """Return tensors with rows at `places` as S samples, and where these are: None where nowhere.

    A cell without c has no elements in c_n.
    """
    there = [t.numel() > 0 for t in tensors]
    results = [
        t.unflatten(at, (S, -1)) if full else t
        for t, at, full in zip(tensors, places, there, strict=True)
    ]
    return results, [at if full else None for at, full in zip(places, there, strict=True)]


def one_by_one(S: int, apply: Callable, given: Sequence, dims: Sequence) -> tuple[tuple, tuple]:
    """Return what `apply` returns for each sample, and where samples are in it."""
    flat, structure = torch.utils._pytree.tree_flatten(list(given))
    flat_dims = torch.utils._pytree.tree_leaves(list(dims), is_leaf=lambda d: d is None)

    def of_sample(n: int) -> tuple[Tensor, ...]:
        own = [
            t if dim is None else t.select(dim, n) for t, dim in zip(flat, flat_dims, strict=True)
        ]
        return apply(*torch.utils._pytree.tree_unflatten(own, structure))

    results = tuple(torch.stack(of) for of in zip(*map(of_sample, range(S)), strict=True))
    return results, (0,) * len(results)


def by_sample(
    of_one: Callable, S: int, places: tuple[int, ...], needs_dx: bool, constants: tuple, *tensors
) -> tuple[Tensor, ...]:
    """Return the gradients of `of_one` for each of S samples of folded tensors, folded again.

    of_one: (constants, grads by y, h_n and c_n, x, h0, c0, weights) -> gradients.
    """
    *others, not_reset = constants
    if not_reset is not None:
        not_reset = not_reset.unflatten(-1, (S, -1))
    of_mask = None if not_reset is None else -2
    rows, of_rows = [], []
    for t, at in zip(tensors[:6], (*places, *places), strict=True):
        rows.append(None if t is None else t.unflatten(at, (S, -1)))
        of_rows.append(None if t is None else at)
    weights = tensors[6:]
    in_dims = (*[None] * len(others), of_mask), *of_rows, *[None] * len(weights)
    found = torch.vmap(of_one, in_dims)((*others, not_reset), *rows, *weights)
    kept = places[not needs_dx :]  # of the gradients that have rows
    again = [g.movedim(0, at).flatten(at, at + 1) for g, at in zip(found, kept, strict=False)]
    return *again, *found[len(kept) :]
