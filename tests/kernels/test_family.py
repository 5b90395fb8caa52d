"""RNN, the cells of one step, and a GRU's options: torch.nn's values, and written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fused_lstm
import lanes
from cases import assert_agree_on_pytorchs_inputs, in_turn
from cases import rungs as all_rungs
from cells import Place, drawn_seed
from fused_lstm.choose import ENGINES
from gru import Paired
from lanes import Case, make_inputs
from tolerance import assert_close

DOUBLE = {"dtype": torch.float64}


def rungs(cell: str, option: str | None = None, *exclude: str, **how) -> list:
    """(engine, fuse) for all that have a cell, or an option of it."""
    found = all_rungs(*exclude, **how)
    return [r for r in found if ENGINES[r.values[0]].has(cell, option, r.values[1])]


# --- RNN ---

CASES = {
    "plain": Case(),
    "one": Case(T=1, B=1, I=1, H=1, L=1),
    "no bias, batch first": Case(bias=False, batch_first=True),
    "unbatched": Case("unbatched", bidirectional=True),
    "packed": Case("unsorted", bidirectional=True),
    "lengths": Case("lengths", T=9, B=6, H=19, bidirectional=True),
    "no state": Case(state=False),
}


def make_rnns(case: Case, nonlinearity: str, engine: str, fuse: str | None, dtype=torch.float64):
    """nn.RNN and ours with the same weights."""
    options = {k: v for k, v in case.options.items() if k != "proj_size"}
    options |= {"nonlinearity": nonlinearity, "dtype": dtype}
    torch.manual_seed(case.seed)
    theirs = nn.RNN(case.I, case.H, **options)
    ours = fused_lstm.RNN(case.I, case.H, engine=engine, fuse=fuse, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


BOTH = {
    f"{name}-{nonlinearity}": (case, nonlinearity)
    for name, case in CASES.items()
    for nonlinearity in ("tanh", "relu")
}


@in_turn(BOTH, rungs("rnn_tanh", None, "compile"), 3)
def test_it_is_nn_rnn(case, engine, fuse):
    case, nonlinearity = case
    theirs, ours = make_rnns(case, nonlinearity, engine, fuse)
    given = make_inputs(case, torch.float64)
    wanted = lanes.run(lanes.expected, Paired(theirs), case, given)
    found = lanes.run(lanes.call, Paired(ours), case, given)
    for name, value in wanted.items():
        assert_close(found[name], value, name)


@pytest.mark.parametrize(("engine", "fuse"), rungs("rnn_tanh", None, "compile", "cudnn"))
def test_an_rnn_that_begins_anew(engine, fuse):
    case = Case("lengths", T=7, B=4, bidirectional=True, resets=True)
    theirs, ours = make_rnns(case, "tanh", engine, fuse)
    given = make_inputs(case, torch.float64)
    wanted = lanes.run(lanes.expected, Paired(theirs), case, given)
    for name, value in lanes.run(lanes.call, Paired(ours), case, given).items():
        assert_close(value, wanted[name], name)


@pytest.mark.parametrize(
    ("engine", "fuse"),
    rungs("rnn_tanh", None, "compile", slow=("triton-steps", "triton-layers")),
)
@pytest.mark.filterwarnings("ignore")
def test_what_pytorch_tests_nn_rnn_with(engine, fuse):
    of = nn.RNN, fused_lstm.RNN, torch.float64, True
    assert assert_agree_on_pytorchs_inputs(*of, engine, fuse) >= 16


# Second derivatives are plain PyTorch; of Triton's first ones test_it_is_nn_rnn has each.
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize(
    ("engine", "fuse"), rungs("rnn_tanh", None, "compile", "cudnn", slow=("triton",))
)
def test_an_rnns_first_and_second_derivative(nonlinearity, engine, fuse):
    case = Case("lengths", T=2, B=2, I=2, H=2, L=1, bidirectional=True)
    _, ours = make_rnns(case, nonlinearity, engine, fuse)
    given, names = make_inputs(case, torch.float64), [name for name, _ in ours.named_parameters()]

    def function(x, h0, *weights):
        weights = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(ours, weights, (x, h0), {"lengths": given.lengths})

    leaves = [t.detach().requires_grad_() for t in (given.x, given.h0, *ours.parameters())]
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


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


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("engine", ["loop", "native"])
def test_recompute_and_streaming(name, engine):
    if (why := fused_lstm.available_engines("cpu")[engine]) is not None:
        pytest.skip(why)
    make = getattr(fused_lstm, name)
    module, x = make(3, 5, 2, engine=engine, **DOUBLE), torch.randn(7, 2, 3, **DOUBLE)
    outputs = []
    for recompute in (None, 3):
        module.recompute = recompute
        module.zero_grad()
        y, _ = module(x)
        y.sin().sum().backward()
        outputs.append([y.detach(), *(p.grad.clone() for p in module.parameters())])
    for n, (a, b) in enumerate(zip(*outputs, strict=True)):
        assert_close(b, a, f"result {n}")
    stream = fused_lstm.Streaming(module, 2)
    assert_close(torch.stack([stream(row) for row in x]), outputs[0][0], "streamed")
    with torch.no_grad():
        last = module(x)[1]
    if name == "LSTM":
        assert isinstance(stream.state, tuple)
    else:
        assert_close(stream.state, last, "h")


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

OPTIONS = {
    "layer_norm": {"layer_norm": True},
    "zoneout": {"zoneout": 0.4},
    "recurrent_dropout": {"recurrent_dropout": 0.4},
    "all": {"layer_norm": True, "zoneout": 0.3, "recurrent_dropout": 0.3},
}


def gru_step(module: fused_lstm.GRU, end: str, x: Tensor, h: Tensor, place: Place) -> Tensor:
    """x [I], h [H] of one row; end: of the weights' names, such as "_l0"."""
    spec = module.spec

    def weight(name: str):
        return getattr(module, name + end, 0.0)

    fed = h * place.mask(3, spec.recurrent_dropout, len(h), each_step=False)
    by_x, by_h = weight("weight_ih") @ x, weight("weight_hh") @ fed
    if spec.layer_norm:
        by_x = F.layer_norm(by_x, by_x.shape) * weight("gain_ih")
        by_h = F.layer_norm(by_h, by_h.shape) * weight("gain_hh")
    r_x, z_x, n_x = (by_x + weight("bias_ih")).chunk(3)
    r_h, z_h, n_h = (by_h + weight("bias_hh")).chunk(3)
    r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
    n = torch.tanh(n_x + r * n_h)
    new, kept = (1 - z) * n + z * h, place.zone(1, spec.zones[0], len(h))
    return kept * h + (1 - kept) * new


def gru_written_out(module: fused_lstm.GRU, x: Tensor, h0: Tensor, seed: Tensor | None):
    """x [T, B, I] -> y, h_n, a row and a step at a time."""
    (T, B), last = x.shape[:2], []
    for layer in range(module.num_layers):
        rows = []
        for b in range(B):
            h, steps = h0[layer, b], []
            for t in range(T):
                place = Place(seed, layer, module.num_layers, T, t, B, b)
                h = gru_step(module, f"_l{layer}", x[t, b], h, place)
                steps.append(h)
            rows.append(torch.stack(steps))
        x = torch.stack(rows, 1)
        last.append(x[-1])
    return x, torch.stack(last)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("options", "engine", "fuse"),
    [
        pytest.param(options, *rung.values, marks=rung.marks, id=f"{name}-{rung.id}")
        for name, options in OPTIONS.items()
        for rung in rungs("gru", next(iter(options)), "compile")
    ],
)
def test_a_grus_options_are_those_written_out(options, engine, fuse, training):
    torch.manual_seed(4)
    module = fused_lstm.GRU(3, 6, 2, **options, **DOUBLE, engine=engine, fuse=fuse)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.4)
    module.train(training)
    x, h0 = torch.randn(5, 3, 3, **DOUBLE), torch.randn(2, 3, 6, **DOUBLE)
    seed = drawn_seed(7) if training else None
    results = []
    for ours in (True, False):
        leaves = [t.clone().requires_grad_() for t in (x, h0)]
        if ours:
            torch.manual_seed(7)
            y, h_n = module(*leaves)
        else:
            y, h_n = gru_written_out(module, *leaves, seed)
        weight = torch.linspace(-1, 1, y.numel(), **DOUBLE).cos().view_as(y)
        loss = (y * weight).sum() + h_n.sin().sum()
        grads = torch.autograd.grad(loss, [*leaves, *module.parameters()])
        results.append([y.detach(), h_n.detach(), *grads])
    names = ["y", "h_n", "x", "h_0", *(name for name, _ in module.named_parameters())]
    for name, one, other in zip(names, *results, strict=True):
        assert_close(one, other, name)


def test_a_gru_has_no_other_options():
    for option in ("peephole", "coupled", "candidate_dropout"):
        with pytest.raises(TypeError, match=option):
            fused_lstm.GRU(3, 4, **{option: True})
    names = list(fused_lstm.GRU(3, 4, layer_norm=True).state_dict())
    assert names[-2:] == ["gain_ih_l0", "gain_hh_l0"]
    with pytest.raises(ValueError, match=r"zoneout: got .* with engine='cudnn'"):
        fused_lstm.GRU(3, 4, zoneout=0.1, engine="cudnn")
