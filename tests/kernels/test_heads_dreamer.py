"""DreamerV3's block GRU beside its formulas, written out in plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fused_lstm
from fused_lstm.integrations.dreamer import BlockGRU
from tolerance import assert_close

HAVE_NATIVE = fused_lstm.available_engines("cpu")["native"] is None
native_only = pytest.mark.skipif(not HAVE_NATIVE, reason="native was not built")
ENGINES = ["loop", pytest.param("native", marks=native_only), "triton"]


def block_linear(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Multiply each block of x [B, N, C] by its own matrix [N, C, O]: -> [B, N, O]."""
    return torch.einsum("bnc,nco->bno", x, kernel) + bias.view(len(kernel), -1)


def written_out(gru: BlockGRU, x: Tensor, h: Tensor, resets: Tensor | None) -> Tensor:
    """All steps: [h's block, x] to the gates of the block, then the state."""
    N, steps = gru.num_blocks, []
    for t in range(len(x)):
        if resets is not None:
            h = torch.where(resets[t, :, None], 0.0, h)
        blocks = h.unflatten(-1, (N, -1))
        inputs = torch.cat([blocks, x[t, :, None].expand(-1, N, -1)], -1)
        reset, candidate, update = block_linear(inputs, gru.kernel, gru.bias).chunk(3, -1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1)
        h = (update * candidate + (1 - update) * blocks).flatten(1)
        steps.append(h)
    return torch.stack(steps)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("T", "B", "F", "H", "N"), [(6, 3, 5, 34, 2), (1, 1, 4, 9, 3)])
def test_values_and_gradients(T, B, F, H, N, dtype, engine):
    torch.manual_seed(3)
    gru = BlockGRU(F, H, N, engine=engine, dtype=dtype)
    torch.nn.init.normal_(gru.bias)
    x, state = torch.randn(T, B, F, dtype=dtype), torch.randn(B, H, dtype=dtype)
    resets, outcomes = torch.rand(T, B) < 0.3, []
    for call in (written_out, lambda gru, *a: gru(*a)[0]):
        leaves = [x.clone().requires_grad_(), state.clone().requires_grad_()]
        y = call(gru, *leaves, resets)
        grads = torch.autograd.grad(y.sin().sum(), [*leaves, gru.kernel, gru.bias])
        outcomes.append((y.detach(), *grads))
    for name, expected, got in zip(("y", "x", "state", "kernel", "bias"), *outcomes, strict=True):
        assert_close(got, expected, name)
    with torch.no_grad():
        y, last = gru(x, state, resets)
    assert_close(y, outcomes[0][0], "inferred")
    assert_close(last, outcomes[0][0][-1], "last")


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
