"""DreamerV3's block GRU: derivatives, graphs, refusals; tests/conformance has its formulas."""

from __future__ import annotations

import pytest
import torch

import fused_lstm
from fused_lstm.call.spec import Spec
from fused_lstm.cells.gru_dreamer import GRU_DREAMER
from fused_lstm.integrations.dreamer import BlockGRU
from tolerance import assert_close

HAVE_NATIVE = fused_lstm.available_engines("cpu")["native"] is None
native_only = pytest.mark.skipif(not HAVE_NATIVE, reason="native was not built")


@fused_lstm.cell(states="h")
def mine(r, a, u, *, h):
    """Compute DreamerV3's GRU, as somebody else would write it."""
    n = torch.tanh(torch.sigmoid(r) * a)
    return h + torch.sigmoid(u - 1) * (n - h)


@native_only
def test_a_user_tells_it_in_the_same_words():
    """The library's cell has no door of its own: the same program, the same bits in heads."""
    assert mine.source() == GRU_DREAMER.source()
    torch.manual_seed(5)
    x, h0, N, K = torch.randn(6, 3, 8), torch.randn(1, 3, 8), 2, 4
    w_ih, w_hh = torch.randn(24, 8), torch.randn(N, 3 * K, K, requires_grad=True)
    found = []
    for spec in (Spec("gru_dreamer", num_heads=N), Spec(mine.name, num_heads=N)):
        y, (h_n, _) = fused_lstm.lstm(x, (h0, h0), [w_ih, w_hh], engine="native", cell=spec)
        found.append((y, h_n, *torch.autograd.grad(y.square().sum(), [w_hh])))
    for told, library in zip(*found, strict=True):
        assert torch.equal(told, library)


@native_only
def test_the_second_derivative_and_torch_compile():
    torch.manual_seed(4)
    gru = BlockGRU(2, 4, 2, engine="native", dtype=torch.float64)
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: gru(x)[0], [x], fast_mode=True)
    compiled = torch.compile(gru, fullgraph=True, backend="aot_eager")
    (expected,), (got,) = (torch.autograd.grad(f(x)[0].sum(), [x]) for f in (gru, compiled))
    assert_close(got, expected, "x.grad")


def test_what_it_refuses():
    with pytest.raises(ValueError, match="num_heads: got 3; expected a divisor of hidden_size 8"):
        BlockGRU(2, 8, 3)
    with pytest.raises(ValueError, match="engine: got 'cuda'"):
        BlockGRU(2, 8, 2, engine="cuda")
    with pytest.raises(ValueError, match=r"x: got shape \[3, 2, 3\]; expected \[T, B, 2\]"):
        BlockGRU(2, 8, 2)(torch.zeros(3, 2, 3))
    with pytest.raises(ValueError, match=r"state: got shape \[8\]; expected \[2, 8\]"):
        BlockGRU(2, 8, 2)(torch.zeros(3, 2, 2), torch.zeros(8))
