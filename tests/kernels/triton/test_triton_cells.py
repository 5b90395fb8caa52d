"""Cells inside the sweeps, in the interpreter: every path, plan and dtype."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

import fused_lstm
from cases import LanesCase, Shape, needs_native
from cells import CELLS as CELLS_OF_MODULES
from cells import make
from fused_lstm import reference
from fused_lstm.call.spec import GRU, Spec
from fused_lstm.triton import interpreter, op
from fused_lstm.triton.cells import KernelCell
from fused_lstm.triton.devices import DEVICES
from fused_lstm.triton.plan import plan
from lanes import Case
from plans import ALONE, PATHS_BACKWARD, make_plan
from test_triton_lanes import SEED, make_gradients, make_problem
from tolerance import assert_close

pytestmark = pytest.mark.skipif(
    not interpreter.is_interpreted(), reason="tests/kernels/triton/test_gpu.py does these on a GPU"
)

OPTIONS = {"peephole": True, "zoneout": (0.3, 0.2), "recurrent_dropout": 0.3}
ALL = Spec(**OPTIONS)
CASES = [
    LanesCase(Shape(3, 3, 5, 7, 1)),
    LanesCase(Shape(1, 1, 1, 1, 1), directions=2),
    LanesCase(Shape(4, 4, 9, 17, 3), dropout=0.4),
    LanesCase(Shape(4, 5, 4, 18, 2), lengths=(4, 3, 3, 2, 1), resets=True, directions=2, dead=2),
    LanesCase(Shape(4, 5, 4, 18, 2), lengths=(4, 3, 3, 2, 1), resets=True, dropout=0.3),
    LanesCase(Shape(3, 4, 3, 9, 2), projected=4, resets=True, directions=2, bias=False),
    LanesCase(Shape(3, 4, 7, 5, 2), projected=7, lengths=(3, 2, 2, 1)),
]


def run(case: LanesCase, cell: Spec, fuse: str, training: bool, dtype=torch.float64) -> None:
    """The operators' outputs and gradients beside the reference's, which autograd has of it."""
    problem, by = make_problem(case, dtype), [t.to(dtype) for t in make_gradients(case)]
    problem = problem._replace(inputs=with_cell(case, cell, problem.inputs))
    seed = SEED if training else None
    dropout = case.dropout if training else 0.0
    x, h0, c0, *weights = problem.inputs
    if not cell.has_c:  # it is h
        c0.data.copy_(h0)
    outputs = reference.lstm(x, h0, c0, weights, dropout, seed, **problem.lanes, cell=cell)
    unused = {"allow_unused": True, "materialize_grads": True}  # nn.RNN has no c
    grads = torch.autograd.grad(outputs, problem.inputs, by, **unused)
    wanted = [*outputs, *grads]

    x, h0, c0, *weights = (t.detach() for t in problem.inputs)
    given, lanes = (x, h0, c0, weights, dropout, seed, fuse), problem.lanes | cell.schema
    y, h_n, c_n, *saved = op.lstm(*given, True, **lanes)
    *found, dweights = op.lstm_backward(*by, *given, y, *saved, True, **lanes)
    found = [y, h_n, c_n, *found, *dweights]
    if not cell.has_c:  # by whichever of the two
        for results in (found, wanted):
            results[4] = results[4] + results[5]
            results[5] = torch.zeros_like(results[5])
    names = "y", "h_n", "c_n", "dx", "dh0", "dc0", *(f"weight {n}" for n in range(len(weights)))
    for name, a, b in zip(names, found, wanted, strict=True):
        assert_close(a, b.detach(), name)
    unsaved = op.lstm(*given, False, **lanes)
    for name, a, b in zip(names[:3], unsaved, found, strict=False):
        assert torch.equal(a, b), f"{name} where nothing is saved"


def with_cell(case: LanesCase, cell: Spec, inputs: list[Tensor]) -> list[Tensor]:
    """The inputs with as many gates as the cell has, and after each lane's weights its others."""
    (_, _, _, H, L), found, weights = case.shape, list(inputs[:3]), inputs[3:]
    each, dtype = len(weights) // (L * case.directions), inputs[0].dtype
    G = cell.gates * H
    sizes = [G - H] if cell.peephole else []
    if cell.layer_norm:
        sizes += [G, G, *([H] * cell.has_c), *([H] * (cell.has_c and case.bias))]
    for lane in range(L * case.directions):
        of_lane = weights[lane * each : (lane + 1) * each]
        cut = [w[:G].detach().requires_grad_() if len(w) == 4 * H else w for w in of_lane]
        found += cut
        found += [torch.randn(size, dtype=dtype).requires_grad_() for size in sizes]
    return found


def in_turn(cells: dict[str, Spec], cases: list[LanesCase], every: int):
    """Each case with one cell of `every`, and each cell with some cases; --slow has every pair."""
    return pytest.mark.parametrize(
        ("cell", "case"),
        [
            pytest.param(
                cell, case, id=f"{name}-{case}", marks=[] if (c + n) % every == 0 else SLOW
            )
            for c, (name, cell) in enumerate(cells.items())
            for n, case in enumerate(cases)
        ],
    )


SLOW = pytest.mark.slow


COUNTED = {
    "coupled": Spec(coupled=True),
    "coupled with all options": Spec(**OPTIONS, coupled=True),
    "gru": GRU,
    "gru with all options": Spec("gru", layer_norm=True, zoneout=0.3, recurrent_dropout=0.4),
    "rnn_tanh": Spec("rnn_tanh"),
    "rnn_relu": Spec("rnn_relu"),
}
# Who normalizes meets inside a step, which the interpreter's programs cannot.
FREE = {name: cell for name, cell in COUNTED.items() if not cell.layer_norm}
counted = pytest.mark.parametrize("cell", COUNTED.values(), ids=COUNTED)


def force(monkeypatch, path: dict, wavefront: bool) -> None:
    """Make op.py launch what `path` says, instead of what choice.choose does."""

    def made(fuse, direction, dtype, device, shape, *, norm, gates, inner, inside, tf32):
        kind = "both" if shape.D == 2 else "layers" if wavefront else "steps"
        changes = path if direction == "backward" or "split" not in path else {}
        return make_plan(
            kind, direction, shape.H, shape.B, shape.L, dtype, changes, projected=shape.projected,
            norm=norm, gates=gates, inner=inner, inside=inside,
        )  # fmt: skip

    monkeypatch.setattr(op, "plan_of", made)


@pytest.mark.parametrize(
    ("cell", "path"),
    [  # each cell with one path: test_triton_lanes.py has the others; --slow has every pair
        pytest.param(FREE[cell], path, id=f"{cell}-{path}",
                     marks=[] if c == (p + 4) % 5 and p > 7 else pytest.mark.slow)
        for c, cell in enumerate(FREE)
        for p, path in enumerate(PATHS_BACKWARD)
    ],
)  # fmt: skip
def test_every_path_with_other_gates(cell, path, monkeypatch):
    force(monkeypatch, PATHS_BACKWARD[path], True)
    run(LanesCase(Shape(2, 18, 5, 40, 2), resets=True, dropout=0.3), cell, "layers", True)


@counted
def test_nothing_has_rows_for_a_gate_that_is_not_there(cell):
    """What is saved, and what programs exchange: S and G columns a unit, and no more."""
    x, h0, G = torch.randn(3, 2, 7), torch.randn(1, 2, 7), cell.gates
    weights = [torch.randn(G * 7, 7), torch.randn(G * 7, 7), *torch.randn(2, G * 7)]
    weights += [torch.randn((G - 1) * 7)] if cell.peephole else []
    *_, gates = op.lstm(x, h0, h0, weights, 0.0, None, "steps", True, **cell.schema)
    assert gates.shape == (1, 3, 2, (4 if cell.cell == "gru" else G) * 7)


def test_a_launch_a_layer(monkeypatch):
    """Lanes are numbered through a stack, not through a launch."""
    force(monkeypatch, {}, False)
    run(CASES[2], ALL, "steps", training=True)


@pytest.mark.parametrize(
    ("path", "projected"),
    [
        ("blocks of batch", 9),
        *(
            pytest.param(*c, marks=pytest.mark.slow)
            for c in [("groups of rows", 0), ("partly resident", 0), ("resident parts", 9)]
        ),
    ],
)
def test_other_plans(path, projected, monkeypatch):
    force(monkeypatch, PATHS_BACKWARD[path], True)
    case = LanesCase(Shape(2, 18, 5, 40, 2), projected=projected, resets=True, dropout=0.3)
    run(case, ALL, "layers", training=True)


@in_turn({"all": ALL, **FREE}, [CASES[1], CASES[3]], 2)
def test_a_program_has_a_lane_alone(case, cell, monkeypatch):
    force(monkeypatch, ALONE, False)
    run(case, cell, "layers", training=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cell", [ALL, GRU], ids=["all", "gru"])
def test_other_dtypes(cell, dtype):
    run(LanesCase(Shape(3, 3, 5, 17, 2)), cell, "layers", training=True, dtype=dtype)


# --- the module ---

MODULES = {name: CELLS_OF_MODULES[name] for name in ("all but layer_norm", "all but coupled")}


def test_pointwise_refuses_what_it_does_not_have():
    refused = "peephole: got True with fuse='pointwise', which does not have it"
    with pytest.raises(ValueError, match=refused):
        fused_lstm.LSTM(3, 4, peephole=True, engine="triton", fuse="pointwise")


def test_a_norm_does_not_wait_for_programs_that_do_not_run():
    """Where not all of a lane's run at once, it is an error and not a wrong mean."""
    shape = {"hidden": 4000, "batch": 20, "layers": 1, "dtype": "bf16", "device": DEVICES["L4"]}
    assert not plan("steps", "forward", **shape).persistent
    with pytest.raises(ValueError, match=r"layer_norm: .* do not run at once on 58 SMs"):
        plan("steps", "forward", **shape, norm=2)


@pytest.mark.parametrize(
    "options",
    [pytest.param(of, id=name, marks=[pytest.mark.slow] if "coupled" in name else [])
     for name, of in MODULES.items()],
)  # fmt: skip
def test_in_parts_and_in_a_graph_it_is_the_loops(options):
    """Seeds are drawn in one order on all engines, so masks are the same."""
    x, found = torch.randn(3, 2, 3, dtype=torch.float64), []
    for engine in ("loop", "triton"):
        module = make(Case(L=2), engine=engine, recompute=2, **options)
        torch.manual_seed(3)
        y, _ = module(x)
        y.sin().sum().backward()
        found.append([y, *(p.grad for p in module.parameters())])
        compiled = torch.compile(module.eval(), fullgraph=True, backend="aot_eager")
        found[-1].append(compiled(x)[0])
    for n, (a, b) in enumerate(zip(*found, strict=True)):
        assert_close(a.detach(), b.detach(), f"result {n}")


# --- what a told cell saves where half precision does not hold it ---


@fused_lstm.cell(states="c")
def of_exp(a, b, *, c):
    e = torch.exp(a)
    c = torch.sigmoid(b) * c + e / (1 + e)
    return torch.tanh(c) * torch.log(1 + e) / 16, c


@fused_lstm.cell(states="c", products="u")
def of_exp_and_a_product(a, b, *, c, u):
    e = torch.exp(a)
    c = torch.sigmoid(b + u(torch.tanh(c))) * c + e / (1 + e)
    return torch.tanh(c) * torch.log(1 + e) / 16, c


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        pytest.param(of_exp, {}, id="plain"),
        pytest.param(of_exp, {"num_layers": 2, "bidirectional": True}, id="two-directions"),
        pytest.param(of_exp, {"proj_size": 3}, id="projected"),
        pytest.param(of_exp, {"num_heads": 2}, id="heads"),
        pytest.param(of_exp, {"layer_norm": True}, id="layer_norm"),
        pytest.param(of_exp_and_a_product, {}, id="product"),
    ],
)
def test_what_float16_cannot_hold_is_saved_in_float32(cell, options):
    """Here exp(a) is 9e4 and more, above float16's 65504, and all gradients are small."""
    made = fused_lstm.Recurrent(cell, 5, 6, engine="triton", dtype=torch.float16, **options)
    with torch.no_grad():
        for name, p in made.named_parameters():
            if name.startswith("bias_ih"):
                p[:6] += 12
    x, found = torch.randn(3, 2, 5, dtype=torch.float16), []
    for engine, dtype in (("triton", torch.float16), ("loop", torch.float64)):
        module = copy.deepcopy(made).to(dtype)
        module.engine = engine
        of_x = x.to(dtype).requires_grad_()
        y, state = module(of_x)
        grads = torch.autograd.grad(y.sum(), [of_x, *module.parameters()])
        found.append([y, *state, *grads])
    names = "y", "h_n", "c_n", "dx", *(name for name, _ in made.named_parameters())
    for name, ours, exact in zip(names, *found, strict=True):
        assert_close(ours.detach(), exact.half().detach(), name)


@fused_lstm.cell(states="c")
def of_gates(a, b, *, c):
    c = torch.sigmoid(b) * c + torch.tanh(a)
    return torch.tanh(c), c


@pytest.mark.parametrize("engine", ["triton", pytest.param("native", marks=needs_native)])
@pytest.mark.parametrize("cell", [of_exp, of_gates], ids=["exp", "gates"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_graph_knows_the_dtype_of_what_is_saved(dtype, cell, engine):
    """It is float32 on triton where a step saves more than sigmoids and hyperbolic tangents."""
    if engine == "native" and dtype == torch.float16:
        pytest.skip("native has no float16")
    weights = [torch.randn(size, dtype=dtype) for size in ((12, 5), (12, 6), (12,), (12,))]
    x, h0 = torch.randn(3, 2, 5, dtype=dtype), torch.randn(1, 2, 6, dtype=dtype)
    fused_lstm.Recurrent(cell, 5, 6, engine=engine, dtype=dtype)(x)  # makes the kernels
    of = getattr(torch.ops, f"fused_lstm_{engine}")
    part, heads = torch.randn(3, 2, 12, dtype=dtype), torch.randn(2, 6, 3, dtype=dtype)
    for save in (True, False):
        for operator, given, options in (
            (of.lstm, (x, h0, h0, weights, 0.0, None, "steps", save), {"cell": cell.name}),
            (of.recurrence, (part, h0[0], h0[0], heads, None, cell.name, save), {}),
        ):
            real = operator(*given, **options)
            with FakeTensorMode(allow_non_fake_inputs=True):
                fake = operator(*given, **options)
            assert [t.dtype for t in fake] == [t.dtype for t in real]
            if save:
                wide = engine == "triton" and cell is of_exp
                assert real[-1].dtype == (torch.float32 if wide else dtype)
                assert [t.shape for t in fake] == [t.shape for t in real]


def test_a_cells_key_in_tritons_cache_has_all_its_functions():
    """A key has all phases: a change of a later one would launch the kernel of before."""
    step, backward, *more = (SimpleNamespace(cache_key=key) for key in "abcdefgh")
    cell = KernelCell(
        "three products", step, backward, sums=1, saved=1, inner=(1, 1, 1), counts=(1, 0, 0, 0),
        steps=tuple(more[:3]), backs=tuple(more[3:]),
    )  # fmt: skip
    assert sorted(cell.cache_key.split()) == list("abcdefgh")
