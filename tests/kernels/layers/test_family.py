"""RNN and the cells of one step beside torch.nn's, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fused_lstm
from cases import assert_agree_on_pytorchs_inputs
from cases import rungs as all_rungs
from fused_lstm.call.choose import ENGINES
from tolerance import assert_close

DOUBLE = {"dtype": torch.float64}


def rungs(cell: str, option: str | None = None, *exclude: str, **how) -> list:
    """(engine, fuse) for all that have a cell, or an option of it."""
    found = all_rungs(*exclude, **how)
    return [r for r in found if ENGINES[r.values[0]].has(cell, option, r.values[1])]


# --- RNN ---


@pytest.mark.parametrize(
    ("engine", "fuse"),
    rungs("rnn_tanh", None, "compile", slow=("triton-steps", "triton-layers")),
)
@pytest.mark.filterwarnings("ignore")
def test_what_pytorch_tests_nn_rnn_with(engine, fuse):
    of = nn.RNN, fused_lstm.RNN, torch.float64, True
    assert assert_agree_on_pytorchs_inputs(*of, engine, fuse) >= 16


def test_rnn_arguments_are_nn_rnns():
    arguments = 3, 4, 2, "relu", False, True, 0.5, True
    torch.manual_seed(1)
    ours = fused_lstm.RNN(*arguments, engine="loop")
    torch.manual_seed(1)
    theirs = nn.RNN(*arguments)
    assert repr(ours) == repr(theirs)[:-1] + ", engine='loop')"
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    with pytest.raises(ValueError, match="nonlinearity: got 'gelu'; expected 'tanh' or 'relu'"):
        fused_lstm.RNN(3, 4, nonlinearity="gelu")
    with pytest.raises(ValueError, match="cell: got 'rnn_tanh' with fuse='pointwise'"):
        fused_lstm.RNN(3, 4, fuse="pointwise")


# --- cells of one step ---

STEPS = {
    "LSTMCell": {},
    "GRUCell": {},
    "RNNCell": {"nonlinearity": "tanh"},
    "RNNCell, relu": {"nonlinearity": "relu"},
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("batched", [True, False], ids=["batch", "unbatched"])
@pytest.mark.parametrize("engine", ["auto", "loop", "cudnn", "native"])
@pytest.mark.parametrize("name", STEPS)
def test_a_cell_is_torch_nns(name, engine, batched, bias):
    if engine != "auto" and (why := fused_lstm.available_engines("cpu")[engine]) is not None:
        pytest.skip(why)
    kind, options = name.partition(",")[0], {"bias": bias, **DOUBLE, **STEPS[name]}
    torch.manual_seed(2)
    theirs = getattr(nn, kind)(3, 4, **options)
    torch.manual_seed(2)
    ours = getattr(fused_lstm, kind)(3, 4, engine=engine, **options)
    rows = (5,) if batched else ()
    x, h, c = (torch.randn(*rows, n, **DOUBLE) for n in (3, 4, 4))
    results = []
    for module in (theirs, ours):
        leaves = [t.clone().requires_grad_() for t in (x, h, c)]
        state = (leaves[1], leaves[2]) if kind == "LSTMCell" else leaves[1]
        state = module(leaves[0], state)
        state = module(leaves[0], state)  # a step from where one ended
        loss = sum(part.sin().sum() for part in (state if isinstance(state, tuple) else (state,)))
        wanted = [*leaves[: 3 if kind == "LSTMCell" else 2], *module.parameters()]
        without = module(x)
        without = without if isinstance(without, tuple) else (without,)
        results.append([loss.detach(), *without, *torch.autograd.grad(loss, wanted)])
    for n, (one, other) in enumerate(zip(*results, strict=True)):
        assert_close(one.detach(), other.detach(), f"result {n}")


def test_what_a_cell_refuses():
    cell, x = fused_lstm.LSTMCell(3, 4), torch.randn(2, 3)
    with pytest.raises(ValueError, match="hx: got Tensor; expected a pair"):
        cell(x, torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"c: got shape \[2, 5\]; expected \[B, 4\]"):
        cell(x, (torch.zeros(2, 4), torch.zeros(2, 5)))
    with pytest.raises(ValueError, match=r"input: got \[1, 2, 3\]; expected \[B, I\]"):
        cell(x[None])
    with pytest.raises(ValueError, match=r"input: got \[2, 5\]; expected .* with I = 3"):
        cell(torch.randn(2, 5))
    with pytest.raises(ValueError, match=r"h: got shape \[1, 4\]; expected \[B, 4\]"):
        cell(x, (torch.zeros(1, 4), torch.zeros(1, 4)))
    with pytest.raises(ValueError, match="hx: got tuple; expected a tensor, h"):
        fused_lstm.GRUCell(3, 4)(x, (x, x))


# --- a GRU's options ---


def test_a_gru_has_no_other_options():
    for option in ("peephole", "coupled"):
        with pytest.raises(TypeError, match=option):
            fused_lstm.GRU(3, 4, **{option: True})
    names = list(fused_lstm.GRU(3, 4, layer_norm=True).state_dict())
    assert names[-2:] == ["gain_ih_l0", "gain_hh_l0"]
    with pytest.raises(ValueError, match=r"zoneout: got .* with engine='cudnn'"):
        fused_lstm.GRU(3, 4, zoneout=0.1, engine="cudnn")
