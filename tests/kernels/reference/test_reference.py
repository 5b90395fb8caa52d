"""fused_lstm.reference: its backward by hand against autograd, and Philox itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from cases import SHAPES, Shape
from cells import each_cell
from fused_lstm import philox, reference
from fused_lstm.call.rows import Padding
from fused_lstm.call.spec import PLAIN, Spec
from tolerance import assert_close

DOUBLE = {"dtype": torch.float64}


LANES = {
    "forwards": {},
    "backwards": {"direction": 1},
    "projected": {"proj_size": 3},
    "rows": {"sizes": [3, 3, 2, 1, 0]},
    "rows, backwards": {"sizes": [3, 2, 2, 1, 1], "direction": 1},
    "resets": {"resets": True},
    "all": {"sizes": [3, 3, 2, 1, 0], "resets": True, "proj_size": 3},
    "all, backwards": {"sizes": [3, 3, 2, 1, 1], "resets": True, "proj_size": 3, "direction": 1},
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize(
    ("shape", "lane"),
    [(shape, {}) for shape in SHAPES if shape.L == 1]
    + [(Shape(5, 3, 4, 6, 1), lane) for lane in LANES.values()],
    ids=[*(str(shape) for shape in SHAPES if shape.L == 1), *LANES],
)
def test_backward_by_hand_is_autograds(shape, lane, bias):
    check_backward(shape, lane, bias)


@pytest.mark.parametrize("lane", ["all", "all, backwards"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval, no bias"])
@each_cell
def test_backward_by_hand_of_every_cell(options, training, lane):
    check_backward(Shape(5, 3, 4, 6, 1), LANES[lane], training, Spec(**options), training)


def check_backward(shape, lane, bias, cell=PLAIN, training=True):
    T, B, I, H, _ = shape
    P, direction = lane.get("proj_size", H), lane.get("direction", 0)
    sizes = torch.tensor(lane["sizes"]) if "sizes" in lane else None
    x = torch.randn(T, B, I, **DOUBLE) if sizes is None else torch.randn(sizes.sum(), I, **DOUBLE)
    not_reset = torch.rand(2, *x.shape[:-1]) < 0.6 if "resets" in lane else None
    rows = Padding(x, B, sizes, not_reset)
    order, x = rows.order(direction), rows.pad(x).requires_grad_()
    cell = replace(cell, bias=bias, projection=P < H)
    shapes = cell.weights(I, H, P)
    weights = [torch.randn(s, **DOUBLE).div_(2).requires_grad_() for s in shapes.values()]
    (layer,) = reference.by_layer(weights, 1, cell)
    h0, c0 = (torch.randn(B, n, **DOUBLE).requires_grad_() for n in (P, H))
    draws = reference.draw(cell, torch.tensor([5]) if training else None, 1, 2, T, B, P, H)
    h, c, *kept = reference.layer_forward(x, h0, c0, layer, order, draws, cell)
    dy, dh_n, dc_n = torch.randn_like(h), torch.randn_like(h0), torch.randn_like(c0)

    inputs, last = [x, h0, c0, *weights], order.steps[-1]
    y = h if order.live is None else torch.where(order.live, h, 0)
    expected = torch.autograd.grad((y, h[last], c[last]), inputs, (dy, dh_n, dc_n))
    with torch.no_grad():
        dx, dh0, dc0, dweights = reference.layer_backward(
            dy, dh_n, dc_n, x, h0, c0, layer, h, c, *kept, order=order, draws=draws, spec=cell
        )
    found = (dx, dh0, dc0, *(d for d in dweights if d is not None))
    for name, actual, value in zip(("x", "h0", "c0", *shapes), found, expected, strict=True):
        assert_close(actual, value, f"gradient by {name}")


def test_weights_come_apart_by_layer():
    weights = list(nn.LSTM(3, 4, 2).parameters())
    first, second = reference.by_layer(weights, 2)
    assert first.w_ih is weights[0]
    assert second.b_hh is weights[7]
    (only,) = reference.by_layer(weights[:2], 1)
    assert only.b_ih is None
    assert only.bias() is None
    weights = list(nn.LSTM(3, 4, 2, proj_size=2, bias=False).parameters())
    _, second = reference.by_layer(weights, 2)
    assert second.w_hr is weights[5]
    assert second.b_ih is None


# The known-answer tests that Salmon et al. publish with Random123, kat_vectors: philox4x32 10.
@pytest.mark.parametrize(
    ("key", "counter", "word"),
    [(0, 0, 0x6627E8D5), (2**64 - 1, 2**64 - 1, None)],
    ids=["zeros", "ones"],
)
def test_philox_gives_its_published_words(key, counter, word):
    def signed(n):
        return torch.tensor([n - 2**64 if n >= 2**63 else n])

    found = philox.first_word(signed(key), signed(counter)).item()
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
