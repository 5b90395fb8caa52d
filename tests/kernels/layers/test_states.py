"""`return_states=True`: who refuses it, and whose kernels have its gradients.

tests/conformance has the values.
"""

from __future__ import annotations

import pytest
import torch

import fused_lstm
from fused_lstm import reference, zoo


def test_who_has_no_states_says_so():
    module = fused_lstm.LSTM(2, 3, engine="loop")
    x = torch.randn(3, 2, 2)
    module.engine = "cudnn"
    with pytest.raises(ValueError, match="return_states: got True with engine='cudnn'"):
        module(x, return_states=True)
    module.engine, module.recompute = "loop", 2
    with pytest.raises(ValueError, match="return_states: got True with recompute"):
        module(x, return_states=True)


MODULES = {
    "lstm": lambda engine: fused_lstm.LSTM(3, 5, 2, bidirectional=True, engine=engine),
    "projected": lambda engine: fused_lstm.LSTM(3, 5, 2, proj_size=2, engine=engine),
    "slstm": lambda engine: fused_lstm.SLSTM(3, 4, num_heads=2, engine=engine),
    "lif": lambda engine: fused_lstm.Recurrent(zoo.lif, 3, 5, engine=engine),
    "products": lambda engine: fused_lstm.Recurrent(zoo.lem, 3, 5, 2, engine=engine),
}


@pytest.mark.parametrize("with_grad", [False, True], ids=["", "enable_grad"])
@pytest.mark.parametrize("engine", ["native", "loop"])
def test_inference_mode(engine, with_grad):
    """Autograd records nothing there, whatever the gradient's switch says."""
    module, x = fused_lstm.LSTM(3, 5, 2, engine=engine), torch.randn(4, 2, 3)
    expected = module(x, return_states=True)
    with torch.inference_mode(), torch.set_grad_enabled(with_grad):
        found = module(x.clone(), return_states=True)
    for a, b in zip(found[1:], expected[1:], strict=True):
        assert all(map(torch.equal, a, b))


def test_a_gradient_by_states_may_be_one_number_expanded():
    """An expanded gradient, as that of c.sum(), where the operator is called without a module."""
    module = fused_lstm.LSTM(3, 5, 2, engine="triton", dtype=torch.float64)
    x, state = torch.randn(4, 3, 3).double(), torch.zeros(2, 3, 5).double()
    weights, found = module.weights(), []
    for loss_of in (torch.sum, lambda t: (t * torch.ones_like(t)).sum()):
        _, _, _, h, c, _ = torch.ops.fused_lstm_triton.lstm(
            x, state, state, weights, 0.0, None, "layers", True, **module.spec.schema
        )
        found.append(torch.autograd.grad(loss_of(h) + loss_of(c), weights))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", MODULES)
def test_gradients_by_every_state_come_from_the_kernel(name, monkeypatch):
    """A step loop gave them: a spiking cell whose loss reads its membrane took 12 times as long."""
    torch.manual_seed(0)
    x, lengths = torch.randn(6, 4, 3).double(), torch.tensor([6, 2, 5, 1])
    found = {}
    for engine in ("loop", "native"):
        torch.manual_seed(1)
        module = MODULES[name](engine).double()
        if engine == "native":
            monkeypatch.setattr(reference, "layer_forward", None)
        _, _, states = module(x, lengths=lengths, return_states=True)
        states = states if isinstance(states, tuple) else (states,)
        sum((n + 1) * s.sin().sum() for n, s in enumerate(states)).backward()
        found[engine] = [p.grad for p in module.parameters()]
    for expected, got in zip(found["loop"], found["native"], strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("fuse", ["steps", "layers"])
def test_each_lower_layer_has_the_gradients_by_its_own_states(fuse):
    """Three layers, since of two the lower ones have one order only."""
    torch.manual_seed(0)
    x, grads = torch.randn(4, 3, 3).double(), []
    for engine in ("loop", "triton"):
        torch.manual_seed(1)
        module = fused_lstm.LSTM(3, 5, 3, engine=engine).double()
        module.fuse = fuse if engine == "triton" else None
        _, _, (h, c) = module(x, return_states=True)
        weight = torch.arange(1, h.numel() + 1).view(h.shape) / h.numel()  # of each state its own
        ((weight * h.sin()).sum() + (weight.flip(0) * c.cos()).sum()).backward()
        grads.append([p.grad for p in module.parameters()])
    torch.testing.assert_close(grads[1], grads[0])
