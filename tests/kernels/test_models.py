"""Uses of recurrent layers by real models, which nn allows: a few lines each, no package needed.

tests/models has the packages themselves.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fused_lstm
from fused_lstm import native
from tolerance import assert_close

MISSING = native.missing(torch.device("cpu"))
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"native: {MISSING}")
DOUBLE = {"dtype": torch.float64}


@pytest.mark.parametrize("kind", [fused_lstm.LSTM, fused_lstm.GRU, fused_lstm.RNN])
def test_y_may_be_written_over(kind):
    """y.mul_(mask) in training: the backward makes y again, with the masks that fell."""
    model, x = kind(3, 4, 2, dropout=0.5, **DOUBLE), torch.randn(5, 2, 3, **DOUBLE)
    found = []
    for in_place in (False, True):
        torch.manual_seed(1)
        y, _ = model(x)
        y = y.mul_(2) if in_place else y * 2
        found.append(torch.autograd.grad(y.sin().sum(), list(model.parameters())))
    for name, a, b in zip(dict(model.named_parameters()), *found, strict=True):
        assert_close(b, a, name)


def test_y_may_be_written_over_between_two_backwards():
    model, x = fused_lstm.GRU(3, 4, **DOUBLE), torch.randn(5, 2, 3, **DOUBLE)
    y, _ = model(x)
    wanted = list(model.parameters())
    first = torch.autograd.grad(y, wanted, torch.ones_like(y), retain_graph=True)
    with torch.no_grad():
        y.zero_()
    second = torch.autograd.grad(y, wanted, torch.ones_like(y))
    for name, a, b in zip(dict(model.named_parameters()), first, second, strict=True):
        assert_close(b, a, name)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(y, wanted, torch.ones_like(y))


class Policy(nn.Module):
    """Asks as TorchRL's LSTMModule does, and rebuilds itself as darts and skorch do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(3, 4)

    def forward(self, x):
        if not isinstance(self.layer, nn.LSTM):
            return self.layer(x, mask=None)
        return self.layer(x)[0]

    def rebuilt(self):
        model = type(self)()
        model.load_state_dict(self.state_dict())
        return model


def test_a_model_that_asks_and_one_that_is_built_again():
    """convert changes the class, and what is built later is torch's: install does neither."""
    model, x = Policy(), torch.randn(5, 2, 3)
    expected = model(x)
    with fused_lstm.install():
        for each in (model, model.rebuilt()):
            assert_close(each(x), expected, "y")
            assert fused_lstm.explain(each)["layer"].startswith("native")
    with pytest.raises(TypeError, match="mask"):
        fused_lstm.convert(model)(x)


def test_a_model_that_scripts_itself():
    """Script a layer, as rsl_rl's as_jit does with a copy of its policy's."""
    with fused_lstm.install():
        layer = nn.GRU(3, 4)
        scripted = torch.jit.script(nn.Sequential(layer))
    x = torch.randn(5, 2, 3)
    assert_close(scripted(x)[0], layer(x)[0], "y")


class Hooks:
    """An object like the one whose method Opacus adds to a module as a hook."""

    __module__ = "opacus.grad_sample.grad_sample_module"

    def capture(self, module, grad_input, grad_output, loss_reduction):
        raise AssertionError("deep inside")


def test_opacus_without_its_import_is_refused_at_once():
    model = fused_lstm.LSTM(3, 4)
    model.register_full_backward_hook(partial(Hooks().capture, loss_reduction="mean"))
    with pytest.raises(ValueError, match=r"got fused_lstm.LSTM under Opacus; expected fused_lstm."):
        model(torch.randn(5, 2, 3))


class Ours(TorchDispatchMode):
    """Counts the calls of native's operator."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function._schema.name == "fused_lstm_native::lstm"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["GRU", "RNN", "GRUCell", "LSTMCell", "RNNCell"])
def test_one_step_is_torchs_where_that_is_faster(name):
    """By `auto` alone: an engine that was asked for runs."""
    x = torch.randn(*(() if "Cell" in name else (1,)), 2, 3)
    ours, torchs = getattr(fused_lstm, name)(3, 129), getattr(nn, name)(3, 129)
    torchs.load_state_dict(ours.state_dict())
    with Ours() as ran:
        found = ours(x)
    assert ran.count == 0
    for a, b in zip(found, torchs(x), strict=True):
        assert_close(a, b, "state")
    with Ours() as ran:
        getattr(fused_lstm, name)(3, 129, engine="native")(x)
    assert ran.count == 1
