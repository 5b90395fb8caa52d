"""Kernels under torch.func, beside the loop: when samples are rows of one batch, and when not."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap

import fused_lstm
from bench import zoo
from cases import needs_native
from fused_lstm.operator import autograd, recurrence
from tolerance import assert_close

S, T, B, I, H = 3, 4, 2, 5, 6
ENGINES = [pytest.param("native", marks=needs_native), "triton"]
LAYERS = {
    "lstm": partial(fused_lstm.LSTM, I, H),
    "two directions": partial(fused_lstm.LSTM, I, H, 2, bidirectional=True),
    "projected": partial(fused_lstm.LSTM, I, H, proj_size=3),
    "gru": partial(fused_lstm.GRU, I, H, 2),
    "rnn": partial(fused_lstm.RNN, I, H, bias=False),
    "peephole": partial(fused_lstm.LSTM, I, H, peephole=True),
    "layer norm": partial(fused_lstm.GRU, I, H, layer_norm=True),
    "heads": partial(fused_lstm.GRU, I, H, num_heads=2),
    "slstm": partial(fused_lstm.SLSTM, I, H, num_heads=2),
    "told": partial(fused_lstm.Recurrent, zoo.lltm, I, H),
    "weights of a unit": partial(fused_lstm.Recurrent, zoo.peephole, I, H),
    "products": partial(fused_lstm.Recurrent, zoo.gru_reset_before, I, H),
}


def sums(outputs):
    """Return a number of which each output's gradient is different."""
    y, state = outputs
    last = state if isinstance(state, tuple) else (state,)
    return (y * y).sum() + sum(((1 + n) * t.sin()).sum() for n, t in enumerate(last))


def of_parameters(layer, *arguments, **options):
    """Return a function of parameters and x."""
    return lambda p, x: sums(functional_call(layer, p, (x, *arguments), options))


HOW = {
    "grad": lambda f, p, xs: grad(f)(p, xs[0]),
    "by x": lambda f, p, xs: grad(f, argnums=1)(p, xs[0]),
    "by sample": lambda f, p, xs: vmap(grad(f), (None, 0))(p, xs),
    "by sample and x": lambda f, p, xs: vmap(grad(f, (0, 1)), (None, 0))(p, xs),
    "values": lambda f, p, xs: vmap(f, (None, 0))(p, xs),
    "ensemble": lambda f, p, xs: vmap(grad(f), (0, None))(ensemble(p), xs[0]),
    "two vmaps": lambda f, p, xs: vmap(vmap(grad(f), (None, 0)), (None, 0))(
        p, torch.stack([xs, xs.cos()])
    ),
    "of all samples": lambda f, p, xs: grad(lambda p: vmap(f, (None, 0))(p, xs).sin().sum())(p),
    "twice": lambda f, p, xs: grad(lambda p: norm(grad(f)(p, xs[0])))(p),
    "of gradients by sample": lambda f, p, xs: grad(
        lambda p: norm(vmap(grad(f), (None, 0))(p, xs))
    )(p),
}
FEW = "by sample", "ensemble", "of gradients by sample"  # of all layers


def ensemble(p):
    return {name: torch.stack([t, t * 0.5]) for name, t in p.items()}


def norm(gradients):
    return sum((g * g).sum() for g in gradients.values())


def compare(make, engine, how, monkeypatch, **options):
    """Compare an engine with the loop; only second derivatives may run the reference."""
    torch.manual_seed(0)
    loop = make(dtype=torch.float64, engine="loop")
    layer = make(dtype=torch.float64, engine=engine)
    layer.load_state_dict(loop.state_dict())
    p = {name: t.detach() for name, t in loop.named_parameters()}
    xs = torch.randn(S, T, B, I, dtype=torch.float64)
    wanted = HOW[how](of_parameters(loop, **options), p, xs)
    if how not in ("twice", "of gradients by sample"):

        def none(*_):
            raise AssertionError("the reference ran")

        monkeypatch.setattr(autograd.reference, "run", none)
        monkeypatch.setattr(recurrence, "plain", none)
    found = HOW[how](of_parameters(layer, **options), p, xs)
    for got, right in zip(*map(torch.utils._pytree.tree_leaves, (found, wanted)), strict=True):
        assert_close(got, right, how)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("engine", ENGINES)
def test_an_lstm(engine, how, monkeypatch):
    make = partial(fused_lstm.LSTM, I, H, 1 if engine == "triton" else 2)
    compare(make, engine, how, monkeypatch)


@needs_native
@pytest.mark.parametrize("how", FEW)
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, how, monkeypatch):
    compare(LAYERS[name], "native", how, monkeypatch)


@needs_native
@pytest.mark.parametrize("rows", ["resets", "lengths"])
@pytest.mark.parametrize("how", ["by sample", "of gradients by sample"])
@pytest.mark.parametrize("name", ["lstm", "heads"])
def test_rows(name, how, rows, monkeypatch):
    """Rows of unequal length are not one batch with another sample's; resets are."""
    options = {
        "resets": {"resets": torch.rand(T, B) < 0.4},
        "lengths": {"lengths": torch.tensor([T, 2])},
    }[rows]
    compare(LAYERS[name], "native", how, monkeypatch, **options)


@needs_native
@pytest.mark.parametrize("name", ["lstm", "two directions", "heads"])
def test_resets_of_each_sample(name):
    results, resets = [], torch.rand(S, T, B) < 0.4
    xs = torch.randn(S, T, B, I, dtype=torch.float64)
    for engine in ("native", "loop"):
        torch.manual_seed(0)
        layer = LAYERS[name](dtype=torch.float64, engine=engine)
        p = {name: t.detach() for name, t in layer.named_parameters()}

        def loss(p, x, r, layer=layer):
            return sums(functional_call(layer, p, (x,), {"resets": r}))

        results.append(vmap(grad(loss), (None, 0, 0))(p, xs, resets))
    for name, right in results[1].items():
        assert_close(results[0][name], right, name)


@needs_native
def test_a_vjp_called_later_and_cotangents_of_jacrev():
    layer = fused_lstm.LSTM(I, H, dtype=torch.float64, engine="native")
    loop = fused_lstm.LSTM(I, H, dtype=torch.float64, engine="loop")
    loop.load_state_dict(layer.state_dict())
    xs, dy = torch.randn(S, T, B, I, dtype=torch.float64), torch.randn(T, B, H).double()
    results = []
    for module in (layer, loop):
        _, pullback = vjp(lambda x, m=module: m(x)[0], xs[0])
        jacobian = vmap(jacrev(lambda x, m=module: m(x)[0][-1]))(xs)
        state = torch.randn(1, B, H, generator=torch.Generator().manual_seed(0)).double()
        of_state = vmap(grad(lambda h, m=module: sums(m(xs[0], (h, h)))))(torch.stack([state] * 2))
        _, moved = jvp(lambda dy, f=pullback: f(dy)[0], (dy,), (dy.cos(),))  # has no kernel
        results.append([*pullback(dy), jacobian, of_state, moved])
    for got, right in zip(*results, strict=True):
        assert_close(got, right, "of a later call")


@needs_native
def test_masks_of_dropout_differ_by_sample_where_they_are_told_to():
    layer = fused_lstm.LSTM(I, H, 2, dropout=0.5, engine="native")
    p = {name: t.detach() for name, t in layer.named_parameters()}
    xs = torch.randn(1, T, B, I).expand(S, -1, -1, -1)
    for randomness in ("same", "different"):
        torch.manual_seed(0)
        first, second, _ = vmap(of_parameters(layer), (None, 0), randomness=randomness)(p, xs)
        assert (first == second) == (randomness == "same")


@needs_native
def test_a_mixture_of_torch_func_and_autograd():
    """vmap inside, a usual backward outside: the parameters' gradients are sums over samples."""
    layer = fused_lstm.GRU(I, H, engine="native").double()
    xs = torch.randn(S, T, B, I, dtype=torch.float64)
    values = vmap(lambda x: sums(layer(x)))(xs)
    found = torch.autograd.grad(values.sum(), list(layer.parameters()), create_graph=True)
    wanted = torch.autograd.grad(sum(sums(layer(x)) for x in xs), list(layer.parameters()))
    for got, right in zip(found, wanted, strict=True):
        assert_close(got.detach(), right, "of a sum")
    again = torch.autograd.grad(sum((g * g).sum() for g in found), list(layer.parameters()))
    assert all(g.isfinite().all() for g in again)
