"""`fuse` on cells of other packages, unchanged, beside the loops that their users run."""

from __future__ import annotations

import importlib.util
import inspect

import pytest
import torch
from torch import nn

import fused_lstm
from bench import packaged
from own_loop import assert_same, call_of

pytestmark = pytest.mark.models


def cells_of_torchrecurrent() -> list[str]:
    """Return the names of its cells; of none where it is not installed."""
    if importlib.util.find_spec("torchrecurrent") is None:
        return ["missing"]
    import torchrecurrent

    every = vars(torchrecurrent).items()
    return sorted(name for name, of in every if name.endswith("Cell") and inspect.isclass(of))


@pytest.mark.parametrize("name", cells_of_torchrecurrent())
def test_torchrecurrent(name):
    package = pytest.importorskip("torchrecurrent")
    torch.manual_seed(0)
    I = 8 if name == "IntersectionRNNCell" else 6  # which needs as many inputs as units
    module = getattr(package, name)(I, 8).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0, 0.4)
    x = torch.randn(9, 3, I).double()
    _, state = fused_lstm.fuse(module, fuse="none")(x)  # the cell makes its first state
    leaves = state if isinstance(state, tuple) else (state,)
    state = tuple(torch.randn_like(t) for t in leaves)
    state = state if len(state) > 1 else state[0]
    assert_same(fused_lstm.fuse(module, fuse="steps"), x, state)


@pytest.mark.parametrize("name", packaged.CELLS)
def test_a_package_s_cell(name):
    if why := packaged.missing(name):
        pytest.skip(why)
    module, x, state = call_of(packaged.CELLS[name][1], 9, 3, 6, 8, torch.float32)
    assert_same(fused_lstm.fuse(module, fuse="steps"), x, state, torch.float32)


def test_snntorch_keeps_its_states():
    """A net of neurons with init_hidden, which keep their states on themselves."""
    snn = pytest.importorskip("snntorch")

    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(6, 8), snn.Leaky(beta=0.9, init_hidden=True), nn.Linear(8, 8),
            snn.Leaky(beta=0.8, init_hidden=True, output=True),
        )  # fmt: skip

    ours, own = net(), net()
    layer = fused_lstm.fuse(ours)
    for _ in range(2):
        x = torch.randn(9, 3, 6)
        (spikes, membranes), _ = layer(x)
        expected = [own(x_t) for x_t in x]
        torch.testing.assert_close(spikes, torch.stack([s for s, _ in expected]))
        torch.testing.assert_close(membranes, torch.stack([m for _, m in expected]))
        torch.testing.assert_close(ours[1].mem, own[1].mem)
        for module in (ours, own):
            module[1].mem, module[3].mem = module[1].mem.detach(), module[3].mem.detach()
    assert fused_lstm.explain(layer).startswith("steps:")
