"""Cells told as functions: every engine beside autograd of a plain loop."""

from __future__ import annotations

import copy
import importlib
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fresh
import fused_lstm
from bench import zoo
from cases import needs_native
from fused_lstm import custom, heads, native
from fused_lstm.cells import compile as compiling
from fused_lstm.cells import definition, generate
from fused_lstm.spec import CELLS
from tolerance import GPU_NORM, assert_close, error_norm, near

ENGINES = ["loop", pytest.param("native", marks=needs_native)]
EXACT = near((1e-10, 1e-10))


def parts_of(module: fused_lstm.Recurrent, x: Tensor, part: str) -> dict[str, Tensor]:
    """Return a product's part of each gate that it has a part in, by name."""
    gates = module.cell.gates
    other = gates.h_only if part == "x" else gates.x_only
    names = [name for name in gates.names if name not in other and name not in module.cell.inputs]
    if not names:
        return {}
    weight, bias, gain = (
        getattr(module, f"{kind}_{'ih' if part == 'x' else 'hh'}_l0", None)
        for kind in ("weight", "bias", "gain")
    )
    product = F.linear(x, heads.dense(weight) if weight.dim() == 3 else weight)
    if gain is not None:
        product = F.layer_norm(product, product.shape[-1:], gain)
    product = product if bias is None else product + bias
    return dict(zip(names, product.split(module.hidden_size, -1), strict=True))


def loop(
    module: fused_lstm.Recurrent, x: Tensor, states: list[Tensor] | None = None, **inputs: Tensor
) -> tuple:
    """Run one layer forwards as a user would write it: y and the last state, h first."""
    cell, H, B = module.cell, module.hidden_size, x.shape[1]
    if states is None:
        states = [x.new_full((B, H), value) for value in cell.initial_states.values()]
        h = dict(zip(cell.states, states, strict=True)).get("h", x.new_zeros(B, H))
    else:
        h, *rest = states
        given = iter(rest)
        states = [h if name == "h" else next(given) for name in cell.states]
    weights = {name: getattr(module, f"{name}_l0") for name in cell.weights}
    outputs = []
    for t, row in enumerate(x):
        by_x, by_h = parts_of(module, row, "x"), parts_of(module, h, "h")
        gates = [
            (by_x[name], by_h[name]) if name in cell.gates.apart
            else sum(part[name] for part in (by_x, by_h) if name in part)
            for name in cell.gates.names if name not in cell.inputs
        ]  # fmt: skip
        named = dict(zip(cell.states, states, strict=True))
        named |= {name: value[t].expand(B, H) for name, value in inputs.items()}
        results = cell.function(*gates, **named, **weights, **cell.constants)
        h, *after = results if isinstance(results, tuple) else (results,)
        h = h @ module.weight_hr_l0.T if module.proj_size else h
        after = iter(after)
        states = [h if name == "h" else next(after) for name in cell.states]
        outputs.append(h)
    others = [s for name, s in zip(cell.states, states, strict=True) if name != "h"]
    return torch.stack(outputs), [h, *others]


def results(function: Callable, inputs: list[Tensor]) -> list[Tensor]:
    """Return y, the last state, and the gradients by `inputs` of a weighted sum of all."""
    y, last = function()
    outputs = [y, *(last if isinstance(last, tuple | list) else [last])]
    generator = torch.Generator().manual_seed(1)
    double = {"generator": generator, "dtype": torch.float64}
    weight = [torch.randn(t.numel(), **double).to(t.dtype) for t in outputs]
    total = sum((t.flatten() * w).sum() for t, w in zip(outputs, weight, strict=True))
    return [t.detach().squeeze(0) if t is not y else t.detach() for t in outputs] + list(
        torch.autograd.grad(total, inputs, materialize_grads=True)
    )


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.reshape(right.shape), right, **EXACT)


def inputs_of(cell: fused_lstm.Cell, T: int, B: int, H: int) -> dict[str, Tensor]:
    """Return the inputs of each step that a cell takes; all but the first are [T, B, H]."""
    widths = dict(zip(cell.inputs, (1, *[H] * len(cell.inputs)), strict=False))
    return {
        name: torch.rand(T, B, width, dtype=torch.float64, requires_grad=True)
        for name, width in widths.items()
    }


@pytest.mark.parametrize("shape", [(7, 5, 6, 37), (1, 1, 3, 8), (9, 17, 20, 64)], ids=str)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", zoo.ALL)
def test_values_and_gradients(name, engine, shape):
    """A layer, with a state and without, beside autograd of a loop over the function."""
    T, B, I, H = shape
    torch.manual_seed(0)
    cell = zoo.ALL[name]
    module = fused_lstm.Recurrent(cell, I, H, engine=engine, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    more = inputs_of(cell, T, B, H)
    inputs = [x, *module.parameters(), *more.values()]
    ours = results(lambda: module(x, **more), inputs)
    assert_same(ours, results(lambda: loop(module, x, **more), inputs))
    count = 1 + sum(state != "h" for state in cell.states)
    states = [torch.randn(B, H, dtype=torch.float64).abs().requires_grad_() for _ in range(count)]
    hx = tuple(s[None] for s in states)
    inputs += states if cell.states else []
    ours = results(lambda: module(x, hx if count > 1 else hx[0], **more), inputs)
    assert_same(ours, results(lambda: loop(module, x, states, **more), inputs))


@pytest.mark.parametrize("engine", [*ENGINES[1:], "triton"])
@pytest.mark.parametrize("zoneout", [(0.3, 0.0), (0.0, 0.3)], ids=["of h", "of c"])
def test_zoneout_of_one_of_both(zoneout, engine):
    """Outside training, where it is the expectation."""
    torch.manual_seed(0)
    options = {"zoneout": zoneout, "dtype": torch.float64}
    ours, plain = (
        fused_lstm.Recurrent(zoo.lltm, 4, 9, engine=e, **options).eval() for e in (engine, "loop")
    )
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    found = [results(lambda m=m: m(x), [x, *m.parameters()]) for m in (ours, plain)]
    assert_same(*found)


# By default those of each kind: each is compiled for native, and triton's interpreter is slow.
SOME = "lltm", "mgu", "slstm", "rnn", "nbrc", "sru"
OPTIONS_OF = [
    pytest.param(
        name, engine,
        marks=[needs_native] * (engine == "native")
        + [pytest.mark.slow] * (engine != "loop" and name not in SOME),
    )
    for name in zoo.ALL
    for engine in ("loop", "native", "triton")
]  # fmt: skip


@pytest.mark.parametrize(("name", "engine"), OPTIONS_OF)
def test_projection(name, engine):
    """A projected h of a cell that does not read h itself, or an error where the module is made."""
    torch.manual_seed(0)
    cell, options = zoo.ALL[name], {"proj_size": 5, "dtype": torch.float64}
    if not cell.has_c or "h" in cell.states or not cell.gates.by_h:
        wrong = r"proj_size: got a projection with cell .*; expected 0"
        with pytest.raises(ValueError, match=wrong):
            fused_lstm.Recurrent(cell, 4, 18, engine=engine, **options)
        return
    module = fused_lstm.Recurrent(cell, 4, 18, engine=engine, **options)
    x = torch.randn(3, 4, 4, dtype=torch.float64, requires_grad=True)
    inputs = [x, *module.parameters()]
    ours = results(lambda: module(x), inputs)
    states = [x.new_full((4, 18), value) for value in cell.initial_states.values()]
    hx = [x.new_zeros(4, 5), *states]
    assert_same(ours, results(lambda: loop(module, x, hx), inputs))
    module = fused_lstm.Recurrent(cell, 4, 18, 2, bidirectional=True, engine=engine, **options)
    plain = fused_lstm.Recurrent(cell, 4, 18, 2, bidirectional=True, engine="loop", **options)
    plain.load_state_dict(module.state_dict())
    rows = {"lengths": torch.tensor([3, 1, 2, 3])}
    found = [results(lambda m=m: m(x, **rows), [x, *m.parameters()]) for m in (module, plain)]
    assert_same(*found)


@pytest.mark.parametrize("option", ["layer_norm", "num_heads"])
@pytest.mark.parametrize(("name", "engine"), OPTIONS_OF)
def test_norms_and_heads(name, engine, option):
    """Layer normalization of both products, and heads, or an error where the module is made."""
    torch.manual_seed(0)
    cell, options = zoo.ALL[name], {option: True if option == "layer_norm" else 3}
    if not cell.gates.by_h or (cell.inputs if option == "layer_norm" else cell.weights):
        with pytest.raises(ValueError, match=f"{option}: got .*; expected"):
            fused_lstm.Recurrent(cell, 5, 18, engine=engine, **options)
        return
    module = fused_lstm.Recurrent(cell, 5, 18, engine=engine, dtype=torch.float64, **options)
    x, more = (
        torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True),
        inputs_of(cell, 3, 4, 18),
    )
    for parameter in module.parameters():
        torch.nn.init.uniform_(parameter, -0.5, 1.0)
    inputs = [x, *module.parameters(), *more.values()]
    ours = results(lambda: module(x, **more), inputs)
    assert_same(ours, results(lambda: loop(module, x, **more), inputs))


def assert_the_loops(
    cell: fused_lstm.Cell, engine: str, H: int, lengths: Tensor, **options: Any
) -> None:
    """Compare two layers and directions, dropout, lengths, resets, zoneout with engine `loop`."""
    T, B, kind = int(lengths.max()), len(lengths), CELLS[cell.name]
    options |= {"bidirectional": True, "dropout": 0.25, "dtype": torch.float64}
    if "zoneout" in kind.options and "num_heads" not in options:
        options |= {"zoneout": (0.2, 0.3), "recurrent_dropout": 0.1}
    layers, more = (1, inputs_of(cell, T, B, H)) if cell.inputs else (2, {})
    ours, plain = (
        fused_lstm.Recurrent(cell, 6, H, layers, engine=e, **options) for e in (engine, "loop")
    )
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(T, B, 6, dtype=torch.float64, requires_grad=True)
    rows = {"lengths": lengths} | more
    if not any(cell.initial_states.values()):
        rows["resets"] = torch.rand(T, B) < 0.2
    found = []
    for module in (ours, plain):
        torch.manual_seed(3)
        inputs = [x, *module.parameters(), *more.values()]
        found.append(results(lambda m=module: m(x, **rows), inputs))
    assert_same(*found)


# A weight of a unit, several states, eight gates, no product with h, a single gate. The others run
# with --slow: each cell is held against its loop above, and others are drawn.
OF_EACH_KIND = ("peephole", "slstm", "nas", "sru", "ind_rnn")


def cells_and_engines() -> list:
    """Return (name, engine) of the cells of bench/zoo.py."""
    found = []
    for name, engine in product(zoo.ALL, [*ENGINES[1:], pytest.param("triton")]):
        marks, label = list(engine.marks), f"{name}-{engine.values[0]}"
        if name not in OF_EACH_KIND:
            marks.append(pytest.mark.slow)
        found.append(pytest.param(name, *engine.values, marks=marks, id=label))
    return found


@pytest.mark.parametrize(("name", "engine"), cells_and_engines())
def test_everything_of_a_layer(name, engine):
    torch.manual_seed(0)
    steps = [4, 2, 3, 4, 1] if engine == "triton" else [7, 2, 5, 7, 1]
    assert_the_loops(zoo.ALL[name], engine, 37, torch.tensor(steps))


WITH = (
    {"layer_norm": True},
    {"num_heads": 3},
    {"proj_size": 7},
    {"layer_norm": True, "proj_size": 7},
)


@needs_native
@pytest.mark.parametrize("option", WITH, ids=lambda option: " ".join(option))
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in SOME)) for n in zoo.ALL]
)
def test_everything_with_an_option(name, option):
    """Everything on native where products are normalized, h is projected, or there are heads."""
    torch.manual_seed(1)  # with 0 a weight's gradient of cell `functions` is ill-conditioned
    cell = zoo.ALL[name]
    kind = CELLS[cell.name]
    has = {*kind.options} | ({"proj_size"} if kind.projects else set())
    if not {*option} <= has:
        pytest.skip(f"{cell.__name__} has not all of {', '.join(option)}")
    lengths = torch.randint(1, 8, (17,)).scatter(0, torch.tensor([0]), 7)
    assert_the_loops(cell, "native", 36, lengths, **option)


@needs_native
@pytest.mark.parametrize("name", ["lltm", "mgu", "peephole", "slstm", "rhn", "sru", "nas"])
def test_second_derivatives_functions_and_graphs(name):
    torch.manual_seed(0)
    module = fused_lstm.Recurrent(zoo.ALL[name], 3, 4, engine="native", dtype=torch.float64)
    x = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: module(x)[0], x)
    assert torch.autograd.gradgradcheck(lambda x: module(x)[0], x)
    jacobian = torch.func.jacrev(lambda x: module(x)[0])(x)
    torch.testing.assert_close(jacobian, torch.func.jacfwd(lambda x: module(x)[0])(x))
    compiled = torch.compile(lambda x: module(x)[0], fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), module(x)[0])
    exported = torch.export.export(module, (x.detach(),))
    torch.testing.assert_close(exported.module()(x.detach())[0], module(x)[0])


OPTIONS = {
    "plain": {}, "norm": {"layer_norm": True}, "heads": {"num_heads": 2}, "projection":
    {"proj_size": 24},
}  # fmt: skip


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("name", "option"),
    [(name, "plain") for name in ("lltm", "gru", "sru", "nas", "slstm", "rnn")]
    + [("gru", "norm"), ("lltm", "norm"), ("nas", "heads"), ("lltm", "projection")],
)
def test_float32_and_bfloat16(name, option, dtype):
    """Values and gradients beside float64; bfloat16 by its own kernels where the CPU has them."""
    torch.manual_seed(0)
    cell, options = zoo.ALL[name], OPTIONS[option]
    exact = fused_lstm.Recurrent(cell, 20, 48, 2, engine="loop", dtype=torch.float64, **options)
    module = fused_lstm.Recurrent(cell, 20, 48, 2, engine="native", dtype=dtype, **options)
    exact.load_state_dict(module.state_dict())
    x = torch.randn(12, 20, 20, dtype=dtype, requires_grad=True)
    wide = x.detach().double().requires_grad_()
    found = results(lambda: (module(x)[0], []), [x, *module.parameters()])
    wanted = results(lambda: (exact(wide)[0], []), [wide, *exact.parameters()])
    names = ["y", "dx", *(f"d{name}" for name, _ in module.named_parameters())]
    limit = GPU_NORM["bf16" if dtype == torch.bfloat16 else "fp32"]
    for what, ours, theirs in zip(names, found, wanted, strict=True):
        assert error_norm(ours, theirs) <= limit, what


@needs_native
@pytest.mark.parametrize("isa", ["avx2", "sse2", "avx512"])
def test_instruction_sets(isa):
    """A module made for another instruction set, which a test may choose."""
    if isa not in native.OPS.isa_names(None):
        pytest.skip(f"this CPU has no {isa}")
    native.OPS.use_isa(isa)
    try:
        for name in ("gru", "functions", "slstm"):
            torch.manual_seed(0)
            module = fused_lstm.Recurrent(zoo.ALL[name], 6, 37, engine="native").double()
            x = torch.randn(4, 5, 6, dtype=torch.float64, requires_grad=True)
            inputs = [x, *module.parameters()]
            ours = results(lambda m=module, x=x: m(x), inputs)
            assert_same(ours, results(lambda m=module, x=x: loop(m, x), inputs))
    finally:
        native.OPS.use_isa("")


# --- what is not finite ---


@fused_lstm.cell(states="c")
def roots(a, b, *, c):
    c = torch.where(a > 0, torch.sqrt(a), 0 * a) + torch.maximum(b, c).clamp(max=2)
    return torch.minimum(c, torch.log(torch.abs(b))), c


@needs_native
def test_what_is_not_finite():
    """NaN, infinity, and `where` whose untaken side is not finite: as autograd has them."""
    torch.manual_seed(0)
    module = fused_lstm.Recurrent(roots, 1, 16, bias=True, engine="native", dtype=torch.float64)
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.fill_(1.0) if name.startswith("weight_ih") else p.zero_()
    values = [0.0, 1.0, -1.0, float("inf"), -float("inf"), float("nan"), 1e-310, -1e-310]
    x = torch.tensor(values, dtype=torch.float64)[:, None].repeat(1, 1).reshape(1, 8, 1)
    x = x.clone().requires_grad_()
    ours = results(lambda: module(x), [x])
    theirs = results(lambda: loop(module, x), [x])
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(
            mine.reshape(right.shape)[..., :6, :], right[..., :6, :], **EXACT, equal_nan=True
        )


# --- a cell ---


def test_a_cell_keeps_its_function():
    def add(a, *, h, scale=2.0):
        """Add."""
        return a + scale * h

    cell = fused_lstm.cell(states="h")(add)
    assert cell.function is add
    assert cell.__doc__ == "Add."
    assert cell(torch.ones(2), h=torch.ones(2)).tolist() == [3, 3]
    assert cell.with_(scale=3.0)(torch.ones(2), h=torch.ones(2)).tolist() == [4, 4]
    assert cell.with_(scale=3.0).name != cell.name
    assert cell.with_(scale=2.0).name == cell.name


def test_a_cell_draws_no_random_number():
    torch.manual_seed(0)
    fused_lstm.cell(lambda a: torch.tanh(a))
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.rand(1) == after


def test_closures_of_one_source_are_two_cells():
    def make(factor):
        @fused_lstm.cell(states="h")
        def leak(a, *, h):
            return a + factor * h

        return leak

    assert make(0.5).name != make(0.25).name
    assert make(0.5).name == make(0.5).name
    x = torch.randn(3, 2, 4)
    for factor in (0.5, 0.25):
        module = fused_lstm.Recurrent(make(factor), 4, 8)
        torch.testing.assert_close(module(x)[0], loop(module, x)[0])


def test_weights_and_states_begin_as_told():
    module = fused_lstm.Recurrent(zoo.liquid, 4, 8, 2, bidirectional=True)
    assert {n for n, _ in module.named_parameters() if n.startswith("tau")} == {
        "tau_l0", "tau_l0_reverse", "tau_l1", "tau_l1_reverse",
    }  # fmt: skip
    assert (module.tau_l1_reverse == 1).all()
    module.reset_parameters()
    assert (module.tau_l0 == 1).all()
    drawn = fused_lstm.Recurrent(zoo.peephole, 4, 400)
    assert 0 < drawn.w_f_l0.abs().max() <= 400**-0.5


def test_resets_need_a_state_that_begins_at_zero():
    module = fused_lstm.Recurrent(zoo.normalized, 4, 8)
    with pytest.raises(ValueError, match=r"resets: got a tensor; expected None with cell normal"):
        module(torch.randn(3, 2, 4), resets=torch.zeros(3, 2, dtype=torch.bool))


@pytest.mark.parametrize("name", ["lltm", "brc", "sru", "nas"])
@pytest.mark.parametrize("engine", ENGINES)
def test_streaming(name, engine):
    """A step at a time is the sequence, after the weights have changed in place too."""
    module = fused_lstm.Recurrent(zoo.ALL[name], 5, 8, 2, engine=engine, dtype=torch.float64)
    stream = fused_lstm.Streaming(module, 3)
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    for _ in range(2):
        with torch.no_grad():
            expected = module(x)[0]
            assert_close(torch.stack([stream(row) for row in x]), expected, "y")
            for parameter in module.parameters():
                parameter.mul_(1.5)
        stream.reset()


def test_no_stream_has_inputs_of_a_step():
    module = fused_lstm.Recurrent(zoo.cfc, 3, 4, engine="loop")
    with pytest.raises(ValueError, match="module: got cell cfc, which has inputs; expected"):
        fused_lstm.Streaming(module)


def test_inputs_of_a_step_are_checked():
    module, x = fused_lstm.Recurrent(zoo.cfc, 3, 4, engine="loop"), torch.randn(5, 2, 3)
    for inputs, error in (
        ({}, "inputs: got none; expected the cell's: dt"),
        ({"dt": torch.ones(5, 2)}, r"dt: got \[5, 2\]; expected \[5, 2, 1\] or \[5, 2, 4\]"),
        ({"dt": 1.0}, r"dt: got float; expected \[5, 2, 1\]"),
        ({"dt": torch.ones(5, 2, 1), "t": x}, "inputs: got dt, t; expected the cell's: dt"),
    ):
        with pytest.raises(ValueError, match=error):
            module(x, **inputs)
    with pytest.raises(ValueError, match="num_layers: got 2 with cell cfc, which has inputs"):
        fused_lstm.Recurrent(zoo.cfc, 3, 4, 2)
    plain = fused_lstm.Recurrent(zoo.lltm, 3, 4, engine="loop")
    with pytest.raises(ValueError, match="inputs: got dt; expected the cell's: none"):
        plain(x, dt=torch.ones(5, 2, 1))


def test_a_module_is_copied_and_pickled():
    module = fused_lstm.Recurrent(zoo.lltm, 4, 8)
    x = torch.randn(3, 2, 4)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert other.cell is zoo.lltm
        torch.testing.assert_close(other(x)[0], module(x)[0])


@needs_native
def test_a_pickled_module_runs_in_another_process(tmp_path, monkeypatch):
    (tmp_path / "elsewhere.py").write_text(
        "import torch, fused_lstm\n@fused_lstm.cell(states='h')\ndef leak(a, *, h):\n"
        "    return torch.tanh(a) + 0.125 * h\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = fused_lstm.Recurrent(importlib.import_module("elsewhere").leak, 4, 8)
    x = torch.randn(3, 2, 4)
    torch.save((module, x, module(x)[0]), tmp_path / "module.pt")
    script = (
        f"import sys, torch\nsys.path.insert(0, {str(tmp_path)!r})\n"
        f"module, x, y = torch.load({str(tmp_path / 'module.pt')!r}, weights_only=False)\n"
        "torch.testing.assert_close(module(x)[0], y)\nprint('same')"
    )
    assert fresh.python(script, fresh.CELLS) == "same\n"


# --- errors ---


@pytest.mark.parametrize("argument", ["states", "weights", "x_only", "inputs"])
def test_names_are_one_text(argument):
    message = f"cell step: {argument}: got ('c', 'n'); expected names in one text"

    def step(i, *, c, n):
        return i + c, c, n

    with pytest.raises(ValueError, match=re.escape(message)):
        fused_lstm.cell(step, **{argument: ("c", "n")})


def told(error: str, **options) -> Callable[[Callable], None]:
    def check(function: Callable) -> None:
        with pytest.raises(ValueError, match=re.escape(error)) as caught:
            fused_lstm.cell(function, **options)
        message = str(caught.value)
        assert message.startswith(f"cell {function.__name__}: ")
        assert "\n" not in message

    return check


def test_errors_name_the_function_and_the_argument():
    @told("results: got 1 results; expected 2 tensors: h, the next c", states="c")
    def one_result(a, *, c):
        return a

    @told("results: got results of Tensor, float", states="c")
    def a_number(a, *, c):
        return a, 1.0

    @told("keywords: got d; expected the states, weights and inputs that are told: c", states="c")
    def another_name(a, *, d):
        return a, d

    @told("gates: got 0 positional arguments; expected 1 to 8", states="h")
    def no_gates(*, h):
        return h

    @told("gates: got 9 positional arguments; expected 1 to 8")
    def nine_gates(a, b, c, d, e, f, g, h, i):
        return a

    @told("arguments: got *gates; expected gates, then keywords after a *")
    def starred(*gates):
        return gates[0]

    @told("apart: got 'c'; expected names of gates, each told once: a, b", apart="c")
    def no_gate(a, b):
        return b

    @told("apart: got 'a'; expected names of gates, each told once: a, b", apart="a", x_only="a")
    def two_kinds(a, b):
        return b

    @told("h_only: got all gates; expected one gate that x has a part in", h_only="a b")
    def without_x(a, b):
        return a + b

    @told("weights: got 'bias_hh'; expected a name that a layer does not have", weights="bias_hh")
    def taken(a, *, bias_hh):
        return a + bias_hh

    @told("inputs: got 'lengths'; expected a name that a layer does not have", inputs="lengths")
    def taken_too(a, *, lengths):
        return a + lengths

    @told("function: got RuntimeError (Boolean value", states="h")
    def branch(a, *, h):
        return a if h > 0 else h

    @told("a conversion to torch.float16", states="h")
    def half(a, *, h):
        return (a.half() + h.half()).double()

    @told("function: got results that depend on a tensor's shape or dtype", states="h")
    def reads_a_shape(a, *, h):
        return a / a.shape[-1] ** 0.5 + h

    @told("function: got results that depend on a tensor's shape or dtype", states="h")
    def counts(a, *, h):
        return a / a.numel() + h

    @told("function: got results that depend on a tensor's shape or dtype", states="h")
    def reads_a_dtype(a, *, h):
        return a + torch.finfo(a.dtype).eps * h

    @told("function: got results that depend on a tensor's shape or dtype", states="h")
    def asks_a_dtype(a, *, h):
        return a + h if a.dtype == torch.float64 else a - h

    trained, fixed = torch.nn.Parameter(torch.ones(())), torch.tensor(0.5)

    @told("got a Parameter of shape [] from outside; expected weights=", states="h")
    def captures(a, *, h):
        return a + trained * h

    @told("got a tensor of shape [] from outside; expected weights=", states="h")
    def captures_a_tensor(a, *, h):
        return a + fixed * h

    @told("weights: got 'gain_hh'; expected a name that a layer does not have", weights="gain_hh")
    def taken_gain(a, *, gain_hh):
        return a + gain_hh

    @told("the power 0.3", states="h")
    def power(a, *, h):
        return a.abs() ** 0.3 + h

    @told("All outputs of f must be floating-point", states="h")
    def boolean(a, *, h):
        return a > h

    @told("results: got a tensor of 3 dimensions; expected tensors of the gates' shape", states="h")
    def another_shape(a, *, h):
        return (a + h).unsqueeze(0)


def test_errors_of_a_layer():
    with pytest.raises(
        ValueError, match=r"cell: got function; expected what fused_lstm\.cell makes"
    ):
        fused_lstm.Recurrent(lambda a: a, 3, 4)
    with pytest.raises(ValueError, match="zoneout: got"):
        fused_lstm.Recurrent(zoo.slstm, 3, 4, zoneout=0.1)
    with pytest.raises(ValueError, match=r"hx: got Tensor; expected a tuple \(h_0, c_0\)"):
        fused_lstm.Recurrent(zoo.rhn, 3, 4)(torch.randn(2, 2, 3), torch.randn(1, 2, 4))
    with pytest.raises(ValueError, match=r"constants: got 'scale'; expected dt"):
        zoo.liquid.with_(scale=1.0)
    with pytest.raises(ValueError, match="cell: got 'slstm_"):
        fused_lstm.Recurrent(zoo.slstm, 3, 4, engine="cudnn")


# --- what is printed ---


PRINTS = """
import hashlib, sys, torch, fused_lstm

@fused_lstm.cell(states="c n", weights={"tau": 1.0})
def told(i, f, z, o, *, c, n, tau):
    f = torch.sigmoid(f + tau)
    c, n = f * c + torch.sigmoid(i) * torch.tanh(z), f * n + torch.exp(i)
    return torch.sigmoid(o) * c / (1 + n), c, n

text = told.name + told.source() + told.source("triton") + told.explained()
found = hashlib.sha256(text.encode()).hexdigest(), hash("text")
"""


def test_processes_print_the_same_code(tmp_path):
    """The name, by which a pickle finds a cell, and the code, by which the cache does."""
    (file := tmp_path / "prints.py").write_text(PRINTS + "print(*found)")
    other = subprocess.run(
        [sys.executable, file], env=os.environ | {"PYTHONHASHSEED": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    exec(PRINTS, here := {"__name__": "prints"})
    digest, seeded = other.stdout.split()
    assert digest == here["found"][0]
    assert int(seeded) != here["found"][1], "PYTHONHASHSEED=1 is this process's too"


def test_the_printed_code_has_the_cells_names():
    text = zoo.lltm.source()
    for name in ("gate_i", "gate_o", "gate_g", "state_c", "dstate_c", "elu<S>(gate_g)"):
        assert name in text
    assert definition.MOST_GATES == 8
    assert compiling.CACHE == "FUSED_LSTM_CELLS"
    assert custom.Recurrent is fused_lstm.Recurrent


@needs_native
@pytest.mark.parametrize("name", generate.PRINTED)
def test_the_librarys_cells_are_as_printed(name):
    """The committed C++ is what cells/*.py prints: run `python -m fused_lstm.cells.generate`."""
    assert (generate.FOLDER / f"{name}.h").read_text() == generate.header(name)


def test_the_source_of_an_engine():
    assert "struct CustomCell" in zoo.lltm.source()
    assert "def backward(saved, states, after" in zoo.lltm.source("triton")
    with pytest.raises(ValueError, match="cell lltm: engine: got 'cudnn'; expected 'native' or"):
        zoo.lltm.source("cudnn")


@pytest.mark.parametrize("name", generate.PRINTED)
def test_the_librarys_cells_are_as_printed_for_triton(name):
    text = (generate.TRITON_FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert text == generate.triton_module(name)


def test_the_page_s_code_runs():
    """Each block of docs/your-own-cell.md that makes a cell, in order, and the loop's before it."""
    page = (Path(__file__).parents[2] / "docs" / "your-own-cell.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    loop_, cell_ = blocks[:2]
    space = {"torch": torch, "F": F, "xs": torch.randn(50, 8, 64)}
    H, draw = 128, torch.Generator().manual_seed(0)
    for name, shape in {
        "W": (3 * H, 64),
        "R": (3 * H, H),
        "b_ih": (3 * H,),
        "b_hh": (3 * H,),
    }.items():
        space[name] = torch.randn(*shape, generator=draw) / H**0.5
    space |= {"h": torch.zeros(8, H), "c": torch.zeros(8, H)}
    exec(loop_, space)
    exec(cell_, space)
    rnn = fused_lstm.Recurrent(space["lltm"], 64, H)
    with torch.no_grad():
        weights = (space[name] for name in ("W", "R", "b_ih", "b_hh"))
        for parameter, value in zip(rnn.parameters(), weights, strict=True):
            parameter.copy_(value)
        h_n, c_n = rnn(space["xs"])[1]
    assert_close(h_n[0], space["h"], "h")
    assert_close(c_n[0], space["c"], "c")
    message = re.search(r"^    (cell lltm: .*)$", page, flags=re.MULTILINE)[1]

    def lltm(i, o, g, *, c):
        return c.sum(-1, keepdim=True) + i + o + g, c

    with pytest.raises(ValueError, match=re.escape(message)):
        fused_lstm.cell(lltm, states="c")
    space.clear()  # globals of a cell's function: they would live as long as the process
