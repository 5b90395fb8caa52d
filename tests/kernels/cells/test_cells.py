"""Cells that cuDNN does not have; tests/conformance has their values and gradients."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

import fused_lstm
from cases import rungs
from cells import drawn_seed, each_cell, make
from fused_lstm import reference
from fused_lstm.call import choose
from fused_lstm.call.spec import PLAIN, RECURRENT, ZONEOUT_C, ZONEOUT_H, Spec
from lanes import Case
from tolerance import assert_close

DOUBLE = {"dtype": torch.float64}


@pytest.mark.parametrize(  # of H = 4: a gate's weight has 12 rows
    ("P", "bias"), [(8, True), (12, True), (12, False), (13, False)]
)
@pytest.mark.parametrize(("engine", "fuse"), rungs("compile"))
def test_coupled_with_an_h_that_is_projected_to_more(engine, fuse, bias, P):
    """Against nn.LSTM's cell on the same weights, its forget gate's rows minus the input gate's."""
    T, B, I, H, L = 3, 2, 5, 4, 2
    coupled, full = [], []
    for layer in range(L):
        shapes = [(3 * H, P if layer else I), (3 * H, P), *[(3 * H,)] * (2 * bias)]
        gates = [torch.randn(shape, **DOUBLE) * 0.5 for shape in shapes]
        w_hr = torch.randn(P, H, **DOUBLE) * 0.5
        coupled += [*gates, w_hr]
        full += [*(torch.cat([w[:H], -w[:H], w[H:]]) for w in gates), w_hr]
    x = torch.randn(T, B, I, **DOUBLE)
    state = torch.randn(L, B, P, **DOUBLE), torch.randn(L, B, H, **DOUBLE)
    y, (h_n, c_n) = fused_lstm.lstm(
        x, state, coupled, engine=engine, fuse=fuse, cell=Spec(coupled=True)
    )
    wanted, (h, c) = fused_lstm.lstm(x, state, full, engine="loop")
    for name, a, b in zip(("y", "h_n", "c_n"), (y, h_n, c_n), (wanted, h, c), strict=True):
        assert_close(a, b, name)


@pytest.mark.slow  # its compiler takes long, and what it compiles is the loop
def test_the_compile_engine_has_cells():
    """It compiles loop's: two options, since a mask takes its compiler seconds."""
    if (why := fused_lstm.available_engines("cpu")["compile"]) is not None:
        pytest.skip(why)
    module = make(Case(L=1), engine="loop", layer_norm=True, recurrent_dropout=0.4)
    x, found = torch.randn(2, 3, 3, **DOUBLE), []
    for module.engine in ("loop", "compile"):
        torch.manual_seed(7)
        found.append(module(x)[0].detach())
    assert_close(found[1], found[0], "y")


@each_cell
def test_auto_takes_an_engine_that_has_the_cell(options):
    names = set(options)
    engine = choose.choose("auto", None, torch.device("cpu"), Spec(**options)).engine
    assert all(choose.ENGINES[engine].has("lstm", name) for name in names)


@pytest.mark.filterwarnings("ignore:engine='auto'")
def test_auto_takes_the_loop_where_native_was_not_built(monkeypatch):
    monkeypatch.setattr("fused_lstm.native.missing", lambda device: "not built")
    specs = Spec(layer_norm=True), Spec(zoneout=0.1), Spec(coupled=True)
    for spec, engine in zip(specs, ("loop", "loop", "cudnn"), strict=True):
        found = choose.choose.__wrapped__("auto", None, torch.device("cpu"), spec)[:2]
        assert found[0] == engine


def numbered(draw, first, spec, seed, lane, lanes, *sizes):
    """Draw as of two lanes, counted from number `first`."""
    return draw(spec, seed, lane + first, 2, *sizes)


def test_dropout_between_layers_beside_a_cell(monkeypatch):
    """Its mask is of kind 0, as without a cell."""
    module = make(Case(L=2), zoneout=0.5, dropout=0.5, engine="loop")
    x, seed = torch.randn(5, 3, 3, **DOUBLE), drawn_seed(3)
    torch.manual_seed(3)
    y, _ = module(x)
    found = []
    for layer in range(2):
        own = {name.replace(f"_l{layer}", "_l0"): value
               for name, value in module.state_dict().items() if f"_l{layer}" in name}  # fmt: skip
        one = fused_lstm.LSTM(x.shape[-1], 4, zoneout=0.5, **DOUBLE)
        one.load_state_dict(own)
        weights = list(one.parameters())
        with monkeypatch.context() as patch:
            patch.setattr(reference, "draw", partial(numbered, reference.draw, layer))
            x, *_ = reference.lstm(
                x, *torch.zeros(2, 1, 3, 4, **DOUBLE), weights, 0.0, seed, cell=Spec(zoneout=0.5)
            )
        found.append(x)
        x = x * fused_lstm.philox.dropout_mask(seed, x.shape, 0.5)
    assert_close(y, found[-1], "y")


# --- derivatives ---


# --- as nn.LSTM where it is off ---


@pytest.mark.parametrize(("engine", "fuse"), rungs("compile"))
def test_a_cell_with_nothing_on_is_nn_lstms(engine, fuse):
    off = {"layer_norm": False, "peephole": False, "coupled": False, "zoneout": (0.0, 0.0),
           "recurrent_dropout": 0.0, "forget_bias": None}  # fmt: skip
    torch.manual_seed(1)
    given = fused_lstm.LSTM(3, 4, 2, engine=engine, fuse=fuse, **off)
    torch.manual_seed(1)
    left_out = fused_lstm.LSTM(3, 4, 2, engine=engine, fuse=fuse)
    torch.manual_seed(1)
    theirs = nn.LSTM(3, 4, 2)
    assert replace(given.spec, layers=1) == PLAIN
    x, states = torch.randn(5, 2, 3), theirs.state_dict()
    assert list(given.state_dict()) == list(states)
    assert all(torch.equal(given.state_dict()[name], value) for name, value in states.items())
    assert torch.equal(given(x)[0], left_out(x)[0])
    if engine == "cudnn":
        assert torch.equal(given(x)[0], theirs(x)[0])


@pytest.mark.parametrize("name", ["zoneout", "recurrent_dropout"])
def test_what_falls_in_training_only(name):
    module = fused_lstm.LSTM(3, 4, engine="loop", **{name: 0.5})
    x = torch.randn(5, 2, 3)
    assert not torch.equal(module(x)[0], module(x)[0])
    module.eval()
    assert torch.equal(module(x)[0], module(x)[0])
    plain = fused_lstm.LSTM(3, 4, engine="loop")
    plain.load_state_dict(module.state_dict())
    assert torch.allclose(module(x)[0], plain(x)[0]) == (name != "zoneout")


def test_the_share_that_zoneout_keeps():
    module = fused_lstm.LSTM(3, 200, engine="loop", zoneout=(0.3, 0.0))
    y, _ = module(torch.randn(20, 10, 3))
    share = (y[1:] == y[:-1]).float().mean().item()
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / y[1:].numel()) ** 0.5


def test_kinds_of_masks_have_numbers_apart():
    """docs/cells.md has them. No mask has 2^56 elements."""
    first = ZONEOUT_H, ZONEOUT_C, RECURRENT
    assert first == (1 << 56, 2 << 56, 3 << 56)
    spec = Spec(zoneout=0.5, recurrent_dropout=0.5)
    draws = reference.draw(spec, torch.tensor([3]), 1, 2, 4, 3, 5, 5)
    masks = [draws.zoneout_h, draws.zoneout_c, draws.recurrent * 0.5]
    flat = [mask.flatten()[:15] for mask in masks]
    assert all(not torch.equal(a, b) for n, a in enumerate(flat) for b in flat[:n])


# --- a foreign implementation ---


def test_recurrent_dropout_is_keras(monkeypatch):
    """Keras draws a mask for each gate; given one mask for all, it computes ours."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "torch":
        pytest.skip("keras was imported with another backend")
    module = make(Case(L=1), engine="loop", recurrent_dropout=0.4).float()  # as its products are
    seed = drawn_seed(11)
    mask = fused_lstm.philox.dropout_mask(seed, (3, 4), 0.4, RECURRENT)
    cell = keras.layers.LSTMCell(4, recurrent_dropout=0.4, implementation=1)
    monkeypatch.setattr(cell, "get_recurrent_dropout_mask", lambda h: [mask] * 4)
    cell.build((3, 3))
    bias = module.bias_ih_l0 + module.bias_hh_l0
    weights = module.weight_ih_l0.T, module.weight_hh_l0.T, bias
    cell.set_weights([weight.detach().numpy() for weight in weights])
    x, h, c, wanted = torch.randn(5, 3, 3), *torch.zeros(2, 3, 4), []
    for row in x:
        h, (_, c) = cell(row, [h, c], training=True)
        wanted.append(h)
    torch.manual_seed(11)
    assert_close(module(x)[0], torch.stack(wanted), "y")
