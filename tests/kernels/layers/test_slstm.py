"""The sLSTM: its formulas written out, autograd, xLSTM's and TiRex's own cells."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fused_lstm
from fused_lstm.call.spec import Spec
from heads import MAKE, results
from tolerance import assert_close

DOUBLE = {"dtype": torch.float64}
HAVE_NATIVE = fused_lstm.available_engines("cpu")["native"] is None
native_only = pytest.mark.skipif(not HAVE_NATIVE, reason="native was not built")
ENGINES = ["loop", pytest.param("native", marks=native_only)]


def written_out(module: fused_lstm.SLSTM, x: Tensor) -> Tensor:
    """One layer from a state of zero, a row, a step and a head at a time, without a stabilizer."""
    N, H = module.spec.num_heads, module.hidden_size
    K = H // N
    R = module.weight_hh_l0.view(N, 4, K, K)
    rows = []
    for b in range(x.shape[1]):
        h, c, n, steps = *(x.new_zeros(H) for _ in range(3)), []
        for t in range(x.shape[0]):
            a = (module.weight_ih_l0 @ x[t, b] + module.bias_l0).view(4, N, K)
            by_h = [[R[head, gate] @ h[head * K : (head + 1) * K] for head in range(N)]
                    for gate in range(4)]  # fmt: skip
            i, f, z, o = (a[gate] + torch.stack(by_h[gate]) for gate in range(4))
            i, o = i.exp().flatten(), o.sigmoid().flatten()
            f = (f.exp() if module.spec.cell == "slstm_exponential" else f.sigmoid()).flatten()
            c, n = f * c + i * z.tanh().flatten(), f * n + i
            h = o * c / n
            steps.append(h)
        rows.append(torch.stack(steps))
    return torch.stack(rows, 1)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scale", [1, 0], ids=["drawn", "equal exponents"])
@pytest.mark.parametrize("cell", ["slstm", "slstm_exponential"])
def test_a_step_is_what_is_written_out(cell, scale, engine):
    torch.manual_seed(1)
    module = MAKE[cell](3, 6, num_heads=2, engine=engine, **DOUBLE)
    for parameter in module.parameters():
        parameter.data.mul_(scale)
    x = torch.randn(6, 2, 3, **DOUBLE)
    outputs = []
    for function in (lambda x: module(x)[0], lambda x: written_out(module, x)):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        grads = torch.autograd.grad(y.sin().sum(), [leaf, *module.parameters()])
        outputs.append((y.detach(), *grads))
    names = ["y", "x", *(name for name, _ in module.named_parameters())]
    for name, ours, theirs in zip(names, *outputs, strict=True):
        assert_close(ours, theirs, name)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_gate_is_too_large(engine):
    """Sums of a thousand, of which exp is none: h is a mean of tanh, and stays below 1."""
    module = fused_lstm.SLSTM(3, 8, num_heads=2, engine=engine)
    x = torch.randn(20, 4, 3)
    for weight in module.parameters():
        weight.data.mul_(1000)
    got = results(module, x)
    assert all(value.isfinite().all() for value in got.values())
    assert got["y"].abs().max() <= 1


@pytest.mark.parametrize("engine", ["loop", "native"])
def test_a_clip_may_be_more_than_the_dtype_has(engine):
    """float16 ends at 65,504: a larger limit cuts nothing."""
    if (why := fused_lstm.available_engines("cpu")[engine]) is not None:
        pytest.skip(why)
    module, grads = fused_lstm.SLSTM(3, 4, engine=engine, dtype=torch.float16), []
    for clip in (None, 1e9):
        module.spec = Spec("slstm", recurrent_clip=clip)
        y, _ = module(torch.ones(4, 2, 3, dtype=torch.float16))
        grads.append(torch.autograd.grad(y.float().sum(), module.weight_hh_l0)[0])
    assert torch.equal(*grads)


@native_only
@pytest.mark.parametrize("cell", ["slstm", "slstm_exponential"])
def test_gradients_of_many_steps_are_accurate(cell):
    """A backward by hand gave dR of 300 steps with exp as forget gate an error of 2.5e-5."""
    torch.manual_seed(0)
    module, x = MAKE[cell](24, 24, num_heads=1, engine="native"), torch.randn(300, 2, 24)
    got = results(module, x)
    module.engine = "loop"
    exact = results(module.double(), x.double())
    for name, value in exact.items():
        error = (got[name].double() - value).abs().max() / value.abs().max()
        assert error < 5e-6, f"{name}: {error:.1e}"


@pytest.mark.parametrize("engine", ENGINES)
def test_the_gradient_by_an_empty_state(engine):
    """It is f, at most 1, as in xLSTM: a state of 0 with n 0 may be learned."""
    torch.manual_seed(2)
    module, zeros = fused_lstm.SLSTM(3, 8, engine=engine, **DOUBLE), torch.zeros(1, 4, 8, **DOUBLE)
    x, c = torch.randn(1, 4, 3, **DOUBLE) * 9, zeros.clone().requires_grad_()
    _, (_, c_n, *_) = module(x, (zeros, c, zeros, zeros))
    i, f, _, _ = (x[0] @ module.weight_ih_l0.T + module.bias_l0).chunk(4, -1)
    right = (torch.nn.functional.logsigmoid(f) - i).clamp(max=0).exp()
    assert (right == 1).any()
    assert (right < 1).any()
    assert_close(torch.autograd.grad(c_n.sum(), c)[0][0], right.detach(), "c_0")


def test_biases_begin_with_memories_of_many_lengths():
    module = fused_lstm.SLSTM(3, 8, num_heads=2)
    i, f, z, o = module.bias_l0.detach().chunk(4)
    assert torch.equal(f, torch.tensor([3.0, 4.0, 5.0, 6.0]).repeat(2))
    assert not torch.cat([i, z, o]).any()


def test_what_is_refused():
    module = fused_lstm.SLSTM(3, 8)
    x, h = torch.randn(2, 2, 3), torch.zeros(1, 2, 8)
    with pytest.raises(
        ValueError, match=r"hx: got tuple; expected 4 tensors \(h_0, c_0, n_0, m_0\)"
    ):
        module(x, (h, h))
    with pytest.raises(
        ValueError, match=r"n_0: got shape \[1, 2, 4\]; expected h_0's, \[1, 2, 8\]"
    ):
        module(x, (h, h, h[..., :4], h))
    with pytest.raises(
        ValueError, match="recurrent_clip: got 0; expected None or a number above 0"
    ):
        fused_lstm.SLSTM(3, 8, recurrent_clip=0)
    with pytest.raises(ValueError, match="cell: got 'slstm' with engine='cudnn'"):
        fused_lstm.SLSTM(3, 8, engine="cudnn")
    with pytest.raises(ValueError, match=r"cell: got 'slstm'; expected another"):
        fused_lstm.convert(module, back=True)
    with pytest.raises(ValueError, match=r"recurrent_clip: got 0\.1; expected None with cell"):
        Spec(recurrent_clip=0.1)
