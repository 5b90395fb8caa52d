"""fused_lstm.convert: a model's nn.LSTM become ours and nn.LSTM again, by changing nothing else."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import fused_lstm
from tolerance import assert_close


class Tagger(nn.Module):
    """Three LSTMs, one of them in two places and in a plain list."""

    def __init__(self, **options):
        super().__init__()
        self.shared = nn.LSTM(6, 6, dropout=0.0, **options)
        self.layers = nn.ModuleList([nn.LSTM(5, 6, 2, **options), self.shared, self.shared])
        self.last = nn.ModuleDict({"rnn": nn.LSTM(6, 4, bias=False, **options)})
        self.aside = [self.shared]

    def forward(self, x):
        for layer in (*self.layers, self.aside[0], self.last["rnn"]):
            x, _ = layer(x)
        return x


def outputs_and_gradients(model, x):
    x = x.detach().requires_grad_()
    y = model(x)
    y = y if isinstance(y, torch.Tensor) else y[0]
    wanted = [x, *model.parameters()]
    grads = torch.autograd.grad(y.square().sum(), wanted)
    names = ["x", *(name for name, _ in model.named_parameters())]
    return {"y": y.detach()} | dict(zip(names, grads, strict=True))


def assert_alike(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(found[name], value, name)


@pytest.mark.parametrize("batch_first", [False, True], ids=["time-first", "batch-first"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_there_and_back(dtype, batch_first):
    model = Tagger(batch_first=batch_first, dtype=dtype).eval()
    model.shared.train()
    x = torch.randn(3, 4, 5, dtype=dtype)
    expected, parameters = outputs_and_gradients(model, x), dict(model.named_parameters())
    modules, modes = list(model.modules()), [m.training for m in model.modules()]

    assert fused_lstm.convert(model, engine="loop") is model
    assert [m for m in model.modules() if type(m) is nn.LSTM] == []
    ours = [m for m in model.modules() if type(m) is fused_lstm.LSTM]
    assert len(ours) == 3
    assert all(m.engine == "loop" and m.fuse is None for m in ours)
    assert model.layers[1] is model.layers[2] is model.shared is model.aside[0]
    assert_alike(outputs_and_gradients(model, x), expected)

    assert fused_lstm.convert(model, back=True) is model
    assert sum(type(m) is nn.LSTM for m in model.modules()) == 3
    assert not any(hasattr(m, "engine") or hasattr(m, "fuse") for m in model.modules())
    assert_alike(outputs_and_gradients(model, x), expected)

    for name, parameter in model.named_parameters():
        assert parameter is parameters[name], name
    assert [id(m) for m in model.modules()] == [id(m) for m in modules]
    assert [m.training for m in model.modules()] == modes


def test_a_model_that_is_an_lstm():
    model = nn.LSTM(3, 4)
    assert type(fused_lstm.convert(model)) is fused_lstm.LSTM
    assert model.engine == "auto"
    fused_lstm.convert(model, "loop")  # ours already: takes the engine
    assert model.engine == "loop"
    assert type(fused_lstm.convert(model, back=True)) is nn.LSTM


def test_hooks_optimizers_and_copies_go_on():
    model, seen = nn.Sequential(nn.LSTM(3, 4)), []
    model[0].register_forward_hook(lambda module, x, y: seen.append(type(module)))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    x = torch.randn(5, 2, 3)
    before = copy.deepcopy(model)
    fused_lstm.convert(model, engine="loop")
    for one in (model, before):
        one(x)[0].sum().backward()
    optimizer.step()
    torch.optim.SGD(before.parameters(), lr=1.0).step()
    assert seen == [fused_lstm.LSTM, nn.LSTM]
    for (name, a), b in zip(model.named_parameters(), before.parameters(), strict=True):
        assert_close(a, b, name)
    again = copy.deepcopy(model)
    assert torch.equal(again(x)[0], model(x)[0])
    assert list(model.state_dict()) == list(before.state_dict())


def test_a_parametrized_lstm():
    model = nn.Sequential(nn.LSTM(3, 4))
    parametrizations.weight_norm(model[0], "weight_hh_l0")
    fused_lstm.convert(model, engine="loop")
    assert isinstance(model[0], fused_lstm.LSTM)
    assert parametrize.is_parametrized(model[0], "weight_hh_l0")
    fused_lstm.convert(model, back=True)
    assert isinstance(model[0], nn.LSTM)
    fused_lstm.convert(model, engine="loop")
    parametrize.remove_parametrizations(model[0], "weight_hh_l0")
    assert type(model[0]) is fused_lstm.LSTM


def test_a_subclass_is_left_alone(caplog):
    class Own(nn.LSTM):
        pass

    model = nn.Sequential(Own(3, 4), nn.GRU(3, 4))
    with caplog.at_level("INFO", "fused_lstm"):
        assert type(fused_lstm.convert(model)[0]) is Own
    assert type(model[1]) is fused_lstm.GRU
    found = [record.getMessage() for record in caplog.records]
    assert found[0].startswith("left 0, a Own: it is a subclass of LSTM")
    assert found[1] == "made 1, a GRU, fused_lstm's GRU"
    assert caplog.records[0].levelname == "WARNING"
    assert list(fused_lstm.conversions(model)) == ["0", "1"]
    assert fused_lstm.conversions(model, back=True)["1"] is None


@pytest.mark.parametrize("weights_only", [False, True])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
def test_a_converted_layer_saved_whole_loads_as_what_it_was(name, weights_only):
    model, file = fused_lstm.convert(getattr(nn, name)(3, 4), "loop"), io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=weights_only)
    assert type(again) is type(model)
    assert (again.engine, again.spec, repr(again)) == ("loop", model.spec, repr(model))
    for (key, a), b in zip(again.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


def test_an_unknown_engine_changes_nothing():
    model = nn.ModuleDict({"first": nn.LSTM(3, 4), "second": nn.LSTM(8, 4, proj_size=2)})
    with pytest.raises(ValueError, match=r"engine: got 'fast'; expected"):
        fused_lstm.convert(model, engine="fast")
    with pytest.raises(ValueError, match=r"fuse: got 'steps'"):
        fused_lstm.convert(model, engine="loop", fuse="steps")
    assert [type(module) for module in model.values()] == [nn.LSTM, nn.LSTM]
    fused_lstm.convert(model, engine="loop")
    assert [type(module) for module in model.values()] == [fused_lstm.LSTM, fused_lstm.LSTM]


FAMILY = {
    "LSTM": (nn.LSTM, {"num_layers": 2, "proj_size": 2}),
    "GRU": (nn.GRU, {"num_layers": 2, "bidirectional": True}),
    "RNN": (nn.RNN, {"nonlinearity": "relu", "bias": False}),
    "LSTMCell": (nn.LSTMCell, {}),
    "GRUCell": (nn.GRUCell, {"bias": False}),
    "RNNCell": (nn.RNNCell, {"nonlinearity": "relu"}),
}


@pytest.mark.parametrize("name", FAMILY)
def test_the_whole_family_there_and_back(name):
    kind, options = FAMILY[name]
    model = kind(3, 4, dtype=torch.float64, **options)
    x = torch.randn(*(() if "Cell" in name else (5,)), 2, 3, dtype=torch.float64)
    expected, text = outputs_and_gradients(model, x), repr(model)
    assert type(fused_lstm.convert(model, "loop")) is getattr(fused_lstm, name)
    assert repr(model) == text[:-1] + ", engine='loop')"
    assert_alike(outputs_and_gradients(model, x), expected)
    assert type(fused_lstm.convert(model, back=True)) is kind
    assert repr(model) == text
    assert not {"spec", "engine", "fuse"} & vars(model).keys()
    assert_alike(outputs_and_gradients(model, x), expected)


@pytest.mark.parametrize("name", ["convert", "conversions", "prepare", "quantize", "explain"])
def test_what_is_no_model_is_named(name):
    with pytest.raises(ValueError, match=r"model: got int; expected a torch.nn.Module"):
        getattr(fused_lstm, name)(3)
