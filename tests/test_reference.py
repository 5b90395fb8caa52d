"""fused_lstm.reference, the oracle: against nn.LSTM, autograd, differences and Philox itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cases import SHAPES, Shape, make_state
from fused_lstm import reference
from tolerance import assert_close

DOUBLE = {"dtype": torch.float64}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sequence_is_nn_lstms(shape, bias):
    theirs = nn.LSTM(shape.I, shape.H, shape.L, bias=bias, **DOUBLE)
    x, state = torch.randn(shape.T, shape.B, shape.I, **DOUBLE), make_state(shape, torch.float64)
    y, (h_n, c_n) = theirs(x, state)
    found = reference.lstm(x, *state, list(theirs.parameters()))
    for name, actual, expected in zip(("y", "h_n", "c_n"), found, (y, h_n, c_n), strict=True):
        assert_close(actual, expected, name)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("shape", [s for s in SHAPES if s.L == 1] + [Shape(5, 3, 4, 6, 1)], ids=str)
def test_backward_by_hand_is_autograds(shape, bias):
    theirs = nn.LSTM(shape.I, shape.H, bias=bias, **DOUBLE)
    weights = [p.detach().requires_grad_() for p in theirs.parameters()]
    (layer,) = reference.by_layer(weights, 1)
    x = torch.randn(shape.T, shape.B, shape.I, **DOUBLE, requires_grad=True)
    h0, c0 = (s[0].requires_grad_() for s in make_state(shape, torch.float64))
    y, c, gates = reference.layer_forward(x, h0, c0, layer)
    dy, dh_n, dc_n = torch.randn_like(y), torch.randn_like(h0), torch.randn_like(c0)

    inputs = [x, h0, c0, *weights]
    expected = torch.autograd.grad((y, y[-1], c[-1]), inputs, (dy, dh_n, dc_n))
    with torch.no_grad():
        dx, dh0, dc0, dweights = reference.layer_backward(
            dy, dh_n, dc_n, x, h0, c0, layer, y, c, gates
        )
    names = ["dx", "dh0", "dc0", "dw_ih", "dw_hh", "db_ih", "db_hh"]
    for name, actual, value in zip(names, (dx, dh0, dc0, *dweights), expected, strict=False):
        assert_close(actual, value, name)


def test_weights_come_apart_by_layer():
    weights = list(nn.LSTM(3, 4, 2).parameters())
    first, second = reference.by_layer(weights, 2)
    assert first.w_ih is weights[0]
    assert second.b_hh is weights[7]
    (only,) = reference.by_layer(weights[:2], 1)
    assert only.b_ih is None
    assert only.bias() is None


# The known-answer tests that Salmon et al. publish with Random123, kat_vectors: philox4x32 10.
@pytest.mark.parametrize(
    ("key", "counter", "word"),
    [(0, 0, 0x6627E8D5), (2**64 - 1, 2**64 - 1, None)],
    ids=["zeros", "ones"],
)
def test_philox_gives_its_published_words(key, counter, word):
    def signed(n):
        return torch.tensor([n - 2**64 if n >= 2**63 else n])

    found = reference._philox_first_word(signed(key), signed(counter)).item()
    assert found == (_philox(key, counter) if word is None else word)


def _philox(key: int, counter: int) -> int:
    """Philox4x32-10 in Python's unbounded integers."""
    word = 2**32 - 1
    k0, k1 = key & word, key >> 32
    c = [counter & word, counter >> 32, 0, 0]
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(b >> 32) ^ c[1] ^ k0, b & word, (a >> 32) ^ c[3] ^ k1, a & word]
        k0, k1 = (k0 + 0x9E3779B9) & word, (k1 + 0xBB67AE85) & word
    return c[0]


@pytest.mark.parametrize("dropout", [0.0, 0.3, 0.65, 1.0])
def test_dropout_mask_keeps_its_share_and_its_mean(dropout):
    mask = reference.dropout_mask(torch.tensor([7]), (3, 40, 50), dropout)
    assert mask.shape == (3, 40, 50)
    n = mask.numel()
    sigma = (dropout * (1 - dropout) / n) ** 0.5
    assert abs((mask == 0).float().mean().item() - dropout) <= 4 * sigma
    if dropout < 1:
        assert mask.max().item() == pytest.approx(1 / (1 - dropout))
    other = reference.dropout_mask(torch.tensor([8]), (3, 40, 50), dropout)
    assert torch.equal(mask, other) == (dropout in (0.0, 1.0))
