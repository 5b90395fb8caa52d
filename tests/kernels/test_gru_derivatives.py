"""A GRU's derivatives: the first, the second, and under torch.func."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from gru import make_modules, rungs
from lanes import Case, make_inputs
from tolerance import assert_close

DOUBLE = {"dtype": torch.float64}


# Second derivatives are plain PyTorch; test_gru.py has Triton's first ones.
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize(("engine", "fuse"), rungs("compile", slow=["triton"]))
def test_first_and_second_derivative(bias, engine, fuse):
    sizes = {"T": 2, "B": 2, "I": 2, "H": 2, "L": 1 + bias}
    case = Case("lengths", **sizes, bias=bias, bidirectional=not bias, resets=True)
    _, ours = make_modules(case, engine, fuse, torch.float64)
    given, names = make_inputs(case, torch.float64), [name for name, _ in ours.named_parameters()]
    resets = {"resets": given.resets}

    def function(x, h0, *weights):
        own = dict(zip(names, weights, strict=True))
        options = {"lengths": given.lengths} | ({} if engine == "cudnn" else resets)
        return torch.func.functional_call(ours, own, (x, h0), options)

    leaves = [t.detach().requires_grad_() for t in (given.x, given.h0, *ours.parameters())]
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize(("engine", "fuse"), rungs("compile", "cudnn", top=True))
def test_torch_func(engine, fuse):
    """Per-sample gradients against one sample after another, and forward mode."""
    _, ours = make_modules(Case(T=3), engine, fuse, torch.float64)
    weights = {name: p.detach() for name, p in ours.named_parameters()}

    def loss(weights, x):
        return torch.func.functional_call(ours, weights, (x,))[0].sin().sum()

    x, each = torch.randn(2, 3, 2, 3, **DOUBLE), torch.func.grad(loss)
    found = torch.func.vmap(each, (None, 0))(weights, x)
    for n in range(2):
        own = {k: w.clone().requires_grad_() for k, w in weights.items()}
        wanted = torch.autograd.grad(loss(own, x[n]), list(own.values()))
        for (name, value), one in zip(found.items(), wanted, strict=True):
            assert_close(value[n], one, name)
    tangent = torch.func.jvp(partial(loss, weights), (x[0],), (x[1],))[1]
    by_x = torch.func.grad(loss, 1)(weights, x[0])
    assert_close(tangent.detach(), (by_x * x[1]).sum().detach(), "jvp")
