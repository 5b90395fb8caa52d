"""States of zero, which inference on a CPU makes once: nobody changes them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import fused_lstm
from cases import rungs
from fused_lstm import native
from fused_lstm.call import layout

T, B, I, H = 4, 2, 5, 7
needs_native = pytest.mark.skipif(
    (why := native.missing(torch.device("cpu"))) is not None, reason=f"native: {why}"
)


@pytest.fixture(autouse=True)
def kept(monkeypatch) -> dict:
    """States of this test alone."""
    monkeypatch.setattr(layout, "_KEPT", found := {})
    return found


def call_beside_torchs(layer: nn.Module, module: nn.LSTM, kept: dict) -> None:
    """Call a layer at two sizes and write to all that it returns; no later call sees it."""
    x = torch.randn(T, B, I)
    with torch.no_grad():
        for given in (x, x[:, :1], x, x):
            y, states = layer(given)
            expected, last = module(given)
            torch.testing.assert_close((y, states), (expected, last))
            for written in (y, *states):
                written.fill_(9)
        assert len(kept) == 2
        for states in kept.values():
            assert not any(state.any() for state in states)


@pytest.mark.parametrize("proj_size", [0, 3])
@pytest.mark.parametrize(("engine", "fuse"), rungs())
def test_calls_of_a_layer_do_not_change_them(engine, fuse, proj_size, kept):
    module = nn.LSTM(I, H, proj_size=proj_size).eval()
    layer = fused_lstm.LSTM(I, H, proj_size=proj_size, engine=engine, fuse=fuse).eval()
    layer.load_state_dict(module.state_dict())
    call_beside_torchs(layer, module, kept)


@needs_native
def test_calls_of_a_prepared_layer_do_not_change_them(kept):
    module = nn.LSTM(I, H).eval()
    call_beside_torchs(fused_lstm.prepare(copy.deepcopy(module)), module, kept)


def test_few_small_ones_are_kept(kept, monkeypatch):
    monkeypatch.setattr(layout, "MOST_KEPT", 3)
    monkeypatch.setattr(layout, "SMALL", 2 * 5 * H)  # of h and c
    layer = fused_lstm.LSTM(I, H)
    with torch.inference_mode():
        for rows in (1, 2, 3, 4, 5, 6):
            layer(torch.randn(T, rows, I))
            assert len(kept) == {1: 1, 2: 2, 3: 3, 4: 1}.get(rows, 2)
    layer(torch.randn(T, 1, I))[0].sum().backward()  # with gradients it makes its own


@needs_native
def test_those_of_a_transform_or_a_graph_are_not_kept(kept):
    """They would be wrappers of a call that is over."""
    layer, x = fused_lstm.LSTM(I, H), torch.randn(T, B, I)
    prepared = fused_lstm.prepare(fused_lstm.LSTM(I, H))
    with torch.no_grad():
        torch.compile(layer, backend="eager")(x)
        torch.vmap(layer)(torch.stack([x, x]))
        torch.func.jvp(lambda x: layer(x)[0], (x,), (x,))
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            prepared(fake.from_tensor(x))
        assert not kept
        layer(x)
    assert len(kept) == 1
