"""Keras's LSTM and GRU on our kernels, beside Keras's own loop."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import pytest
import torch

from fused_lstm import native
from tolerance import assert_close

os.environ.setdefault("KERAS_BACKEND", "torch")
keras: Any = pytest.importorskip("keras", reason="the package keras is not there")
if keras.backend.backend() != "torch":
    pytest.skip("keras runs on another backend", allow_module_level=True)
from fused_lstm.integrations import keras as ours  # noqa: E402

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"
)
B, T, I, H = 4, 7, 5, 6
KINDS = {
    "lstm": keras.layers.LSTM, "gru": keras.layers.GRU,
    "gru, reset before": partial(keras.layers.GRU, reset_after=False),
}  # fmt: skip
MASK = torch.tensor(
    [[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0]]
).bool()
CASES: dict[str, dict[str, Any]] = {
    "last": {},
    "sequences": {"return_sequences": True},
    "states": {"return_sequences": True, "return_state": True},
    "backwards": {"go_backwards": True, "return_sequences": True, "return_state": True},
    "no bias": {"use_bias": False, "return_sequences": True},
}


def answers(layer: Any, x: torch.Tensor, **call: Any) -> dict[str, torch.Tensor]:
    """Return outputs and gradients by the input and the weights."""
    x = x.clone().requires_grad_()
    found = layer(x, **call)
    found = list(found) if isinstance(found, list | tuple) else [found]
    total = sum((y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum() for y in found)
    weights = [w.value for w in layer.trainable_weights]
    gradients = torch.autograd.grad(total, [x, *weights])
    named = {f"output {n}": y.detach() for n, y in enumerate(found)}
    names = ["x", *(w.path for w in layer.trainable_weights)]
    return named | {f"d{name}": g for name, g in zip(names, gradients, strict=True)}


def check(layer: Any, **call: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(B, T, I)
    layer(x)  # makes the weights
    for weight in layer.trainable_weights:
        weight.assign(torch.randn(tuple(weight.shape)) * 0.4)
    expected = answers(layer, x, **call)
    with ours.install():
        got = answers(layer, x, **call)
    assert got.keys() == expected.keys()
    for name, value in got.items():
        assert_close(value, expected[name], name)


@pytest.fixture
def counted(monkeypatch):
    """Count the calls that run our kernels."""
    calls = []
    run = ours.lstm
    monkeypatch.setattr(ours, "lstm", lambda *a, **k: calls.append(1) or run(*a, **k))
    return calls


@pytest.mark.parametrize("masked", [False, True], ids=["", "mask"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_keras(kind, case, masked, counted):
    check(KINDS[kind](H, **CASES[case]), **({"mask": MASK} if masked else {}))
    assert len(counted) == 1


@pytest.mark.parametrize("masked", [False, True], ids=["", "mask"])
@pytest.mark.parametrize("sequences", [False, True], ids=["last", "sequences"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_directions(kind, sequences, masked, counted):
    layer = keras.layers.Bidirectional(KINDS[kind](H, return_sequences=sequences))
    check(layer, **({"mask": MASK} if masked else {}))
    assert len(counted) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_is_given(kind, counted):
    torch.manual_seed(1)
    state = [torch.randn(B, H) for _ in range(2 if kind == "lstm" else 1)]
    check(KINDS[kind](H, return_state=True), initial_state=state)
    assert len(counted) == 1


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"activation": "relu"}, "its activation is not tanh"),
        ({"recurrent_activation": "hard_sigmoid"}, "its recurrent activation is not sigmoid"),
        ({"recurrent_dropout": 0.5}, "it has recurrent_dropout"),
        ({"unroll": True}, "unroll=True asks for a loop"),
    ],
)
def test_what_ours_has_not_runs_keras_code(options, why, counted):
    layer = keras.layers.LSTM(H, **options)
    assert why in (ours.why_keras(layer, torch.randn(B, T, I)) or "")
    with ours.install():
        layer(torch.randn(B, T, I))
    assert not counted


def test_a_model_trains_and_uninstall_restores(counted):
    before = keras.layers.LSTM.inner_loop
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.layers.Embedding(20, 8, mask_zero=True),
        keras.layers.Bidirectional(keras.layers.LSTM(H, dropout=0.2, return_sequences=True)),
        keras.layers.GRU(H), keras.layers.Dense(1),
    ])  # fmt: skip
    model.compile("adam", "mse")
    words = torch.randint(0, 20, (16, T))
    with ours.install():
        history = model.fit(words, torch.ones(16, 1), epochs=8, batch_size=8, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert counted
    assert keras.layers.LSTM.inner_loop is before
