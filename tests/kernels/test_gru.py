"""`GRU` beside nn.GRU, on every engine that has it: values, derivatives, the module."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import fused_lstm
import lanes
from cases import pytorchs_own_inputs
from cases import rungs as all_rungs
from fused_lstm import engines, pointwise, reference
from fused_lstm.cell import GRU, Cell
from lanes import Case, make_inputs
from tolerance import assert_close

DOUBLE = {"dtype": torch.float64}


def rungs(*exclude: str, **how) -> list:
    """(engine, fuse) for all that have a GRU."""
    found = all_rungs(*exclude, **how)
    return [rung for rung in found if engines.ENGINES[rung.values[0]].has("gru", rung.values[1])]


every_rung = pytest.mark.parametrize(("engine", "fuse"), rungs("compile"))
every_top = pytest.mark.parametrize(("engine", "fuse"), rungs("compile", top=True))


class Paired(nn.Module):
    """A GRU as tests/lanes.py calls an LSTM: of a state of two parts, which it adds up."""

    def __init__(self, gru: nn.RNNBase) -> None:
        super().__init__()
        self.gru = gru

    @property
    def batch_first(self) -> bool:
        return self.gru.batch_first

    @batch_first.setter
    def batch_first(self, value: bool) -> None:
        self.gru.batch_first = value

    def forward(self, x, state=None, **options):
        y, h_n = self.gru(x, None if state is None else state[0] + state[1], **options)
        return y, (h_n, h_n)


def make_modules(case: Case, engine: str, fuse: str | None, dtype: torch.dtype) -> tuple:
    """nn.GRU and ours with the same weights."""
    options = {k: v for k, v in case.options.items() if k != "proj_size"} | {"dtype": dtype}
    torch.manual_seed(case.seed)
    theirs = nn.GRU(case.I, case.H, **options)
    ours = fused_lstm.GRU(case.I, case.H, engine=engine, fuse=fuse, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def check(case: Case, engine: str, fuse: str | None, dtype: torch.dtype = torch.float64) -> None:
    """Ours gives what nn.GRU gives, value by value and gradient by gradient."""
    theirs, ours = map(Paired, make_modules(case, engine, fuse, dtype))
    given = make_inputs(case, dtype)
    wanted = lanes.run(lanes.expected, theirs, case, given)
    found = lanes.run(lanes.call, ours, case, given)
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        assert_close(found[name], value, name)


# --- values and gradients ---

CASES = {
    "plain": Case(),
    "one": Case(T=1, B=1, I=1, H=1, L=1),
    "one step": Case(T=1, B=3, H=7),
    "one row": Case(T=6, B=1, I=4, H=17, L=1),
    "no bias": Case(bias=False, state=False),
    "three layers": Case(T=3, B=2, I=21, H=3, L=3),
    "odd sizes": Case(T=5, B=4, I=17, H=63),
    "more rows than a tile": Case(T=2, B=21, I=9, H=34),
    "batch first": Case(batch_first=True),
    "bidirectional": Case(T=4, B=5, I=2, H=19, bidirectional=True, batch_first=True),
    "unbatched": Case("unbatched", bidirectional=True),
    "packed": Case("packed", T=6, B=5, H=18),
    "unsorted": Case("unsorted", bidirectional=True),
    "lengths": Case("lengths", B=5, batch_first=True),
    "resets": Case(T=6, resets=True),
    "all": Case("lengths", T=7, B=6, H=19, bidirectional=True, resets=True),
}


@every_rung
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_is_nn_gru(case, engine, fuse):
    if case.resets and engine == "cudnn":
        with pytest.raises(ValueError, match="resets: engine 'cudnn' has none"):
            check(case, engine, fuse)
    else:
        check(case, engine, fuse)


@pytest.mark.parametrize("name", ["one step", "odd sizes", "bidirectional", "packed"])
@pytest.mark.parametrize(("engine", "fuse"), rungs("triton", "compile"))
def test_float32(name, engine, fuse):
    check(CASES[name], engine, fuse, torch.float32)


@pytest.mark.parametrize("name", ["one step", "odd sizes", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_each_instruction_set(isa, name, dtype):
    check(CASES[name], "native", "layers", dtype)


@pytest.mark.slow  # its compiler takes a minute, and what it compiles is the loop
def test_the_compile_engine_has_it():
    if (why := fused_lstm.available_engines("cpu")["compile"]) is not None:
        pytest.skip(why)
    check(Case(T=2, L=1), "compile", None)


@pytest.mark.parametrize(("engine", "fuse"), rungs("triton", "compile"))
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_pytorchs_own_inputs(dtype, training, engine, fuse):
    given = pytorchs_own_inputs(nn.GRU, dtype, training)
    assert len(given) >= 16
    for n, one in enumerate(given):
        make, inputs = one.constructor_input, one.forward_input
        torch.manual_seed(n)
        theirs = nn.GRU(*make.args, dtype=dtype, **make.kwargs).train(training)
        own = {"dtype": dtype, "engine": engine, "fuse": fuse, **make.kwargs}
        ours = fused_lstm.GRU(*make.args, **own).train(training)
        ours.load_state_dict(theirs.state_dict())
        found = []
        for module in (theirs, ours):
            y, h_n = module(*inputs.args, **inputs.kwargs)
            leaves = [inputs.args[0], *module.parameters()]
            loss = y.sin().sum() + (h_n.sum() + 1) * h_n.cos().sum()
            found.append([y, h_n, *torch.autograd.grad(loss, leaves)])
        for m, (actual, wanted) in enumerate(zip(*reversed(found), strict=True)):
            assert_close(actual, wanted, f"input {n}, result {m}: {make.kwargs}")


@every_top
def test_bfloat16_is_as_near_as_pytorchs(engine, fuse):
    """Both to float64, of weights that bfloat16 has."""
    theirs, ours = make_modules(Case(I=9, H=19), engine, fuse, torch.bfloat16)
    x, errors = torch.randn(7, 3, 9, dtype=torch.bfloat16), []
    wanted = outcome(copy.deepcopy(theirs).double(), x.double())
    for module in (theirs, ours):
        found = outcome(module, x)
        errors.append({k: (found[k] - v).norm() / v.norm() for k, v in wanted.items()})
    for name, error in errors[1].items():
        assert error <= 1.25 * errors[0][name] + 4e-3, name


def outcome(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """y, h_n and all gradients, in float64."""
    x = x.detach().requires_grad_()
    y, h_n = module(x)
    (y.double().sin().sum() + h_n.double().square().sum()).backward()
    found = {"y": y.detach(), "h_n": h_n.detach(), "x": x.grad}
    found |= {name: p.grad for name, p in module.named_parameters()}
    return {name: value.double() for name, value in found.items()}


@pytest.mark.parametrize(("engine", "fuse"), rungs("compile", "cudnn", top=True))
def test_dropout_is_drawn_as_the_loop_draws_it(engine, fuse):
    case, found = Case(T=4, L=3), []
    for one in ((engine, fuse), ("loop", None)):
        _, ours = make_modules(case, *one, torch.float64)
        ours.dropout = 0.5
        torch.manual_seed(5)
        found.append(outcome(ours, make_inputs(case, torch.float64).x))
    for name, value in found[0].items():
        assert_close(value, found[1][name], name)
    theirs, _ = make_modules(case, engine, fuse, torch.float64)
    dropped, _ = theirs(make_inputs(case, torch.float64).x)
    assert not torch.allclose(found[0]["y"], dropped), "nothing was dropped"


# --- derivatives ---


def test_the_cells_backward_is_its_derivative():
    """As autograd has it, and differentiable itself."""
    gates, c, dh, dc = (torch.randn(3, n, **DOUBLE).requires_grad_() for n in (20, 5, 5, 5))
    h, c_next, activated = pointwise.gru_forward(gates, c)
    wanted = torch.autograd.grad((h, c_next), (gates, c), (dh, dc), create_graph=True)
    found = pointwise.gru_backward(activated, c, c_next, dh, dc)
    for name, value, other in zip(("dgates", "dc"), found, wanted, strict=False):
        assert_close(value.detach(), other.detach(), name)
    assert torch.autograd.gradcheck(pointwise.gru_backward, (activated, c, c_next, dh, dc))


@pytest.mark.parametrize("reverse", [False, True])
def test_the_lanes_backward_is_its_derivative(reverse):
    T, B, I, H = 4, 3, 5, 6
    sizes = (T, B, I), (B, H), (B, H), (4 * H, I), (4 * H, H), (4 * H,), (4 * H,)
    x, h0, c0, *weights = leaves = [torch.randn(s, **DOUBLE).requires_grad_() for s in sizes]
    layer = reference.Layer(*weights)
    order = reference.Rows(x, B, None, torch.rand(2, T, B) > 0.3).order(int(reverse))
    own = {"order": order, "own": pointwise.GRU}
    h, c, gates = reference.layer_forward(x, h0, c0, layer, **own)
    last = order.steps[-1]
    by = [torch.randn_like(t) for t in (h, h[last], c[last])]
    wanted = torch.autograd.grad((h, h[last], c[last]), leaves, by)
    *found, dlayer = reference.layer_backward(*by, x, h0, c0, layer, h, c, gates, **own)
    found += [d for d in dlayer if d is not None]
    for n, (value, other) in enumerate(zip(found, wanted, strict=True)):
        assert_close(value.detach(), other, f"gradient {n}")


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize(("engine", "fuse"), rungs("compile", slow=["triton-steps"]))
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


# --- the module ---


def test_arguments_and_state_dict_are_nn_grus():
    given, own = (3, 4, 2, True, True, 0.5, True), {"device": "cpu", "dtype": torch.float64}
    torch.manual_seed(3)
    ours = fused_lstm.GRU(*given, **own, engine="loop")
    torch.manual_seed(3)
    theirs = nn.GRU(*given, **own)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    for one, other in ((ours, nn.GRU(*given, **own)), (theirs, fused_lstm.GRU(*given, **own))):
        other.load_state_dict(one.state_dict())
        assert torch.equal(other.weight_hh_l1_reverse, one.weight_hh_l1_reverse)
    assert repr(ours) == repr(theirs).replace(")", ", engine='loop')")
    with pytest.raises(TypeError, match="proj_size"):
        fused_lstm.GRU(3, 4, proj_size=2)


@every_top
def test_a_graph_of_torch_compile(engine, fuse):
    _, ours = make_modules(Case(T=2, L=2), engine, fuse, torch.float64)
    x, found = torch.randn(2, 3, 3, **DOUBLE), []
    for run in (ours, torch.compile(ours, fullgraph=True, backend="aot_eager")):
        ours.zero_grad()
        y, h_n = run(x)
        (y.sin().sum() + h_n.sum()).backward()
        found.append([y.detach(), h_n.detach(), *(p.grad for p in ours.parameters())])
    for n, (a, b) in enumerate(zip(*found, strict=True)):
        assert_close(b, a, f"result {n}")


@every_top
def test_recompute(engine, fuse):
    case, found = Case("lengths", T=7, bidirectional=True), []
    for recompute in (None, 3):
        _, ours = make_modules(case, engine, fuse, torch.float64)
        ours.recompute = recompute
        found.append(lanes.run(lanes.call, Paired(ours), case, make_inputs(case, torch.float64)))
    for name, value in found[0].items():
        assert_close(found[1][name], value, name)


@every_top
def test_without_gradients_it_gives_the_same(engine, fuse):
    for case in (Case(T=9, B=6, H=33), Case(T=2, B=2)):
        _, ours = make_modules(case, engine, fuse, torch.float64)
        x = make_inputs(case, torch.float64).x
        y, h_n = ours(x)
        with torch.no_grad():
            quiet, last = ours(x)
        assert_close(quiet, y.detach(), "y")
        assert_close(last, h_n.detach(), "h_n")


@every_top
def test_an_empty_batch(engine, fuse):
    theirs, ours = make_modules(Case(), engine, fuse, torch.float64)
    x = torch.randn(4, 0, 3, **DOUBLE)
    for a, b in zip(ours(x), theirs(x), strict=True):
        assert a.shape == b.shape


@every_top
def test_autocast(engine, fuse):
    _, ours = make_modules(Case(), engine, fuse, torch.float32)
    x = torch.randn(4, 2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = ours(x)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in ours.parameters())
    torch.testing.assert_close(y.float(), ours(x)[0], rtol=0.05, atol=0.03)


def test_a_packed_result_is_packed_as_the_input_was():
    packed = pack_sequence([torch.randn(2, 3), torch.randn(4, 3)], enforce_sorted=False)
    y, h_n = fused_lstm.GRU(3, 4, engine="loop")(packed)
    assert type(y) is PackedSequence
    assert torch.equal(y.unsorted_indices, packed.unsorted_indices)
    assert h_n.shape == (1, 2, 4)


def test_scripted_it_is_nn_gru():
    theirs, ours = make_modules(Case(), "loop", None, torch.float32)
    scripted, x = torch.jit.script(Model(ours)), torch.randn(3, 2, 3)
    for a, b in zip(scripted(x), theirs(x), strict=True):
        assert torch.equal(a, b)


class Model(nn.Module):
    def __init__(self, gru: nn.Module) -> None:
        super().__init__()
        self.gru = gru

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.gru(x)


@pytest.mark.filterwarnings("ignore:engine='auto'")
def test_auto_takes_an_engine_that_has_it(monkeypatch):
    cpu = torch.device("cpu")
    engine, _ = engines.resolve("auto", None, cpu, GRU.on)
    assert engines.ENGINES[engine].has("gru", None)
    monkeypatch.setattr("fused_lstm.native.missing", lambda device: "not built")
    engine, _ = engines._resolve.__wrapped__("auto", None, cpu, GRU.on)
    assert engines.ENGINES[engine].has("gru", None)


# --- errors ---

WRONG = {
    "engine": ({"engine": "cuda"}, "engine: got 'cuda', should be 'auto' or one of"),
    "level": ({"engine": "loop", "fuse": "steps"}, "fuse: got 'steps', should be one of none"),
    "recompute": ({"recompute": 0}, "recompute: got 0, should be None or a number of steps"),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_what_no_module_can_be(options, message):
    with pytest.raises(ValueError, match=message):
        fused_lstm.GRU(3, 4, **options)


@pytest.mark.parametrize(
    ("engine", "fuse"),
    [(name, fuse) for name, one in engines.ENGINES.items() for fuse in one.fuses or (None,)
     if not one.has("gru", fuse)],
)  # fmt: skip
def test_what_has_no_gru_says_so(engine, fuse):
    with pytest.raises(ValueError, match=r"gru: .* does not have it, should be engine 'loop'"):
        fused_lstm.GRU(3, 4, engine=engine, fuse=fuse)


BAD = {
    "a pair": (lambda x, h: (x, (h, h)), "hx: got tuple, should be a tensor, h_0"),
    "rank": (lambda x, h: (x, h[0]), r"h_0: got shape \[3, 4\], should be \[2, B, 4\]"),
    "size": (lambda x, h: (x, h[..., :3]), r"h_0: got shape \[2, 3, 3\], should be \[2, B, 4\]"),
    "batch": (lambda x, h: (x, h[:, :2]), r"h_0: got shape \[2, 2, 4\], should be \[2, 3, 4\]"),
    "input": (lambda x, h: (x[..., :2], h), r"input: .* with I = 3"),
    "dtype": (lambda x, h: (x.double(), h), "h_0: got dtype torch.float32"),
}


@every_top
@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_bad_input_names_the_argument(spoil, message, engine, fuse):
    ours = fused_lstm.GRU(3, 4, 2, engine=engine, fuse=fuse)
    with pytest.raises(ValueError, match=message):
        ours(*spoil(torch.randn(5, 3, 3), torch.randn(2, 3, 4)))


def test_the_cell_goes_alone_and_has_one_state():
    with pytest.raises(ValueError, match="gru: got True with layer_norm, should be alone"):
        Cell(layer_norm=True, gru=True)
    x, (h, c) = torch.randn(3, 2, 4), torch.randn(2, 1, 2, 5)
    weights = list(nn.GRU(4, 5).parameters())
    _, (h_n, c_n) = fused_lstm.lstm(x, (h, h), weights, cell=GRU, engine="loop")
    assert torch.equal(h_n, c_n)
    with pytest.raises(ValueError, match="state: got two tensors, should be one twice"):
        fused_lstm.lstm(x, (h, c), weights, cell=GRU)
    assert Cell.of_arguments(**GRU.arguments()) == GRU
    assert GRU.weights(3, 5, 5, True, False) == {
        "weight_ih": (15, 3), "weight_hh": (15, 5), "bias_ih": (15,), "bias_hh": (15,),
    }  # fmt: skip
