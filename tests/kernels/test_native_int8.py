"""Weights of int8: each instruction set gives what the formula gives, and little is lost by it."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import fused_lstm
from fused_lstm import native
from fused_lstm.quantize import Quantized, to_int8

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"
)


def times(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., K] weight' [M, K], of bytes with a scale for each row of either."""
    values, scale = to_int8(weight)
    by = x.abs().amax(-1, keepdim=True) / 127
    steps = (x / torch.where(by > 0, by, 1.0)).round()
    return (steps.double() @ values.double().T).float() * (by * scale)


def layer(x: Tensor, weights: list[Tensor], cell: str, P: int) -> Tensor:
    """y [T, B, P] of one layer in one direction, from a state of zero."""
    w_ih, w_hh, b_ih, b_hh, *w_hr = weights
    H = w_hh.shape[0] // (3 if cell == "gru" else 4)
    by_x, h, c, y = times(x, w_ih) + b_ih, x.new_zeros(x.shape[1], P), x.new_zeros(1, H), []
    for step in by_x:
        by_h = times(h, w_hh) + b_hh
        if cell == "gru":
            r, z = torch.sigmoid(step + by_h)[:, : 2 * H].chunk(2, 1)
            n = torch.tanh(step[:, 2 * H :] + r * by_h[:, 2 * H :])
            h = n + z * (h - n)
        else:
            i, f, g, o = (step + by_h).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        if w_hr:
            h = times(h, w_hr[0])
        y.append(h)
    return torch.stack(y)


def by_formula(module: nn.Module, x: Tensor, cell: str) -> Tensor:
    """y of all layers and directions of a module of torch.nn."""
    weights, D = list(module.all_weights), 1 + module.bidirectional
    P = module.proj_size or module.hidden_size
    for first in range(0, len(weights), D):
        parts = [layer(x, weights[first], cell, P)]
        if D == 2:
            parts.append(layer(x.flip(0), weights[first + 1], cell, P).flip(0))
        x = torch.cat(parts, -1)
    return x


CASES = {
    "lstm": (nn.LSTM, {"num_layers": 2}),
    "lstm both ways": (nn.LSTM, {"bidirectional": True, "num_layers": 2}),
    "lstm projected": (nn.LSTM, {"proj_size": 7}),
    "gru": (nn.GRU, {"num_layers": 2}),
    "gru both ways": (nn.GRU, {"bidirectional": True}),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("T", "B", "I", "H"), [(1, 1, 3, 5), (6, 9, 21, 37), (3, 2, 70, 130)])
def test_it_is_the_formula(isa, case, T, B, I, H, threads):
    """Where h differs in its last bit a byte may fall the other way: by 1 / 127 of a weight."""
    torch.set_num_threads(threads)
    kind, options = CASES[case]
    if "proj_size" in options:
        H += 7
    module, x = kind(I, H, **options), torch.randn(T, B, I)
    with torch.no_grad():
        expected = by_formula(module, x, "gru" if kind is nn.GRU else "lstm")
    wrong = (fused_lstm.quantize(module)(x)[0] - expected).abs()
    assert wrong.max() < 4e-3
    assert wrong.median() < 1e-6


def test_rows_and_columns_of_weights():
    weight = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [-254.0, 127.0, 1.0]])
    values, scale = to_int8(weight)
    assert values.tolist() == [[64, -127, 32], [0, 0, 0], [-127, 64, 0]]
    assert scale.tolist() == pytest.approx([2 / 127, 0.0, 2.0])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_little_is_lost(kind, dtype):
    module = kind(64, 96, 2, dtype=dtype)
    x = torch.randn(20, 5, 64, dtype=dtype)
    with torch.no_grad():
        expected = module(x)[0]
    y = fused_lstm.quantize(module)(x)[0]
    assert y.dtype == dtype
    assert (y - expected).abs().max() < 0.02


@pytest.mark.parametrize("kind", [fused_lstm.LSTM, fused_lstm.GRU])
def test_layouts_lengths_and_resets(kind):
    """A row is what it is alone, from where it begins to where it ends."""
    module = kind(11, 13, 2, batch_first=True, bidirectional=True)
    quantized = fused_lstm.quantize(module)
    x, lengths = torch.randn(3, 7, 11), torch.tensor([4, 7, 2])
    y, state = quantized(x, lengths=lengths)
    states = state if isinstance(state, tuple) else (state,)
    for b, T in enumerate(lengths.tolist()):
        alone, last = quantized(x[b : b + 1, :T])
        torch.testing.assert_close(y[b, :T], alone[0])
        assert y[b, T:].abs().max() == 0 if T < 7 else True
        for found, expected in zip(states, last if len(states) == 2 else (last,), strict=True):
            torch.testing.assert_close(found[:, b], expected[:, 0])
    packed, _ = quantized(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    assert packed.data.shape == (13, 26)
    resets = torch.zeros(3, 7, dtype=torch.bool)
    resets[1, 3] = True
    y = quantized(x, resets=resets)[0]
    torch.testing.assert_close(y[1, 3:], quantized(x[1:2, 3:])[0][0])
    torch.testing.assert_close(y[1, :3], quantized(x[1:2, :3])[0][0])
    torch.testing.assert_close(quantized(x[0])[0], quantized(x[:1])[0][0])  # unbatched


def test_what_is_not_finite_stays_in_its_row():
    quantized, x = fused_lstm.quantize(nn.LSTM(3, 4)), torch.randn(2, 3, 3)
    expected = quantized(x)[0]
    x[1, 1, 2] = float("nan")
    x[1, 2, 0] = float("inf")
    y = quantized(x)[0]
    assert y[1, 1:].isnan().all()
    assert torch.equal(y[0], expected[0])
    assert torch.equal(y[1, 0], expected[1, 0])


def test_a_state_dict_has_it_all():
    first, second = (fused_lstm.quantize(nn.LSTM(5, 6, 2)) for _ in range(2))
    x = torch.randn(4, 2, 5)
    before = second(x)[0]
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(x)[0], first(x)[0])
    assert not torch.equal(second(x)[0], before)
    assert second.weight_hh_l1.dtype == torch.int8
    of_float = sum(p.nbytes for p in nn.LSTM(5, 6, 2).parameters())
    assert sum(t.nbytes for t in first.state_dict().values()) < 0.6 * of_float


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner = nn.LSTM(3, 4), nn.Sequential(fused_lstm.GRU(4, 4), nn.RNN(4, 4))
        self.again, self.odd = self.first, fused_lstm.LSTM(3, 4, peephole=True)


def test_a_model_keeps_its_places(caplog):
    model = Model()
    with caplog.at_level(logging.WARNING, "fused_lstm"):
        assert fused_lstm.quantize(model) is model
    assert isinstance(model.first, Quantized)
    assert model.again is model.first
    assert isinstance(model.inner[0], Quantized)
    assert isinstance(model.inner[1], nn.RNN)
    assert isinstance(model.odd, fused_lstm.LSTM)
    left = [record.getMessage() for record in caplog.records]
    assert len(left) == 2
    assert any("inner.1" in line and "neither" in line for line in left)
    assert any("odd" in line and "cell" in line for line in left)


def test_wrong_arguments_are_named():
    quantized = fused_lstm.quantize(nn.LSTM(3, 4))
    with pytest.raises(ValueError, match=r"x: got dtype Double"):
        quantized(torch.randn(2, 2, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"weights\[0\]: got shape"):
        quantized(torch.randn(2, 2, 5))
    with pytest.raises(ValueError, match=r"h0: got shape"):
        quantized(torch.randn(2, 2, 3), (torch.zeros(1, 1, 4), torch.zeros(1, 2, 4)))
