"""vmap over samples: together they give what each alone gives."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, grad, jvp, vmap

import fused_lstm
from cases import rungs
from tolerance import assert_close

DOUBLE = {"dtype": torch.float64}
OPTIONS = {
    "plain": {},
    "one layer": {"num_layers": 1, "bias": False},
    "bidirectional": {"bidirectional": True},
    "projected": {"proj_size": 2},
}
both = pytest.mark.parametrize(("engine", "fuse"), rungs("compile", "loop", "cudnn", top=True))
each_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
T, B, N = 3, 2, 4


def make(engine, fuse, options) -> tuple[fused_lstm.LSTM, dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    given = {"num_layers": 2, "engine": engine, "fuse": fuse} | options
    module = fused_lstm.LSTM(3, 4, **given, **DOUBLE)
    return module, {name: p.detach() for name, p in module.named_parameters()}


def loss_of(module):
    """Of weights, x [T, B, I], a state of any kind or None, and resets."""

    def loss(weights, x, h=None, c=None, resets=None):
        state = None if h is None else (h, c)
        y, (h_n, c_n) = functional_call(module, weights, (x, state, None, resets))
        return y.sin().sum() + (h_n * h_n).sum() + c_n.sum()

    return loss


def one_by_one(function, in_dims, *args):
    samples = next(a.shape[d] for a, d in zip(args, in_dims, strict=True) if d is not None)
    found = [
        function(*(a if d is None else a.select(d, n) for a, d in zip(args, in_dims, strict=True)))
        for n in range(samples)
    ]
    return {name: torch.stack([of[name] for of in found]) for name in found[0]}


def check(function, in_dims, *args):
    found = vmap(function, in_dims)(*args)
    for name, wanted in one_by_one(function, in_dims, *args).items():
        assert_close(found[name], wanted, name)


@each_option
@both
def test_gradients_of_weights(engine, fuse, options, whole):
    if engine == "triton" and not whole:
        pytest.skip("long in the interpreter; test_samples.py has it, and masks below: --slow")
    module, weights = make(engine, fuse, options)
    check(grad(loss_of(module)), (None, 2), weights, torch.randn(T, B, N, 3, **DOUBLE))


@pytest.mark.parametrize("dims", [(0, 2, None), (0, None, 1), (0, 1, 0)], ids=str)
@both
def test_states_and_resets_of_all_or_of_each(engine, fuse, dims, whole):
    if engine == "triton" and not whole:
        pytest.skip("long in the interpreter, of whose kernels it is nothing new: --slow")
    of_x, of_state, of_resets = dims
    module, weights = make(engine, fuse, {"bidirectional": True})
    state = torch.randn(2, 4, B, 4, **DOUBLE)
    if of_state is not None:
        state = torch.randn(2, N, 4, B, 4, **DOUBLE).movedim(1, of_state + 1)
    resets = torch.rand(T, B) < 0.4
    if of_resets is not None:
        resets = (torch.rand(N, T, B) < 0.4).movedim(0, of_resets)
    in_dims = None, of_x, of_state, of_state, of_resets
    check(
        grad(loss_of(module)), in_dims, weights, torch.randn(N, T, B, 3, **DOUBLE), *state, resets
    )


@each_option
@both
def test_differentiated_again(engine, fuse, options, whole):
    if engine == "triton" and not whole:
        pytest.skip("long in the interpreter, of whose kernels it is nothing new: --slow")
    module, weights = make(engine, fuse, options)
    first, x = grad(loss_of(module)), torch.randn(T, B, N, 3, **DOUBLE)

    def of_gradient(weights, x):
        return sum(g.square().sum() for g in first(weights, x).values())

    check(grad(of_gradient), (None, 2), weights, x)

    def of_all(weights, each):
        found = each(weights, x)
        parts = (g.flatten(1).square().sum(1) for g in found.values())
        return (sum(parts) * torch.arange(N)).sum()

    together = grad(of_all)(weights, vmap(first, (None, 2)))
    apart = grad(of_all)(weights, lambda w, x: one_by_one(first, (None, 2), w, x))
    for name, wanted in apart.items():
        assert_close(together[name], wanted, name)


@both
def test_forward_mode_through_it(engine, fuse):
    module, weights = make(engine, fuse, {})
    first, x = grad(loss_of(module)), torch.randn(T, B, N, 3, **DOUBLE)

    def tangent(run):
        return jvp(lambda x: run(weights, x), (x,), (x.cos(),))[1]

    found = tangent(vmap(first, (None, 2)))
    for name, wanted in tangent(lambda *a: one_by_one(first, (None, 2), *a)).items():
        assert_close(found[name], wanted, name)


@both
def test_samples_of_samples(engine, fuse):
    module, weights = make(engine, fuse, {})
    each = vmap(grad(loss_of(module)), (None, 2))
    check(each, (None, 0), weights, torch.randn(N, T, B, N, 3, **DOUBLE))


MASKS = {
    "dropout": {"dropout": 0.5},
    "zoneout": {"zoneout": 0.4},
    "recurrent_dropout": {"recurrent_dropout": 0.4},
    "layer_norm": {"layer_norm": True},
    "peephole": {"peephole": True},
}


@pytest.mark.parametrize("options", MASKS.values(), ids=MASKS)
@both
def test_every_sample_draws_what_it_would_alone(engine, fuse, options, whole):
    """randomness="same": the same masks for all, and with gradients of each."""
    if engine == "triton" and options != MASKS["dropout"] and not whole:
        pytest.skip("long in the interpreter: --slow")
    module, weights = make(engine, fuse, options)
    samples = 2 if engine == "triton" else N  # long in the interpreter
    x, loss = torch.randn(samples, T, B, 3, **DOUBLE), loss_of(module)

    def one(x):
        torch.manual_seed(5)
        return {"y": module(x)[0], **grad(loss)(weights, x)}

    found = vmap(one, randomness="same")(x)
    for name, wanted in one_by_one(one, (0,), x).items():
        assert_close(found[name].detach(), wanted.detach(), name)
