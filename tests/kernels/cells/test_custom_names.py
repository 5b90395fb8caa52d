"""A cell's name is a label: no rule of the library reads it, and none of its function's values
changes after the cell was made."""

from __future__ import annotations

import ast
import pickle
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

import fresh
import fused_lstm
from cases import needs_native
from fused_lstm.call.spec import CELLS, OPTIONS

ENGINES = ["loop", pytest.param("native", marks=needs_native)]
WORDS = (
    "rnn", "rnn_step", "rnn_tanh", "gru", "lstm", "layer_norm", "layer_norm_lstm", "zoneout",
    "projected", "coupled", "peephole", "slstm_exponential", "num_heads",
)  # fmt: skip


@cache
def named(word: str) -> fused_lstm.Cell:
    def step(i, g, *, c):
        c = c * torch.sigmoid(i) + torch.tanh(g)
        return torch.tanh(c), c

    step.__name__ = step.__qualname__ = word
    return fused_lstm.cell(step, states="c")


def everything(cell: fused_lstm.Cell, compiled: bool = False, **options) -> list[Tensor]:
    """Return the results of a layer, and the gradients by all that goes into it."""
    torch.manual_seed(0)
    module = fused_lstm.Recurrent(cell, 4, 8, dtype=torch.float64, **options)
    x = torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True)
    run = torch.compile(module, fullgraph=True) if compiled else module
    y, last, *states = run(x) if compiled else run(x, return_states=True)
    outputs = [y, *last, *(states[0] if states else ())]
    loss = sum((t * t).sum() for t in outputs)
    return [*outputs, *torch.autograd.grad(loss, [x, *module.parameters()])]


@pytest.mark.parametrize("options", [{}, {"num_heads": 2}, {"layer_norm": True}], ids=str)
@pytest.mark.parametrize("engine", ENGINES)
def test_equal_formulas_are_equal_under_any_name(engine, options):
    """One named rnn in heads once lost the gradient by c."""
    plain = everything(named("plain"), engine=engine, **options)
    for word in WORDS:
        for a, b in zip(everything(named(word), engine=engine, **options), plain, strict=True):
            assert torch.equal(a, b), word


@needs_native
@pytest.mark.parametrize(
    "word", ["layer_norm_lstm", pytest.param("rnn_step", marks=pytest.mark.slow)]
)
def test_a_name_in_a_compiled_training_step(word):
    """Inductor once expected another shape of a cell whose name has layer_norm in it."""
    torch.testing.assert_close(everything(named(word), compiled=True),
                               everything(named("plain"), compiled=True))  # fmt: skip


def reads_a_name(node: ast.AST) -> bool:
    """Return whether a node compares a cell's name, or takes a part of it, with a text."""
    library = {*CELLS, *OPTIONS}

    def is_a_name(value: ast.AST) -> bool:
        if isinstance(value, ast.Name | ast.Attribute):
            return (value.id if isinstance(value, ast.Name) else value.attr) in (
                "cell", "schema_cell", "name",
            )  # fmt: skip
        return False

    def has_a_word(value: ast.AST) -> bool:
        words = {n.value for n in ast.walk(value) if isinstance(n, ast.Constant)}
        return bool({w for w in words if isinstance(w, str)} & (library | {"rnn"}))

    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        return any(map(is_a_name, sides)) and any(map(has_a_word, sides))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        parts = "startswith", "endswith", "removeprefix", "removesuffix", "partition", "find"
        text = node.func.attr in parts and is_a_name(node.func.value)
        return text and any(map(has_a_word, node.args))
    return False


def test_no_rule_reads_a_cells_name():
    source = Path(fused_lstm.__file__).parent
    found = [
        f"{path.relative_to(source)}:{node.lineno}"
        for path in source.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if reads_a_name(node)
    ]
    assert [
        place for place in found if not place.startswith("operator/ops.py")
    ] == []  # operators' names


def test_an_input_is_no_gate_of_x():
    """Two cells of one formula: the name, by which options are found, tells them apart."""

    def step(a, b):
        return torch.tanh(a) * b

    gate = fused_lstm.cell(step, x_only="b")

    def step(a, *, b):
        return torch.tanh(a) * b

    given = fused_lstm.cell(step, inputs="b")
    assert gate.name != given.name
    assert "layer_norm" in CELLS[gate.name].options
    assert "layer_norm" not in CELLS[given.name].options


# --- what a function sees ---

SCALE = 2.0


def scaled(x: Tensor) -> Tensor:
    return x * SCALE


@fused_lstm.cell(states="h")
def with_global(a, *, h):
    return scaled(torch.tanh(a)) + 0.5 * SCALE * h


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", [{}, {"zoneout": 0.25}], ids=str)
def test_a_global_that_changes_later_is_not_seen(engine, options, monkeypatch):
    """No engine sees it, in no variant: all have the values of the cell's first moment."""
    expected = everything_of_h(with_global, "loop", options)
    monkeypatch.setattr("test_custom_names.SCALE", 5.0)
    found = everything_of_h(with_global, engine, options)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_other_globals_are_not_kept_alive():
    """One cell in a notebook once held every tensor that the notebook had then."""
    space = {"torch": torch, "large": torch.zeros(3), "used": 2.0}
    exec("def inner(x):\n    return used * x\ndef outer(a, *, h):\n    return inner(a) + h", space)
    seen = fused_lstm.cell(space["outer"], states="h")._frozen.__globals__
    assert "large" not in seen
    assert seen["used"] == 2.0
    assert seen["inner"] is not space["inner"]


def everything_of_h(cell, engine, options) -> list[Tensor]:
    torch.manual_seed(0)
    module = fused_lstm.Recurrent(cell, 3, 6, engine=engine, dtype=torch.float64, **options).eval()
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    y, h_n = module(x)
    return [y, h_n, *torch.autograd.grad(y.sin().sum(), [x, *module.parameters()])]


@fused_lstm.cell(states="h")
def leak(a, *, h, dt=0.5):
    return torch.tanh(a) + dt * h


slow = leak.with_(dt=0.25)


def test_a_layer_of_other_constants_is_pickled():
    module = fused_lstm.Recurrent(slow.with_(dt=0.125), 3, 4, engine="loop")
    other = pickle.loads(pickle.dumps(module))
    assert other.cell is module.cell
    assert other.cell.constants == {"dt": 0.125}
    x = torch.randn(3, 2, 3)
    assert torch.equal(other(x)[0], module(x)[0])


# --- formulas that were refused or wrong ---


@fused_lstm.cell(states="m")
def counted(i, g, *, m):
    m = torch.sigmoid(i) * m + torch.tanh(g)
    return torch.tanh(m), m


@pytest.mark.parametrize("engine", [*ENGINES, "triton"])
def test_zoneout_of_a_state_of_any_name(engine):
    """z_c once acted on a state called c alone."""
    torch.manual_seed(0)
    module = fused_lstm.Recurrent(
        counted, 3, 5, engine=engine, dtype=torch.float64, zoneout=(0.0, 0.5)
    ).eval()
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    h = m = torch.zeros(2, 5, dtype=torch.float64)
    for row in x:
        gates = torch.nn.functional.linear(row, module.weight_ih_l0, module.bias_ih_l0)
        gates = gates + torch.nn.functional.linear(h, module.weight_hh_l0, module.bias_hh_l0)
        i, g = gates.chunk(2, -1)
        new = torch.sigmoid(i) * m + torch.tanh(g)
        h, m = torch.tanh(new), 0.5 * new + 0.5 * m
    _, (h_n, m_n) = module(x)
    torch.testing.assert_close(m_n[0], m)
    torch.testing.assert_close(h_n[0], h)


@fused_lstm.cell(states="c n")
def constant(i, g, *, c, n):
    return torch.tanh(g) * i + c + n, torch.zeros_like(c), torch.ones_like(n)


@fused_lstm.cell(states="h")
def powers(a, *, h):
    x = 1 + a * a
    return 0.1 * (x**0.5 + x**-1 + 0.01 * x**4 + x**-0.5 + x**-2 + 0.1 * x**2.5) + 0.2 * h**3


@pytest.mark.parametrize("engine", [*ENGINES[1:], "triton"])
@pytest.mark.parametrize("cell", [constant, powers], ids=["constant state", "powers"])
def test_formulas(cell, engine):
    torch.manual_seed(0)
    module = fused_lstm.Recurrent(cell, 3, 9, engine=engine, dtype=torch.float64)
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    h, states, steps = torch.zeros(2, 9, dtype=torch.float64), {}, []
    for row in x:
        gates = torch.nn.functional.linear(row, module.weight_ih_l0, module.bias_ih_l0)
        gates = gates + torch.nn.functional.linear(h, module.weight_hh_l0, module.bias_hh_l0)
        states = {name: h if name == "h" else states.get(name, 0 * h) for name in cell.states}
        results = cell.function(*gates.split(9, -1), **states)
        h, *others = results if isinstance(results, tuple) else (results,)
        states |= dict(zip((name for name in cell.states if name != "h"), others, strict=True))
        steps.append(h)
    found = []
    for y in (module(x)[0], torch.stack(steps)):
        found.append([y, *torch.autograd.grad(y.sin().sum(), [x, *module.parameters()])])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


@needs_native
def test_more_cells_than_a_process_holds(monkeypatch):
    """The engine's table of cells is full: engine="auto" takes the loop, and says why."""

    def full(*_):
        raise RuntimeError("ValueError: add_cell: got 'x' after 1024 others; expected no more")

    @fused_lstm.cell(states="h")
    def one_more(a, *, h):
        return torch.tanh(a) + 0.375 * h

    monkeypatch.setattr(torch.ops.fused_lstm_native, "add_cell", full, raising=False)
    fused_lstm.call.choose._warn_that_it_is_missing.cache_clear()
    module = fused_lstm.Recurrent(one_more, 3, 4)
    with pytest.warns(UserWarning, match="native cannot run: add_cell: got 'x' after 1024 others"):
        y = module(torch.randn(3, 2, 3))[0]
    assert y.shape == (3, 2, 4)
    with pytest.raises(RuntimeError, match="engine 'native' cannot run cell one_more: add_cell"):
        fused_lstm.Recurrent(one_more, 3, 4, engine="native")


EXPORTED = """
program = torch.export.load({folder!r} + "/program.pt2").module()
with torch.set_grad_enabled({grad}):
    print(program(torch.ones(3, 2, 4, requires_grad={grad}))[0].shape)
"""


@needs_native
def test_an_exported_program_says_which_cell_it_needs(tmp_path):
    (tmp_path / "exported.py").write_text(
        "import torch, fused_lstm\n@fused_lstm.cell(states='c')\ndef exported(i, g, *, c):\n"
        "    c = torch.sigmoid(i) * c + torch.tanh(g)\n    return torch.tanh(c), c\n"
    )
    folder = str(tmp_path)
    start = "import sys, torch, fused_lstm\n"
    cell = f"sys.path.insert(0, {folder!r})\nimport exported\nexported.exported.on_native()\n"
    make = (
        "module = fused_lstm.Recurrent(exported.exported, 4, 8)\n"
        "program = torch.export.export(module, (torch.ones(3, 2, 4),))\n"
        f"torch.export.save(program, {folder!r} + '/program.pt2')\n"
    )
    fresh.python(start + cell + make, fresh.CELLS)
    load = [EXPORTED.format(folder=folder, grad=grad) for grad in (False, True)]
    for without in fresh.run(*(start + text for text in load), imported=fresh.CELLS):
        assert without.stdout == ""
        error = without.stderr.strip().splitlines()[-1]
        assert "got 'exported_" in error
        assert "import the module that makes it" in error
    for text in load:
        assert fresh.python(start + cell + text, fresh.CELLS) == "torch.Size([3, 2, 8])\n"


@pytest.mark.parametrize("engine", ENGINES)
def test_the_function_runs_a_projected_cell_of_two_states(engine):
    """It once took the width of c_0, in which both states lie, for the hidden size."""

    @fused_lstm.cell(states="c n")
    def counting(i, g, *, c, n):
        c, n = torch.sigmoid(i) * c + torch.tanh(g), 0.5 * n + torch.sigmoid(i)
        return torch.tanh(c) / (1 + n), c, n

    double = {"dtype": torch.float64}
    module = fused_lstm.Recurrent(counting, 3, 6, proj_size=2, engine=engine, **double)
    x, h0 = torch.randn(4, 2, 3, **double), torch.randn(1, 2, 2, **double)
    c0, n0 = torch.randn(2, 1, 2, 6, **double)
    y, (h_n, c_n) = fused_lstm.lstm(
        x, (h0, torch.cat([c0, n0], -1)), module.weights(), engine=engine, cell=module.spec
    )
    expected, states = module(x, (h0, c0, n0))
    for found, right in zip((y, h_n, *c_n.chunk(2, -1)), (expected, *states), strict=True):
        torch.testing.assert_close(found, right)
