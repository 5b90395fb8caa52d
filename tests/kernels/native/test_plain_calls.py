"""A plain call of `native`, which skips what it does not need: what it may not skip."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

import fused_lstm
from fused_lstm import native

WHY = native.missing(torch.device("cpu"))
pytestmark = pytest.mark.skipif(WHY is not None, reason=f"native: {WHY}")
KINDS = {"lstm": nn.LSTM, "gru": nn.GRU}


def pair(kind: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    """Return a layer and torch.nn's on the same parameters."""
    torch.manual_seed(0)
    theirs = KINDS[kind](3, 8, 2, dtype=dtype)
    ours = getattr(fused_lstm, kind.upper())(3, 8, 2, dtype=dtype, engine="native")
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast(kind):
    module, _ = pair(kind)
    x = torch.randn(4, 2, 3)
    module(x)  # what is remembered is of no use under autocast
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = module(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), module(x)[0], rtol=0.05, atol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_in_forward_mode(kind):
    """A tangent is not lost, though autograd records nothing."""
    module, _ = pair(kind, torch.float64)
    module.requires_grad_(False)
    x, tangent = torch.randn(2, 4, 2, 3, dtype=torch.float64)
    module(x)
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(module(forward_ad.make_dual(x, tangent))[0]).tangent
    assert found is not None
    step = 1e-6
    wanted = (module(x + step * tangent)[0] - module(x - step * tangent)[0]) / (2 * step)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
def test_a_caller_writes_over_y(kind, twice):
    """The backward computes y again; nn.LSTM's backward is an error there."""
    ours, theirs = pair(kind, torch.float64)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    weight = torch.randn(4, 2, 8, dtype=torch.float64)
    y = ours(x)[0]
    for _ in range(1 + twice):
        y.mul_(3.0)
    (y * weight).sum().backward()
    (theirs(x)[0] * (9.0 if twice else 3.0) * weight).sum().backward()
    for (name, mine), right in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, right.grad, msg=name)
