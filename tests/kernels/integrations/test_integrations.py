"""Other libraries' own cells, and the same converted: values, and gradients where they have any."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

import fused_lstm
from tolerance import assert_close

HAVE_NATIVE = fused_lstm.available_engines("cpu")["native"] is None
native_only = pytest.mark.skipif(not HAVE_NATIVE, reason="native was not built")
ENGINES = ["loop", pytest.param("native", marks=native_only)]


def by_pickle(module):
    """Return what pickle makes of a module's bytes."""
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def outcome(cell, gates, state, takes_gradients=True) -> dict[str, torch.Tensor]:
    """y, the last states and all gradients of a cell called on gates of x."""
    leaves = [gates.detach().clone().requires_grad_(), state.detach().clone().requires_grad_()]
    y, last = cell(*leaves)
    got = {"y": y.detach(), "last": last.detach()}
    if takes_gradients:
        cell.zero_grad()
        (
            y.sin().sum()
            + (last * torch.linspace(-1, 1, last.numel(), dtype=last.dtype).view_as(last)).sum()
        ).backward()
        got |= {"gates.grad": leaves[0].grad, "state.grad": leaves[1].grad}
        got |= {f"{name}.grad": p.grad.clone() for name, p in cell.named_parameters()}
    return got


@pytest.fixture(scope="module")
def xlstm():
    return pytest.importorskip("xlstm.blocks.slstm.cell", reason="the package xlstm is not there")


def a_cell(xlstm, dtype, **options):
    torch.manual_seed(1)
    config = xlstm.sLSTMCellConfig(hidden_size=24, num_heads=3, backend="vanilla", **options)
    cell = xlstm.sLSTMCell(config).to(dtype)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return cell


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("function", ["slstm", "lstm"])
@pytest.mark.parametrize("begins", [True, False], ids=["from zero", "state"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_xlstms_cell(xlstm, dtype, begins, function, engine):
    from fused_lstm.integrations.xlstm import convert

    cell = a_cell(xlstm, dtype, function=function)
    before, states = {k: v.clone() for k, v in cell.state_dict().items()}, cell.config.num_states
    gates = torch.randn(2, 9, 96, dtype=dtype)
    state = torch.zeros(states, 2, 24, dtype=dtype)
    if not begins:
        state = torch.randn(states, 2, 24, dtype=dtype).abs() + 0.1
    expected = outcome(cell, gates, state)
    assert convert(cell, engine=engine) is cell
    for name, value in outcome(cell, gates, state).items():
        assert_close(value, expected[name], name)
    assert all(torch.equal(value, before[name]) for name, value in cell.state_dict().items())


def test_a_model_of_xlstms_is_converted_whole(xlstm):
    from xlstm import sLSTMBlockConfig, sLSTMLayerConfig, xLSTMBlockStack, xLSTMBlockStackConfig

    from fused_lstm.integrations.xlstm import convert

    layer = sLSTMLayerConfig(backend="vanilla", num_heads=2, conv1d_kernel_size=4)
    config = xLSTMBlockStackConfig(
        slstm_block=sLSTMBlockConfig(slstm=layer), num_blocks=2, embedding_dim=16, context_length=8
    )
    model, x = xLSTMBlockStack(config), torch.randn(3, 8, 16)
    expected = model(x)
    assert_close(convert(model)(x), expected, "y")
    y, state = [], {}
    for t in range(8):  # the cell by itself, step by step
        one, state = model.step(x[:, t : t + 1], state)
        y.append(one)
    assert_close(torch.cat(y, 1), expected, "stepped")
    assert {cell.engine for cell in model.modules() if isinstance(cell, xlstm.sLSTMCellBase)} == {
        "auto"
    }


@pytest.mark.parametrize("copied", [copy.deepcopy, by_pickle], ids=["deepcopy", "pickle"])
def test_a_converted_cell_of_xlstms_is_copied(xlstm, copied):
    from fused_lstm.integrations.xlstm import convert

    cell = convert(nn.Sequential(a_cell(xlstm, torch.float32)), engine="loop")
    other, x = copied(cell), torch.randn(2, 5, 96)
    assert type(other[0]) is type(cell[0])
    assert other[0].engine == "loop"
    assert_close(other[0](x)[0], cell[0](x)[0], "y")
    assert torch.equal(other[0].recurrent_kernel.clone(), cell[0].recurrent_kernel.clone())
    other[0].recurrent_kernel[:] = 0.0  # shows its own parameter, not the copied cell's
    assert not other[0]._recurrent_kernel.any()
    assert cell[0]._recurrent_kernel.any()
    assert convert(other, engine="native")[0].engine == "native"


def test_what_xlstms_conversion_refuses(xlstm):
    from fused_lstm.integrations.xlstm import convert

    with pytest.raises(ValueError, match="model: got Linear; expected one with cells of xlstm's"):
        convert(torch.nn.Linear(2, 2))
    cell = a_cell(xlstm, torch.float32, gradient_recurrent_cut=True)
    with pytest.raises(ValueError, match="gradient_recurrent_cut: got True; expected False"):
        convert(cell)
    with pytest.raises(ValueError, match="engine: got 'cuda'"):
        convert(a_cell(xlstm, torch.float32), engine="cuda")


def test_xlstms_clip_is_ours(xlstm):
    from fused_lstm.integrations.xlstm import convert

    gates, state = torch.randn(2, 9, 96) * 5, torch.zeros(4, 2, 24)
    free, cut = (
        outcome(
            convert(a_cell(xlstm, torch.float32, gradient_recurrent_clipval=clip)), gates, state
        )
        for clip in (None, 1e-4)
    )
    assert_close(cut["y"], free["y"], "y")
    assert (cut["gates.grad"] - free["gates.grad"]).abs().max() > 1e-3


@pytest.mark.parametrize("engine", ENGINES)
def test_tirexs_cell(engine):
    """Which is bfloat16 throughout, and rounds c, n and m to it at every step."""
    theirs = pytest.importorskip("tirex.models.slstm.cell", reason="tirex-ts is not there")
    from fused_lstm.integrations.tirex import convert

    torch.manual_seed(2)
    cell = theirs.sLSTMCell(theirs.sLSTMBlockConfig(24, 3), backend="torch")
    for parameter in cell.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    gates, state = torch.randn(2, 9, 96), torch.zeros(4, 2, 24)
    expected = outcome(cell, gates, state, takes_gradients=False)
    convert(cell, engine=engine)
    for name, value in outcome(cell, gates, state, takes_gradients=False).items():
        assert_close(value, expected[name], name, torch.bfloat16)
