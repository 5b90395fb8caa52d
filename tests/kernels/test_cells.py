"""Cells that cuDNN does not have: against each written out, derivatives, what is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from torch import nn

import fused_lstm
from cases import rungs
from cells import drawn_seed, each_cell, make, written_out
from fused_lstm import choose, reference
from fused_lstm.spec import CANDIDATE, PLAIN, RECURRENT, ZONEOUT_C, ZONEOUT_H, Spec
from lanes import Case, Inputs, assert_differentiable, call, make_inputs
from tolerance import assert_close

each_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
DOUBLE = {"dtype": torch.float64}


def outcome(module: nn.Module, outputs, leaves) -> dict[str, torch.Tensor]:
    """Outputs and the gradient of everything, by name, by a loss that weighs each element."""
    module.zero_grad()
    loss = sum((o * torch.linspace(-1, 1, o.numel(), **DOUBLE).cos().view_as(o)).sum()
               for o in outputs)  # fmt: skip
    found = torch.autograd.grad(loss, [*leaves, *module.parameters()])
    names = ["x", "h_0", "c_0", *(name for name, _ in module.named_parameters())]
    return dict(zip(("y", "h_n", "c_n"), outputs, strict=True)) | {
        f"{name}.grad": g for name, g in zip(names, found, strict=True)
    }


def leaves_of(case: Case) -> tuple[Inputs, list[torch.Tensor]]:
    """A case's inputs, and x, h0 and c0 among them, which want gradients."""
    given = make_inputs(case, torch.float64)
    leaves = [t.detach().requires_grad_() for t in given[:3]]
    return given._replace(x=leaves[0], h0=leaves[1], c0=leaves[2]), leaves


@cache  # for all engines and levels
def wanted_of(case: Case, training: bool, options: tuple) -> dict[str, torch.Tensor]:
    """Return what the cell written out gives."""
    module, (given, leaves) = make(case, engine="loop", **dict(options)), leaves_of(case)
    seed = drawn_seed(7) if training else None
    found = outcome(module, written_out(module, *given, seed=seed), leaves)
    return {name: value.detach() for name, value in found.items()}


def check(case: Case, training: bool, engine="auto", fuse=None, **options) -> None:
    """The module gives what the cell written out gives, value by value, gradient by gradient."""
    module = make(case, engine=engine, fuse=fuse, **options).train(training)
    given, leaves = leaves_of(case)
    wanted = wanted_of(case, training, tuple(options.items()))
    torch.manual_seed(7)
    for name, value in outcome(module, call(module, case, given), leaves).items():
        assert_close(value, wanted[name], name)


# --- values ---

SHAPES = {
    "plain": Case(T=4, L=1),
    "one": Case(T=1, B=1, I=1, H=1, L=1),
    "two layers": Case(T=3, L=2, bias=False),
    "bidirectional": Case(T=3, bidirectional=True, batch_first=True),
    "projected": Case(T=3, proj_size=2),
    "packed": Case("unsorted", T=4, L=1),
    "all": Case("lengths", T=5, bidirectional=True, proj_size=3, resets=True),
}


@each_mode
@pytest.mark.parametrize("case", SHAPES.values(), ids=SHAPES)
@each_cell
def test_cell_is_the_one_written_out(options, case, training):
    check(case, training, engine="loop", **options)


@pytest.mark.parametrize(("engine", "fuse"), rungs("compile"))
def test_coupled_runs_on_every_engine(engine, fuse):
    check(SHAPES["projected"], True, coupled=True, engine=engine, fuse=fuse)


@pytest.mark.parametrize(  # of H = 4: a gate's weight has 12 rows
    ("P", "bias"), [(8, True), (12, True), (12, False), (13, False)]
)
@pytest.mark.parametrize(("engine", "fuse"), rungs("compile"))
def test_coupled_with_an_h_that_is_projected_to_more(engine, fuse, bias, P):
    """Against nn.LSTM's cell on the same weights, its forget gate's rows minus the input gate's."""
    T, B, I, H, L = 3, 2, 5, 4, 2
    coupled, full = [], []
    for layer in range(L):
        shapes = [(3 * H, P if layer else I), (3 * H, P), *[(3 * H,)] * (2 * bias)]
        gates = [torch.randn(shape, **DOUBLE) * 0.5 for shape in shapes]
        w_hr = torch.randn(P, H, **DOUBLE) * 0.5
        coupled += [*gates, w_hr]
        full += [*(torch.cat([w[:H], -w[:H], w[H:]]) for w in gates), w_hr]
    x = torch.randn(T, B, I, **DOUBLE)
    state = torch.randn(L, B, P, **DOUBLE), torch.randn(L, B, H, **DOUBLE)
    y, (h_n, c_n) = fused_lstm.lstm(
        x, state, coupled, engine=engine, fuse=fuse, cell=Spec(coupled=True)
    )
    wanted, (h, c) = fused_lstm.lstm(x, state, full, engine="loop")
    for name, a, b in zip(("y", "h_n", "c_n"), (y, h_n, c_n), (wanted, h, c), strict=True):
        assert_close(a, b, name)


@pytest.mark.slow  # as the loop's, and test_lanes.py has that engine
def test_the_compile_engine_has_cells():
    """It compiles loop's: two options, since a mask takes its compiler seconds."""
    if (why := fused_lstm.available_engines("cpu")["compile"]) is not None:
        pytest.skip(why)
    check(Case(T=2, L=1), True, engine="compile", layer_norm=True, recurrent_dropout=0.4)


@each_cell
def test_auto_takes_an_engine_that_has_the_cell(options):
    check(SHAPES["plain"], True, **options)
    names = set(options)
    engine = choose.choose("auto", None, torch.device("cpu"), Spec(**options)).engine
    assert all(choose.ENGINES[engine].has("lstm", name) for name in names)


@pytest.mark.filterwarnings("ignore:engine='auto'")
def test_auto_takes_the_loop_where_native_was_not_built(monkeypatch):
    monkeypatch.setattr("fused_lstm.native.missing", lambda device: "not built")
    specs = Spec(layer_norm=True), Spec(zoneout=0.1), Spec(coupled=True)
    for spec, engine in zip(specs, ("loop", "loop", "cudnn"), strict=True):
        found = choose._chosen.__wrapped__("auto", None, torch.device("cpu"), spec)[:2]
        assert found[0] == engine


def numbered(draw, first, spec, seed, lane, lanes, *sizes):
    """Draw as of two lanes, counted from number `first`."""
    return draw(spec, seed, lane + first, 2, *sizes)


def test_dropout_between_layers_beside_a_cell(monkeypatch):
    """Its mask is of kind 0, as without a cell."""
    module = make(Case(L=2), zoneout=0.5, dropout=0.5, engine="loop")
    x, seed = torch.randn(5, 3, 3, **DOUBLE), drawn_seed(3)
    torch.manual_seed(3)
    y, _ = module(x)
    found = []
    for layer in range(2):
        own = {name.replace(f"_l{layer}", "_l0"): value
               for name, value in module.state_dict().items() if f"_l{layer}" in name}  # fmt: skip
        one = fused_lstm.LSTM(x.shape[-1], 4, zoneout=0.5, **DOUBLE)
        one.load_state_dict(own)
        weights = list(one.parameters())
        with monkeypatch.context() as patch:
            patch.setattr(reference, "draw", partial(numbered, reference.draw, layer))
            x, *_ = reference.lstm(
                x, *torch.zeros(2, 1, 3, 4, **DOUBLE), weights, 0.0, seed, cell=Spec(zoneout=0.5)
            )
        found.append(x)
        x = x * fused_lstm.philox.dropout_mask(seed, x.shape, 0.5)
    assert_close(y, found[-1], "y")


# --- derivatives ---


@each_cell
def test_first_and_second_derivative(options):
    case = Case("lengths", T=3, B=2, I=2, H=2, L=1, bidirectional=True, resets=True)
    module = make(case, engine="loop", **options)
    assert_differentiable(
        make_inputs(case, torch.float64), module.parameters(), seed=5, engine="loop",
        bidirectional=True, cell=module.spec,
    )  # fmt: skip


@each_cell
def test_torch_func(options):
    """Per-sample gradients, and forward mode, against one sample after another."""
    module = make(Case(T=3), engine="loop", **options)
    weights = {name: p.detach() for name, p in module.named_parameters()}

    def loss(weights, x):
        torch.manual_seed(9)
        return torch.func.functional_call(module, weights, (x,))[0].sin().sum()

    x, each = torch.randn(2, 3, 2, 3, **DOUBLE), torch.func.grad(loss)
    found = torch.func.vmap(each, (None, 0), randomness="same")(weights, x)
    for n in range(2):
        wanted = torch.autograd.grad(
            loss({k: w.requires_grad_() for k, w in weights.items()}, x[n]), list(weights.values())
        )
        for (name, value), one in zip(found.items(), wanted, strict=True):
            assert_close(value[n], one, name)
    tangent = torch.func.jvp(lambda x: loss(weights, x), (x[0],), (x[1],))[1]
    by_x = torch.func.grad(loss, 1)(weights, x[0])
    assert_close(tangent.detach(), (by_x * x[1]).sum().detach(), "jvp")


# --- as nn.LSTM where it is off ---


@pytest.mark.parametrize(("engine", "fuse"), rungs("compile"))
def test_a_cell_with_nothing_on_is_nn_lstms(engine, fuse):
    off = {"layer_norm": False, "peephole": False, "coupled": False, "zoneout": (0.0, 0.0),
           "recurrent_dropout": 0.0, "candidate_dropout": 0.0, "forget_bias": None}  # fmt: skip
    torch.manual_seed(1)
    given = fused_lstm.LSTM(3, 4, 2, engine=engine, fuse=fuse, **off)
    torch.manual_seed(1)
    left_out = fused_lstm.LSTM(3, 4, 2, engine=engine, fuse=fuse)
    torch.manual_seed(1)
    theirs = nn.LSTM(3, 4, 2)
    assert replace(given.spec, layers=1) == PLAIN
    x, states = torch.randn(5, 2, 3), theirs.state_dict()
    assert list(given.state_dict()) == list(states)
    assert all(torch.equal(given.state_dict()[name], value) for name, value in states.items())
    assert torch.equal(given(x)[0], left_out(x)[0])
    if engine == "cudnn":
        assert torch.equal(given(x)[0], theirs(x)[0])


@pytest.mark.parametrize("name", ["zoneout", "recurrent_dropout", "candidate_dropout"])
def test_what_falls_in_training_only(name):
    module = fused_lstm.LSTM(3, 4, engine="loop", **{name: 0.5})
    x = torch.randn(5, 2, 3)
    assert not torch.equal(module(x)[0], module(x)[0])
    module.eval()
    assert torch.equal(module(x)[0], module(x)[0])
    plain = fused_lstm.LSTM(3, 4, engine="loop")
    plain.load_state_dict(module.state_dict())
    assert torch.allclose(module(x)[0], plain(x)[0]) == (name != "zoneout")


def test_the_share_that_zoneout_keeps():
    module = fused_lstm.LSTM(3, 200, engine="loop", zoneout=(0.3, 0.0))
    y, _ = module(torch.randn(20, 10, 3))
    share = (y[1:] == y[:-1]).float().mean().item()
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / y[1:].numel()) ** 0.5


def test_kinds_of_masks_have_numbers_apart():
    """docs/cells.md has them. No mask has 2^56 elements."""
    first = ZONEOUT_H, ZONEOUT_C, RECURRENT, CANDIDATE
    assert first == (1 << 56, 2 << 56, 3 << 56, 4 << 56)
    spec = Spec(zoneout=0.5, recurrent_dropout=0.5, candidate_dropout=0.5)
    draws = reference.draw(spec, torch.tensor([3]), 1, 2, 4, 3, 5, 5)
    masks = [draws.zoneout_h, draws.zoneout_c, draws.candidate * 0.5, draws.recurrent * 0.5]
    flat = [mask.flatten()[:15] for mask in masks]
    assert all(not torch.equal(a, b) for n, a in enumerate(flat) for b in flat[:n])


# --- a foreign implementation ---


def test_recurrent_dropout_is_keras(monkeypatch):
    """Keras draws a mask for each gate; given one mask for all, it computes ours."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "torch":
        pytest.skip("keras was imported with another backend")
    module = make(Case(L=1), engine="loop", recurrent_dropout=0.4).float()  # as its products are
    seed = drawn_seed(11)
    mask = fused_lstm.philox.dropout_mask(seed, (3, 4), 0.4, RECURRENT)
    cell = keras.layers.LSTMCell(4, recurrent_dropout=0.4, implementation=1)
    monkeypatch.setattr(cell, "get_recurrent_dropout_mask", lambda h: [mask] * 4)
    cell.build((3, 3))
    bias = module.bias_ih_l0 + module.bias_hh_l0
    weights = module.weight_ih_l0.T, module.weight_hh_l0.T, bias
    cell.set_weights([weight.detach().numpy() for weight in weights])
    x, h, c, wanted = torch.randn(5, 3, 3), *torch.zeros(2, 3, 4), []
    for row in x:
        h, (_, c) = cell(row, [h, c], training=True)
        wanted.append(h)
    torch.manual_seed(11)
    assert_close(module(x)[0], torch.stack(wanted), "y")
