"""Cells with products inside a step whose values have other widths than h: `Recurrent(units=)`."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import sigmoid, tanh

import fused_lstm
import sum_cells
from cases import cells_in_turn
from fused_lstm import native, zoo
from fused_lstm.cells import compile, print_cpp
from fused_lstm.cells.gates import Gates
from fused_lstm.cells.program import program
from fused_lstm.operator.pullback import kernel
from fused_lstm.triton import op

WHY = native.missing(torch.device("cpu"))
needs_native = pytest.mark.skipif(WHY is not None, reason=f"native: {WHY}")


@fused_lstm.cell(states="c h", x_only="i f g o", products={"low": 1, "up": 4})
def low_rank_lstm(i, f, g, o, *, c, h, low, up):
    a, b, d, e = up(low(h))
    c = sigmoid(f + b) * c + sigmoid(i + a) * tanh(g + d)
    return sigmoid(o + e) * tanh(c), c


@fused_lstm.cell(states="c", products={"m": 1, "n": 4}, weights="s")
def deep_lstm(z, *, c, s, m, n):
    i, f, g, o = n(F.relu(m(tanh(z)) * 1.5))
    c = sigmoid(f) * c + sigmoid(i + s * c) * tanh(g)
    return sigmoid(o) * tanh(c), c


@fused_lstm.cell(states="h", products="u v")
def two_at_once(a, *, h, u, v):
    return tanh(u(sigmoid(a) * h) * 0.5 + v(tanh(a))) + 0.5 * h


@fused_lstm.cell(states="h", products={"u": 1, "v": 4})
def of_other_columns(a, *, h, u, v):
    low = u(sigmoid(a) * h)
    b, c, d, e = v(tanh(a))
    return tanh(low * b + c - low * d * e) + 0.5 * h


@fused_lstm.cell(states="c", inputs="s t", products="u")
def two_inputs(a, *, c, s, t, u):
    c = sigmoid(s) * c + tanh(a) * t
    return tanh(u(c)) * t, c


@fused_lstm.cell(states="h", inputs="dt", products="u")
def input_beside_state(z, *, h, dt, u):
    return tanh(u(tanh(z))) + tanh(h + dt)


@fused_lstm.cell(states="h", inputs="dt", products="u")
def input_meets_gates(z, *, h, dt, u):
    return tanh(u(tanh(z * dt))) + 0.5 * h


@fused_lstm.cell(states="c h", x_only="z", weights="w", inputs="dt", products={"u": 1, "v": 2})
def saved_of_no_product(z, *, c, h, w, dt, u, v):
    a, b = v(tanh(u(tanh(z))))
    c = sigmoid(w * c - dt) * c + tanh(a * h)
    return tanh(b) * torch.exp(-c * c), c


@fused_lstm.cell(states="h", products={"u": 1, "v": 2, "w": 1})
def no_gradient(z, *, h, u, v, w):
    """A product v is compared alone: its gradients are 0, and as wide as u's values."""
    low = u(tanh(z))
    a, _ = v(low * 0.5)
    return tanh(w(torch.where(a > 0, low, 0.3 * low))) + 0.5 * h


@fused_lstm.cell(states="h", products="u v w")
def unread_and_narrow(z, *, h, u, v, w):
    made = u(tanh(z))
    v(made) + z
    return tanh(w(made)) + 0.5 * h


@fused_lstm.cell(states="h y z", products="p v u")
def two_narrow_states(a, *, h, y, z, p, v, u):
    """A maximum of a state, and a state that a product tells by what it multiplies."""
    most = y.amax(-1, keepdim=True)
    h = 0.5 * h + tanh(a + p(y * torch.exp(y - most)) + v(z))
    return h, 0.3 * y + tanh(u(h)), 0.5 * z


@fused_lstm.cell(states="c m", weights="w s", inputs="dt", products={"r": 2, "n": 1}, x_only="a b")
def memory(a, b, *, c, m, w, s, dt, r, n):
    """Weights and an input of a narrow state's; no gate of h."""
    low, gate = r(tanh(c + a))
    m = sigmoid(gate * dt) * m + tanh(low + w)
    c = 0.7 * c + s * tanh(n(m) + b)
    return tanh(c), c, m


CASES = {
    "decoder": (sum_cells.decoder, 37, {"y": 5}),
    "decoder-of-one": (sum_cells.decoder, 20, {"y": 1}),
    "decoder-equal": (sum_cells.decoder, 33, {"y": 33}),
    "two-narrow-states": (two_narrow_states, 40, {"y": 6, "z": 19}),
    "two-narrow-of-many-vectors": (two_narrow_states, 130, {"y": 70, "z": 35}),
    "memory": (memory, 26, {"m": 9}),
    "backbone-wide": (zoo.cfc_backbone, 21, {"a": 33}),
    "backbone-narrow": (zoo.cfc_backbone, 21, {"a": 5}),
    "input-meets-gates": (input_meets_gates, 8, {"z": 17}),
    "backbone-equal": (zoo.cfc_backbone, 21, {"a": 21}),
    "backbone-far-wider": (zoo.cfc_backbone, 16, {"a": 128}),
    "low-rank": (low_rank_lstm, 37, {"low": 5}),
    "low-rank-of-more": (low_rank_lstm, 20, {"low": 50}),
    "low-rank-rnn": (zoo.low_rank_rnn, 40, {"low": 2}),
    "two-layers": (deep_lstm, 19, {"z": 11, "m": 30}),
    "second-layer": (deep_lstm, 19, {"m": 8}),
    "first-layer": (deep_lstm, 50, {"z": 70}),
    "one-meeting": (two_at_once, 19, None),
    "other-columns": (of_other_columns, 150, None),
    "two-inputs": (two_inputs, 19, None),
    "no-gradient": (no_gradient, 18, {"z": 7, "u": 27}),
    "no-gradient-narrow": (no_gradient, 40, {"z": 70, "u": 5}),
    "input-beside-state": (input_beside_state, 5, {"z": 17}),
    "input-beside-state-far-wider": (input_beside_state, 16, {"z": 70}),
    "saved-of-no-product": (saved_of_no_product, 6, {"z": 21, "u": 35}),
}


LIKE_ANOTHER = "decoder-equal", "two-narrow-of-many-vectors"  # on Triton


def is_narrow(cell: fused_lstm.Cell, H: int, told: dict[str, int] | None) -> bool:
    """Return whether gates have as many units as h, and nothing has more."""
    units = cell.units(H, told or {})
    return units is not None and units.narrow


def results(name: str, engine: str, seed: int = 0, T: int = 6) -> list[torch.Tensor]:
    """Return a layer's outputs and all gradients: rows of two lengths, some of which reset."""
    cell, H, units = CASES[name]
    torch.manual_seed(seed)
    B, layers = 11, 1 if cell.inputs else 2
    rnn = fused_lstm.Recurrent(cell, 7, H, layers, engine=engine, units=units, dtype=torch.float64)
    x = torch.randn(T, B, 7, dtype=torch.float64, requires_grad=True)
    widths = [H] * len(cell.inputs) if rnn.spec.units is None else rnn.spec.units.inputs
    inputs = {
        n: torch.rand(T, B, width if seed % 2 else 1, dtype=torch.float64, requires_grad=True)
        for n, width in zip(cell.inputs, widths, strict=True)
    }
    lengths, resets = torch.tensor([T] * 4 + [T - 2] * 7), torch.rand(T, B) < 0.2
    y, last, states = rnn(x, lengths=lengths, resets=resets, return_states=True, **inputs)
    last = last if isinstance(last, tuple) else (last,)
    states = states if isinstance(states, tuple) else (states,)
    loss = (y * torch.linspace(0.5, 1.5, H)).square().sum()
    loss = loss + sum(t.sin().sum() for t in (*last, *states))
    wanted = [x, *inputs.values(), *rnn.parameters()]
    how = {"allow_unused": True, "materialize_grads": True}
    return [y, *last, *torch.autograd.grad(loss, wanted, **how)]


@needs_native
@cells_in_turn("name", {name: name for name in CASES})
def test_beside_a_loop(name, every_isa):
    """Inputs of one number on one thread, those of each unit on two, whose workers meet."""
    for seed in range(2):
        torch.set_num_threads(1 + seed)
        found, expected = results(name, "native", seed), results(name, "loop", seed)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@needs_native
@pytest.mark.parametrize("name", CASES)
def test_a_step_in_half_precision_and_without_gradients(name):
    cell, H, units = CASES[name]
    rnn = fused_lstm.Recurrent(cell, 7, H, engine="native", units=units).bfloat16()
    inputs = {n: torch.rand(1, 2, 1).bfloat16() for n in cell.inputs}
    x = torch.randn(1, 2, 7).bfloat16()
    with torch.no_grad():
        y, _ = rnn(x, **inputs)
        rnn.engine = "loop"
        torch.testing.assert_close(y, rnn(x, **inputs)[0], rtol=0.05, atol=0.05)


def test_two_products_meet_once():
    assert two_at_once.program().meetings() == [(True, False), (False, True)]  # the last one first
    # Of other columns another worker has a unit's part of `low`.
    assert of_other_columns.program().meetings()[0][0]
    assert of_other_columns.program().meetings()[1][0]
    # w(x) waits neither for r(x) forwards nor, backwards, for u(h).
    once, no = (True, True), (False, False)
    assert zoo.mogrifier.program().meetings() == [once, once, no, once]


def test_a_layer_is_exported_compiled_and_copied(tmp_path):
    rnn = fused_lstm.Recurrent(zoo.low_rank_rnn, 7, 20, units={"low": 3})
    x = torch.randn(4, 2, 7)
    expected = rnn(x)[0]
    again = fused_lstm.Recurrent(zoo.low_rank_rnn, 7, 20, units={"low": 3})
    again.load_state_dict(rnn.state_dict())
    assert torch.equal(again(x)[0], expected)
    exported = torch.export.export(rnn, (x,)).module()
    torch.testing.assert_close(exported(x)[0], expected)
    compiled = torch.compile(rnn, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x)[0], expected)


ERRORS = {
    "z meets h": (
        zoo.gru_reset_before,
        {"r": 5},
        "units: got 5 for r; expected 8, since r meets h",
    ),
    "no such name": (zoo.low_rank_rnn, {"h": 5}, "units: got 'h'; expected a, low, high"),
    "no products": (zoo.lltm, {"i": 5}, "units: got 'i'; expected none: it has no products"),
    "no number": (zoo.low_rank_rnn, {"low": 0}, "units: got 0 for low; expected a positive number"),
    "nothing reads it": (
        unread_and_narrow,
        {"z": 5},
        "units: got 5 for z; expected 8, since z meets h",
    ),
    "last": (
        zoo.low_rank_rnn,
        {"high": 5},
        "units: got 5 for high; expected 8, since high meets h",
    ),
    "projection": (
        deep_lstm,
        {"m": 5},
        "units: got {'m': 5} with proj_size; expected one of the two",
    ),
    "a state wider than h": (
        sum_cells.decoder,
        {"y": 9},
        "units: got 9 for y; expected at most hidden_size, 8, as of all states",
    ),
}


@pytest.mark.parametrize("units", [3, "low", ["low"], 0, True], ids=repr)
def test_units_are_a_mapping(units):
    with pytest.raises(ValueError, match=re.escape(f"units: got {units!r}; expected a mapping")):
        fused_lstm.Recurrent(zoo.low_rank_rnn, 3, 8, units=units)


@needs_native
def test_an_error_counts_inputs_beside_products():
    names = [f"i{k}" for k in range(9)]
    space = {"tanh": tanh}
    head = f"def many(z, *, h, u, {', '.join(names)}):"
    exec(f"{head}\n    return tanh(u(z)) + h + {' + '.join(names)}", space)
    cell = fused_lstm.cell(space["many"], states="h", inputs=" ".join(names), products="u")
    with pytest.raises(RuntimeError, match=r"got 9 inputs of a cell with products .* at most 8"):
        fused_lstm.Recurrent(cell, 3, 4, engine="native")


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    cell, units, error = ERRORS[name]
    more = {"proj_size": 3} if name == "projection" else {}
    with pytest.raises(ValueError, match=re.escape(error)):
        fused_lstm.Recurrent(cell, 3, 8, units=units, **more)


@fused_lstm.cell(states="h", products="u")
def unread(a, *, h, u):
    u(tanh(a))
    return tanh(a) + 0.5 * h


CASES_OF_WIDTHS = CASES | {
    "unread": (unread, 8, None),
}


@needs_native
@pytest.mark.parametrize(
    ("name", "changed", "got"),
    [
        ("one-meeting", {0: (20, 7)}, "20 units of gate 0; expected 19"),
        ("one-meeting", {5: (20, 19)}, "20 units of what is made by product 0; expected 19"),
        ("unread", {5: (9, 8)}, "9 units of what is made by product 0; expected 8"),
        ("low-rank", {5: (5, 20)}, "20 units of the factor of product 0; expected 37"),
        ("low-rank", {6: (4 * 30, 5)}, "30 units of what is made by product 1; expected 37"),
        ("low-rank", {6: (4 * 37, 6)}, "6 units of the factor of product 1; expected 5"),
        ("first-layer", {0: (60, 7)}, "70 units of the factor of product 0; expected 60"),
    ],
)
def test_the_operator_checks_widths(name, changed, got):
    """Kernels read as many units of each value that meets another."""
    cell, H, units = CASES_OF_WIDTHS[name]
    rnn = fused_lstm.Recurrent(cell, 7, H, engine="native", units=units)
    weights, h = rnn.weights(), torch.zeros(1, 2, H)
    c = torch.zeros(1, 2, len(cell.states) * H)
    for weight, shape in changed.items():
        weights[weight] = torch.zeros(shape)
    with pytest.raises(ValueError, match=got):
        torch.ops.fused_lstm_native.lstm(
            torch.randn(3, 2, 7 + len(cell.inputs)), h, c, weights, 0.0, None, "steps", False,
            **rnn.spec.schema,
        )  # fmt: skip


def added(name: str, gates: Gates) -> None:
    """Give the operators a cell with a product and no vectors, which no layer makes."""

    def step(parts, states, vectors, product):
        (u,) = product(0, tanh(parts[0]))
        return tanh(u) + 0.5 * states[0], [tanh(u) + 0.5 * states[0]]

    p = program(step, gates, ("h",), (), inner=(1,))
    tables = compile.compiled(print_cpp.source(p), native.OPS.isa())
    torch.ops.fused_lstm_native.add_cell(name, tables)


@needs_native
@pytest.mark.parametrize("G", [1, 0])
def test_the_operator_has_products_without_vectors_or_a_gate_of_x(G):
    name = f"test_no_vectors_{G}"
    added(name, Gates(("z",), h_only=frozenset() if G else frozenset({"z"})))
    T, B, H = 3, 2, 5
    shapes = (T, B, 4), (1, B, H), (G * H, 4), (H, H), (G * H,), (H,), (H, H)
    x, h0, *weights = leaves = [
        torch.randn(s, dtype=torch.float64).requires_grad_() for s in shapes
    ]
    w_ih, w_hh, b_ih, b_hh, w_u = weights
    h, ys = h0[0], []
    for x_t in x:
        by_x = x_t @ w_ih.T + b_ih if G else 0.0
        h = tanh(tanh(by_x + h @ w_hh.T + b_hh) @ w_u.T) + 0.5 * h
        ys.append(h)
    loss = torch.stack(ys).square().sum()
    expected = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    ops, how = torch.ops.fused_lstm_native, {"cell": name}
    call = x, h0, h0, weights, 0.0, None, "steps"
    y, _, _, *saved = kernel(ops.lstm.default, *call, True, **how)
    dx, dh0, dc0, dweights = kernel(
        ops.lstm_backward.default, 2 * y, None, None, *call, y, *saved, True, **how
    )
    torch.testing.assert_close((dx, dh0 + dc0, *dweights), expected)  # h0 twice


@pytest.mark.parametrize(
    "name",
    [  # a cell of two sizes with one; --slow has all
        pytest.param(name, marks=pytest.mark.slow if name in LIKE_ANOTHER else [])
        for name, case in CASES.items()
        if is_narrow(*case)
    ],
)
def test_triton_beside_a_loop(name):
    found, expected = (results(name, engine, T=4) for engine in ("triton", "loop"))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_triton_has_no_more_units_than_h():
    rnn = fused_lstm.Recurrent(zoo.low_rank_rnn, 3, 8, units={"low": 9}, engine="triton")
    with pytest.raises(RuntimeError, match="of more units than h"):
        rnn(torch.randn(2, 2, 3))
    weights, h = rnn.weights(), torch.zeros(1, 2, 8)
    with pytest.raises(ValueError, match="got 9 units of a product; expected at most 8"):
        op.lstm(torch.randn(2, 2, 3), h, h, weights, 0.0, None, "steps", False, cell=rnn.cell.name)
