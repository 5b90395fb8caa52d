"""The module of a cell: its weights, their names and start, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fused_lstm
from cases import assert_autocasts
from cells import each_cell, few_cells, make
from fused_lstm.call.spec import Spec
from lanes import Case
from tolerance import assert_close

DOUBLE = {"dtype": torch.float64}


# --- the module ---


@each_cell
def test_state_dict_goes_both_ways(options):
    one, other = (make(Case(seed=n), engine="loop", **options) for n in (1, 2))
    assert list(one.state_dict()) == [name for names in one._all_weights for name in names]
    other.load_state_dict(one.state_dict())
    x = torch.randn(5, 2, 3, **DOUBLE)
    assert torch.equal(one.eval()(x)[0], other.eval()(x)[0])
    theirs = nn.LSTM(3, 4, 2)
    if "coupled" in options:
        with pytest.raises(RuntimeError, match="size mismatch for weight_ih_l0"):
            theirs.load_state_dict(one.state_dict(), strict=False)
        return
    found = theirs.load_state_dict(one.state_dict(), strict=False)
    assert not found.missing_keys
    assert all(name.startswith(("weight_ch", "gain_", "bias_c_")) for name in found.unexpected_keys)


def test_names_and_shapes_of_weights():
    shapes = Spec(layer_norm=True, peephole=True, projection=True).weights(3, 4, 2)
    assert shapes == {
        "weight_ih": (16, 3), "weight_hh": (16, 2), "bias_ih": (16,), "bias_hh": (16,),
        "weight_hr": (2, 4), "weight_ch": (12,),
        "gain_ih": (16,), "gain_hh": (16,), "gain_c": (4,), "bias_c": (4,),
    }  # fmt: skip
    coupled = Spec(peephole=True, coupled=True, bias=False).weights(3, 4, 4)
    assert coupled == {"weight_ih": (12, 3), "weight_hh": (12, 4), "weight_ch": (8,)}


def test_where_weights_start():
    torch.manual_seed(1)
    ours = fused_lstm.LSTM(3, 4, layer_norm=True, peephole=True, forget_bias=1.0)
    torch.manual_seed(1)
    theirs = nn.LSTM(3, 4)
    assert torch.equal(ours.weight_hh_l0, theirs.weight_hh_l0)
    assert ours.gain_ih_l0.eq(1).all()
    assert ours.gain_c_l0.eq(1).all()
    assert ours.bias_c_l0.eq(0).all()
    assert 0 < ours.weight_ch_l0.abs().max() <= 0.5
    assert (ours.bias_ih_l0 + ours.bias_hh_l0)[4:8].eq(1).all()
    assert torch.equal(ours.bias_ih_l0[8:], theirs.bias_ih_l0[8:])


def test_a_forget_bias_of_coupled_gates_is_minus_the_input_gates():
    module = fused_lstm.LSTM(3, 4, coupled=True, forget_bias=1.5, bidirectional=True)
    module.reset_parameters()
    for end in ("_l0", "_l0_reverse"):
        bias = getattr(module, f"bias_ih{end}") + getattr(module, f"bias_hh{end}")
        assert bias[:4].eq(-1.5).all()
        assert bias[4:].abs().max() <= 1


def test_it_says_what_it_is():
    module = fused_lstm.LSTM(3, 4, layer_norm=True, zoneout=(0.1, 0.0), forget_bias=1.0)
    assert "layer_norm=True, zoneout=(0.1, 0.0), forget_bias=1.0" in repr(module)
    assert "peephole" not in repr(module)


@few_cells
def test_a_graph_of_torch_compile(options):
    module = make(Case(T=2, L=1), engine="loop", **options).eval()
    x = torch.randn(2, 3, 3, **DOUBLE)
    wanted, grads = module(x)[0], []
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for run in (module, compiled):
        module.zero_grad()
        run(x)[0].sin().sum().backward()
        grads.append([p.grad.clone() for p in module.parameters()])
    assert_close(compiled(x)[0], wanted, "y")
    for (name, _), a, b in zip(module.named_parameters(), *grads, strict=True):
        assert_close(a, b, name)


@each_cell
def test_autocast(options):
    module = fused_lstm.LSTM(3, 8, engine="loop", **options).eval()
    assert_autocasts(module, torch.randn(4, 2, 3))


# --- errors ---

WRONG = {
    "layer_norm": ({"layer_norm": 1}, "layer_norm: got 1; expected True or False"),
    "zoneout": ({"zoneout": 1.5}, r"zoneout: got 1.5; expected a number in \[0, 1\], or two"),
    "zoneouts": ({"zoneout": (0.1, 0.2, 0.3)}, r"zoneout: got \(0.1, 0.2, 0.3\)"),
    "a dropout": ({"recurrent_dropout": -0.1}, "recurrent_dropout: got -0.1; expected a number in"),
    "coupled": ({"coupled": True, "layer_norm": True}, "coupled: got True with layer_norm=True"),
    "forget_bias": ({"forget_bias": 1.0, "bias": False}, "forget_bias: got 1.0 with bias=False"),
    "engine": (
        {"layer_norm": True, "engine": "cudnn"},
        "layer_norm: got True with engine='cudnn', which does not have it; expected engine 'loop'",
    ),
    "fuse": (
        {"peephole": True, "fuse": "pointwise"},
        "peephole: got True with fuse='pointwise', which does not have it",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_what_no_cell_can_be(options, message):
    with pytest.raises(ValueError, match=message):
        fused_lstm.LSTM(3, 4, **options)


def test_the_function_checks_the_cells_weights():
    module, x = fused_lstm.LSTM(3, 4, peephole=True, engine="loop"), torch.randn(5, 2, 3)
    state, weights = tuple(torch.zeros(2, 1, 2, 4)), list(module.parameters())
    with pytest.raises(ValueError, match=r"weight_ch_l0: got shape \[4\]; expected \[12\]"):
        fused_lstm.lstm(x, state, [*weights[:4], weights[4][:4]], cell=module.spec)
    with pytest.raises(ValueError, match=r"for 2 weights; .* then the cell's: weight_ch"):
        fused_lstm.lstm(x, state, weights[:2], cell=Spec(peephole=True))
    with pytest.raises(ValueError, match="peephole: got True with engine='cudnn'"):
        fused_lstm.lstm(x, state, weights, engine="cudnn", cell=module.spec)


def test_nn_lstm_cannot_be_made_of_it():
    model = nn.Sequential(fused_lstm.LSTM(3, 4), fused_lstm.LSTM(4, 4, zoneout=0.1))
    with pytest.raises(ValueError, match=r"zoneout: got \(0.1, 0.1\); expected \(0.0, 0.0\)"):
        fused_lstm.convert(model, back=True)
    assert type(model[0]) is fused_lstm.LSTM
    with pytest.raises(ValueError, match=r"zoneout: got \(0.1, 0.1\) with engine='cudnn'"):
        fused_lstm.convert(model, "cudnn")
    assert fused_lstm.convert(model, "loop")[1].spec.zoneout == (0.1, 0.1)
