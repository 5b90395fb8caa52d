"""Recurrent weights in blocks: layouts, state_dict, refusals; tests/conformance has the values."""

from __future__ import annotations

import pytest
import torch

import fused_lstm
from fused_lstm import heads, native
from fused_lstm.call.spec import Spec
from fused_lstm.integrations.gates import run_gates
from tolerance import assert_close

HAVE_NATIVE = fused_lstm.available_engines("cpu")["native"] is None
native_only = pytest.mark.skipif(not HAVE_NATIVE, reason="native was not built")


def test_a_state_dict_goes_round_and_convert_keeps_it():
    module, other = (fused_lstm.LSTM(3, 8, num_heads=4) for _ in range(2))
    other.load_state_dict(module.state_dict())
    x = torch.randn(2, 3, 3)
    assert torch.equal(module(x)[0], other(x)[0])
    assert fused_lstm.convert(other, engine="loop").engine == "loop"
    assert_close(other(x)[0], module(x)[0], "y")
    with pytest.raises(ValueError, match="num_heads: got 4; expected 1"):
        fused_lstm.convert(other, back=True)


# --- layouts ---


@pytest.mark.parametrize("layout", ["flashrnn", "dreamer", "xlstm"])
def test_another_librarys_weight(layout):
    shape = {"flashrnn": (4, 2, 3, 3), "dreamer": (2, 3, 12), "xlstm": (2, 3, 4, 3)}[layout]
    there = torch.randn(shape)
    weight = getattr(heads, f"from_{layout}")(there)
    h = torch.randn(5, 2, 3)  # [B, N, K]
    by_h = torch.einsum("bnk,njk->bnj", h, weight).unflatten(-1, (4, 3))  # [B, N, G, K]
    # As each of them says its own product.
    theirs = {
        "flashrnn": lambda: torch.einsum("gnjk,bnk->bngj", there, h),
        "dreamer": lambda: torch.einsum("nkj,bnk->bnj", there, h).unflatten(-1, (4, 3)),
        "xlstm": lambda: torch.einsum("nkgj,bnk->bngj", there, h),
    }[layout]()
    torch.testing.assert_close(theirs, by_h)


@native_only
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("N", "K"), [(1, 37), (3, 16), (2, 130)])
def test_native_takes_a_weight_whose_inputs_come_first(N, K, dtype, threads):
    """Compare a view of TiRex's or DreamerV3's weight with a copy: the bits are the same."""
    torch.set_num_threads(threads)
    gates, states = torch.randn(3, 2, 4 * N * K), torch.randn(4, 2, N * K)
    weight, bias = heads.from_dreamer(torch.randn(N, K, 4 * K)), torch.zeros(4 * N * K)
    gates, states, weight, bias = (t.to(dtype) for t in (gates, states, weight, bias))
    spec = Spec("slstm", num_heads=N)
    view = run_gates(spec, "native", gates, states, weight, bias)
    copy = run_gates(spec, "native", gates, states, weight.contiguous(), bias)
    assert all(torch.equal(a, b) for a, b in zip(view, copy, strict=True))


# --- what is refused ---


def test_what_is_refused():
    x, state = torch.randn(2, 2, 3), (torch.zeros(1, 2, 8),) * 2
    weights = fused_lstm.LSTM(3, 8).weights()
    divisor = "num_heads: got 3; expected a divisor of hidden_size 8"
    with pytest.raises(ValueError, match=divisor):
        fused_lstm.GRU(3, 8, num_heads=3)
    with pytest.raises(ValueError, match=divisor):
        fused_lstm.lstm(x, state, weights, cell=Spec(num_heads=3))
    for wrong in (0, 1.5, True):
        with pytest.raises(ValueError, match=f"num_heads: got {wrong}; expected a divisor"):
            fused_lstm.LSTM(3, 8, num_heads=wrong)
    with pytest.raises(ValueError, match="num_heads: got 2 with layer_norm; expected 1"):
        fused_lstm.LSTM(3, 8, num_heads=2, layer_norm=True)
    with pytest.raises(ValueError, match="num_heads: got 2 with a projected h"):
        fused_lstm.LSTM(3, 8, num_heads=2, proj_size=4)
    with pytest.raises(ValueError, match="num_heads: got 2 with engine='cudnn', which does not"):
        fused_lstm.RNN(3, 8, num_heads=2, engine="cudnn")
    with pytest.raises(ValueError, match="num_heads: got 2 with fuse='pointwise'"):
        fused_lstm.LSTM(3, 8, num_heads=2, engine="native", fuse="pointwise")
    with pytest.raises(
        ValueError, match=r"weight_hh_l0: got shape \[32, 8\]; expected \[2, 16, 4\]"
    ):
        fused_lstm.lstm(x, state, weights, cell=Spec(num_heads=2))


@native_only
@pytest.mark.parametrize("name", ["c", "gates"])
def test_what_a_backward_does_not_read_is_checked_too(name):
    """An RNN's backward reads neither; a number alone has no heads to divide it by."""
    x, h0, weight = torch.randn(4, 2, 6), torch.randn(2, 6), torch.randn(2, 3, 3)
    y, *_ = native.OPS.recurrence(x, h0, h0, weight, None, "rnn_tanh", True)
    saved = {"c": torch.empty(0), "gates": torch.empty(0)}
    call = (y, None, None, h0, h0, weight, None, y)
    assert native.OPS.recurrence_backward(*call, *saved.values(), "rnn_tanh")[0].shape == x.shape
    saved[name] = torch.tensor(1.0)
    with pytest.raises(RuntimeError, match=rf"{name}: got shape \[\]; expected \[0\]"):
        native.OPS.recurrence_backward(*call, *saved.values(), "rnn_tanh")


@native_only
@pytest.mark.parametrize("shape", [(0, 4, 1), (2, 0, 0)], ids=str)
def test_weights_without_elements_are_refused(shape):
    with pytest.raises(ValueError, match=r"weight_hh: .*; expected \[N, 4K, K\], N and K not 0"):
        native.OPS.recurrence(
            torch.zeros(3, 2, 0), torch.zeros(2, 0), torch.zeros(2, 0), torch.zeros(shape), None,
            "lstm", False,
        )  # fmt: skip
