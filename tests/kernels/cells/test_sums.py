"""Sums and maxima over the units of a row in a step, beside loops of PyTorch's own functions."""

from __future__ import annotations

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

import fused_lstm
from cases import cells_in_turn
from fused_lstm import native, zoo
from fused_lstm.call.choose import choose, engine_module
from fused_lstm.call.spec import Spec, Units
from fused_lstm.cells.meetings import in_few_phases
from fused_lstm.triton import choice as plan_choice
from fused_lstm.triton import interpreter, launch, op
from fused_lstm.triton.devices import DEVICES
from plans import PATHS_BACKWARD, make_plan
from sum_cells import (
    CELLS,
    maximum_of_a_sigmoid,
    norm_of_c,
    norms_around_a_product,
    softmax_and_maximum,
    sums_of_states,
    without_a_gate_of_h,
)  # fmt: skip
from tolerance import TOLERANCE, near

WHY = native.missing(torch.device("cpu"))
needs_native = pytest.mark.skipif(WHY is not None, reason=f"native: {WHY}")
needs_interpreter = pytest.mark.skipif(
    not interpreter.is_interpreted(), reason="test_gpu_cells.py does these on a GPU"
)
either = pytest.mark.parametrize(
    "engine",
    [pytest.param("native", marks=needs_native), pytest.param("triton", marks=needs_interpreter)],
)


each_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def layer_of(cell: fused_lstm.Cell, I: int, H: int, engine: str = "native", **more):
    """A layer whose every weight is far from where it starts."""
    torch.manual_seed(0)
    layer = fused_lstm.Recurrent(cell, I, H, engine=engine, dtype=torch.float64, **more)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn_like(p) * (0.5 if p.dim() == 1 else p.shape[-1] ** -0.5))
    return layer


def call_of(layer, T: int, B: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """x and the states before the first step."""
    H, others = layer.hidden_size, [name for name in layer.cell.states if name != "h"]
    shapes = (T, B, layer.input_size), *[(1, B, H)] * (1 + len(others))
    return [torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes]


def results_of(layer, tensors: list[Tensor], **call: Tensor) -> dict[str, Tensor]:
    """All results of a call and all gradients, in float64: name -> tensor."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    state = leaves[1] if len(leaves) == 2 else tuple(leaves[1:])
    y, last = layer(leaves[0], state, **call)
    ends = [y, *(last if isinstance(last, tuple) else [last])]
    rng = torch.Generator().manual_seed(1)
    by = [torch.randn(t.shape, generator=rng, dtype=torch.float64).to(t) for t in ends]
    named = dict(zip(["x", "h", "c", "d"], leaves, strict=False)) | dict(layer.named_parameters())
    found = torch.autograd.grad(ends, list(named.values()), by, allow_unused=True)
    values = {f"result {k}": t for k, t in enumerate(ends)}
    values |= {
        f"gradient of {name}": torch.zeros_like(t) if g is None else g
        for (name, t), g in zip(named.items(), found, strict=True)
    }
    return {name: t.detach().double() for name, t in values.items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype):
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, **near(TOLERANCE[dtype]), msg=lambda text, n=name: f"{n}: {text}"
        )


@needs_native
@pytest.mark.parametrize(("T", "B", "H"), [(5, 20, 40), (3, 2, 5), (2, 1, 1), (4, 7, 129)])
@cells_in_turn("cell", CELLS)
def test_it_is_the_loop(cell, T, B, H, every_isa, two_threads):
    layer = layer_of(cell, 3, H)
    tensors = call_of(layer, T, B)
    expected = results_of(layer_of(cell, 3, H, "loop"), tensors)
    assert_same(results_of(layer, tensors), expected, torch.float64)


@needs_interpreter
@pytest.mark.parametrize(
    ("T", "B", "H"),  # of the last size test_of_narrow_numbers_it_is_near has each cell
    [(3, 2, 5), (2, 1, 1), pytest.param(2, 18, 40, marks=pytest.mark.slow)],
)
@each_cell
def test_on_triton_it_is_the_loop(cell, T, B, H):
    layer = layer_of(cell, 3, H, "triton")
    tensors = call_of(layer, T, B)
    found = results_of(layer, tensors)
    layer.engine = "loop"
    assert_same(found, results_of(layer, tensors), torch.float64)


@needs_interpreter
@pytest.mark.parametrize(
    ("cell", "path"),
    [  # each path with one cell, in turn; --slow has both
        pytest.param(
            cell, path, id=f"{cell.__name__}-{path}",
            marks=[] if c == ("split" not in changes and n % 2) else pytest.mark.slow,
        )
        for c, cell in enumerate([sums_of_states, without_a_gate_of_h])
        for n, (path, changes) in enumerate(PATHS_BACKWARD.items())
    ],
)  # fmt: skip
def test_every_path_of_triton(cell, path, monkeypatch):
    """Programs share out rows and units, and rows end early or begin anew; two lanes by turns."""
    changes, lanes = PATHS_BACKWARD[path], 1 + [*PATHS_BACKWARD].index(path) // 2 % 2
    if not cell.gates.by_h and "split" in changes:
        pytest.skip("a part a gate: there is none")

    def made(fuse, direction, dtype, device, shape, *, norm, gates, inner, inside, tf32):
        path = changes if direction == "backward" or "split" not in changes else {}
        return make_plan(
            "both" if lanes == 2 else fuse, direction, shape.H, shape.B, shape.L, dtype, path,
            gates=gates, inner=inner, inside=inside,
        )  # fmt: skip

    monkeypatch.setattr(op, "plan_of", made)
    layer = layer_of(cell, 3, 40, "triton", bidirectional=lanes == 2)
    T, B = 3, 19
    tensors = [torch.randn(T, B, 3, dtype=torch.float64)]
    tensors += [torch.randn(lanes, B, 40, dtype=torch.float64) for _ in range(layer.cell.has_c + 1)]
    rows = {"lengths": torch.randint(1, T + 1, (B,)), "resets": torch.rand(T, B) < 0.3}
    found = results_of(layer, tensors, **rows)
    layer.engine = "loop"
    assert_same(found, results_of(layer, tensors, **rows), torch.float64)


@either
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@each_cell
def test_of_narrow_numbers_it_is_near(cell, dtype, engine):
    """Each cell at one size in float32 and at the other in bfloat16."""
    is_odd = [*CELLS.values()].index(cell) % 2
    T, B, H = (5, 20, 40) if is_odd == (dtype == torch.float32) else (3, 2, 33)
    if dtype == torch.bfloat16 and cell is softmax_and_maximum:
        pytest.skip("rounded numbers have another maximum, whose unit has the gradient")
    layer = layer_of(cell, 3, H, engine)
    if cell is maximum_of_a_sigmoid:
        with torch.no_grad():  # no rounding moves the maximum to another unit
            layer.bias_ih_l0[:H] *= 0.2
            layer.bias_ih_l0[H // 2] += 2
            layer.weight_ih_l0[:H] *= 0.2
            layer.weight_hh_l0[:H] *= 0.2
    rounded = copy.deepcopy(layer).to(dtype)
    layer.load_state_dict(rounded.state_dict())
    tensors = call_of(layer, T, B, dtype)
    found = results_of(rounded, tensors)
    layer.engine = "loop"
    expected = results_of(layer, [t.double() for t in tensors])
    for name, value in expected.items():
        error = (found[name] - value).norm() / (1 + value.norm())
        assert error < {torch.float32: 2e-6, torch.bfloat16: 3e-2}[dtype], f"{name}: {error}"


@fused_lstm.cell(states="h", products="u")
def norm_of_a_gate(a, *, h, u):
    return torch.tanh(u(F.layer_norm(a, a.shape[-1:]))) + 0.5 * h


@fused_lstm.cell(states="h", x_only="a")
def norm_of_x(a, *, h):
    return F.layer_norm(a, a.shape[-1:])


@either
def test_a_norm_takes_two_passes(engine):
    # A mean of 1e4 beside differences of 1: one pass would lose all digits of the variance.
    H = 4097
    layer = fused_lstm.Recurrent(norm_of_x, 1, H, engine=engine)
    numbers = torch.randn(H) + 1e4
    with torch.no_grad():
        layer.weight_ih_l0.copy_(numbers[:, None])
        layer.bias_ih_l0.zero_()
    found = layer(torch.ones(1, 1, 1))[0][0, 0]
    exact = F.layer_norm(numbers.double(), (H,))
    torchs = (F.layer_norm(numbers, (H,)) - exact).abs().max()
    most = 2 * torchs + 1e-6
    if engine == "native" and "avx512" not in native.OPS.isa_names():
        most = 8 * torch.finfo(torch.float32).eps * 1e4  # sums of few lanes round the mean more
    assert (found - exact).abs().max() < most


@either
@pytest.mark.parametrize("scale", [1e-4, 0.0])
@pytest.mark.parametrize("H", [1, 2, 17])
def test_of_equal_numbers_a_norm_has_gradients(H, scale, engine):
    layer = layer_of(norm_of_c, 3, H, engine)
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l0"):
            getattr(layer, name).mul_(scale)
    tensors = [t * scale for t in call_of(layer, 3, 2)]
    found = results_of(layer, tensors)
    layer.engine = "loop"
    assert_same(found, results_of(layer, tensors), torch.float64)
    assert all(t.isfinite().all() for t in found.values())


@either
def test_numbers_of_a_row_are_saved_unrounded(engine):
    # Of bfloat16 they would have 8 bits.
    torch.manual_seed(0)
    layer = fused_lstm.Recurrent(norm_of_x, 1, 64, engine=engine).bfloat16()
    x, h, saved = torch.ones(1, 32, 1).bfloat16().requires_grad_(), torch.zeros(1, 32, 64), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(x, h.bfloat16())
    weight, bias = layer.weight_ih_l0.detach().float()[:, 0], layer.bias_ih_l0.detach().float()
    gate = weight + bias if engine == "native" else (weight + bias).bfloat16().float()  # by addmm
    rstd = torch.rsqrt(gate.var(correction=0) + 1e-5)
    numbers = torch.cat([t.flatten() for t in saved if t.dtype == torch.float32])
    assert (numbers.nan_to_num(0) - rstd).abs().min() < 1e-6 * rstd


@needs_native
def test_the_same_call_gives_the_same_bits(two_threads):
    layer = layer_of(sums_of_states, 3, 70)
    tensors = call_of(layer, 6, 20)
    first = results_of(layer, tensors)
    for _ in range(20):
        again = results_of(layer, tensors)
        assert all(torch.equal(again[name], value) for name, value in first.items())


@needs_native
@pytest.mark.parametrize("cell", [norm_of_c, softmax_and_maximum, norms_around_a_product],
                         ids=lambda cell: cell.__name__)  # fmt: skip
def test_a_prepared_layer_has_them(cell):
    layer = layer_of(cell, 8, 32).float()
    x = torch.randn(7, 3, 8)
    with torch.no_grad():
        expected = layer(x)[0]
        found = fused_lstm.prepare(copy.deepcopy(layer))(x)[0]
    torch.testing.assert_close(found, expected, **near(TOLERANCE[torch.float32]))


@needs_native
def test_it_has_second_derivatives():
    """They are plain PyTorch's on each engine; test_triton_layers.py has Triton's."""
    layer = layer_of(norm_of_c, 2, 3)
    tensors = [t.requires_grad_() for t in call_of(layer, 2, 2)]

    def run(x, h, c):
        return layer(x, (h, c))[0]

    assert torch.autograd.gradcheck(run, tensors)
    assert torch.autograd.gradgradcheck(run, tensors)


@either
def test_compiled_programs_know_its_shapes(engine):
    layer = layer_of(norm_of_c, 3, 8, engine).float()
    compiled = torch.compile(layer, backend="aot_eager")
    x = torch.randn(4, 5, 3, requires_grad=True)
    (expected,) = torch.autograd.grad(layer(x)[0].sum(), x)
    (found,) = torch.autograd.grad(compiled(x)[0].sum(), x)
    assert torch.equal(found, expected)


@needs_native
def test_samples_have_gradients():
    layer = layer_of(softmax_and_maximum, 3, 8)
    x, named = torch.randn(4, 5, 3, dtype=torch.float64), dict(layer.named_parameters())

    def loss(named, one):
        return functional_call(layer, named, (one[:, None],))[0].square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 1))(named, x)
    for b in range(5):
        for name, value in torch.func.grad(loss)(named, x[:, b]).items():
            torch.testing.assert_close(found[name][b], value)


@needs_native
@pytest.mark.parametrize("M", [9, 30, 64])
def test_other_widths_than_h(M):
    @fused_lstm.cell(states="h", products="u")
    def backbone(z, *, h, u):
        z = F.layer_norm(z, z.shape[-1:])
        n = u(torch.tanh(z) + z.amax(-1, keepdim=True))
        return torch.tanh(n * n.softmax(-1)) + h * z.mean(-1, keepdim=True)

    layer = layer_of(backbone, 3, 30, units={"z": M})
    tensors = call_of(layer, 4, 3)
    found = results_of(layer, tensors)
    layer.engine = "loop"
    assert_same(found, results_of(layer, tensors), torch.float64)


# The table "What `triton` lacks" of docs/your-own-cell.md, row by row.
LACKS = [
    pytest.param(norm_of_c, {"proj_size": 4}, "beside a projected h", id="proj_size"),
    pytest.param(norm_of_a_gate, {"units": {"a": 9}}, "of more units than h", id="units"),
]


@pytest.mark.parametrize(("cell", "options", "where"), LACKS)
def test_triton_says_what_it_has_not(cell, options, where):
    message = f"engine 'triton' has no products or sums inside a step {where}"
    layer = fused_lstm.Recurrent(cell, 3, 8, engine="triton", **options)
    with pytest.raises(RuntimeError, match=message):
        layer(torch.randn(2, 2, 3))


@pytest.mark.parametrize(("cell", "options", "where"), LACKS)
def test_auto_takes_a_step_loop_on_a_gpu_for_what_triton_has_not(cell, options, where, monkeypatch):
    monkeypatch.setattr(engine_module("triton"), "missing", lambda device: None)
    options = {"projection": True} if "proj_size" in options else {"units": Units(9, (8,), (9,))}
    choice = choose("auto", None, torch.device("cuda"), Spec(cell.name, **options))
    assert choice[:2] == ("loop", "none")
    assert where in choice.reason
    assert choose("auto", None, torch.device("cuda"), Spec(cell.name)).engine == "triton"


def test_triton_runs_layers_of_sums_one_after_another():
    found = plan_choice.choose(
        "forward", hidden=650, batch=20, layers=2, dtype="bf16", device=DEVICES["H100"], inside=2
    )
    assert (found.kind, found.layers) == ("steps", 1)
    assert "the lanes of a wavefront do not meet inside a step" in found.why[-1]


@needs_interpreter
@pytest.mark.parametrize("cell", [norm_of_c, zoo.lltm], ids=lambda cell: cell.__name__)
def test_triton_saves_in_inference_what_later_phases_read(cell, monkeypatch):
    made, saves = launch.launches, []
    monkeypatch.setattr(
        launch, "launches", lambda *a, save, **k: saves.append(save) or made(*a, save=save, **k)
    )
    with torch.no_grad():
        fused_lstm.Recurrent(cell, 3, 11, engine="triton")(torch.randn(2, 2, 3))
    assert saves == [cell is norm_of_c]


def test_a_sum_that_nothing_reads_is_not_made():
    @fused_lstm.cell(states="h")
    def shifted(a, *, h):  # the ties of a maximum matter to its gradient alone
        return torch.exp(a - a.amax(-1, keepdim=True).detach()) + h

    assert shifted.program().kinds == ("maximum",)


def test_a_sum_is_made_once():
    @fused_lstm.cell(states="h")
    def standardized(a, *, h):
        return (a - a.mean(-1, keepdim=True)) / (1 + a.std(-1, keepdim=True)) + h

    assert standardized.program().kinds == ("sum", "sum")


def test_a_norm_meets_once():
    assert norm_of_c.program().meetings() == [(True, False), (False, True)]


def test_on_triton_sums_that_are_ready_share_a_phase():
    @fused_lstm.cell(states="c", apart="i")
    def norms_of_both(i, *, c):
        x, h = (F.layer_norm(part, part.shape[-1:]) for part in i)
        c = 0.5 * c + torch.tanh(x + h)
        return F.layer_norm(c, c.shape[-1:]), c

    p = in_few_phases(norms_of_both.program())
    assert p.begun_by == (1, 2, 1, 2, 3, 4)  # mean, squares of each: four phases for six sums
    assert p.fed_back_in == [1, 1, 1, 1, 0, 0]


def test_explained_names_them():
    text = softmax_and_maximum.explained()
    assert "product_0 = the maximum of" in text
    assert "product_1 = the sum of" in text


@needs_native
@pytest.mark.parametrize("given", [1, 9])
def test_an_input_has_the_width_of_what_it_meets(given):
    @fused_lstm.cell(states="h", inputs="dt scale", products="u")
    def backbone(z, *, h, dt, scale, u):
        return torch.tanh(u(torch.softmax(z * dt, -1))) * scale + 0.1 * h

    layer = layer_of(backbone, 3, 6, units={"z": 9})
    x, h = call_of(layer, 4, 3)
    dt = torch.rand(4, 3, given, dtype=torch.float64).requires_grad_()
    scale = torch.rand(4, 3, 6, dtype=torch.float64).requires_grad_()
    results = []
    for engine in ("native", "loop"):
        layer.engine = engine
        y, _ = layer(x, h, dt=dt, scale=scale)
        results.append([y, *torch.autograd.grad(y.sin().sum(), [dt, scale, *layer.parameters()])])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, **near(TOLERANCE[torch.float64]))
    with pytest.raises(ValueError, match=re.escape("expected [4, 3, 1] or [4, 3, 9]")):
        layer(x, h, dt=torch.rand(4, 3, 6), scale=scale)
