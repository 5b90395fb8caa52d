"""Cells told as functions; tests/conformance has their values and gradients."""

from __future__ import annotations

import copy
import importlib
import math
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fresh
import fused_lstm
from bench import zoo
from cases import needs_native
from fused_lstm.call.spec import CELLS, Spec
from fused_lstm.cells import compile as compiling
from fused_lstm.cells import definition, generate, library
from fused_lstm.layers import custom
from tolerance import assert_close

ENGINES = ["loop", pytest.param("native", marks=needs_native)]


# --- options that a cell cannot have ---


@pytest.mark.parametrize("option", ["proj_size", "layer_norm", "num_heads"])
@pytest.mark.parametrize("name", zoo.ALL)
def test_options_that_a_cell_cannot_have(name, option):
    """No projection where h is read or is all there is, no heads beside weights of a unit.

    Nor beside products inside the step, whose biases are such weights.
    """
    cell = zoo.ALL[name]
    wrong = {
        "proj_size": not cell.has_c or "h" in cell.states,
        "layer_norm": bool(cell.inputs or cell.products),
        "num_heads": bool(cell.weights or cell.products),
    }[option]
    how = {option: {"proj_size": 5, "layer_norm": True, "num_heads": 3}[option]}
    if wrong or not cell.gates.by_h:
        with pytest.raises(ValueError, match=f"{option}: got .*; expected"):
            fused_lstm.Recurrent(cell, 4, 18, engine="loop", **how)
    else:
        fused_lstm.Recurrent(cell, 4, 18, engine="loop", **how)


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
    found = []
    for engine in ("native", "loop"):
        module.engine = engine
        y, last = module(x)
        (dx,) = torch.autograd.grad(y.sum() + last[1].sum(), x)
        found.append([t.detach()[..., :6, :] for t in (y, *last, dx)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10, equal_nan=True)


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, d):
        return 2 * d


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


def silu_cell(k: float):
    @fused_lstm.cell(states="c")
    def silu(i, g, *, c, k=k):
        c = torch.sigmoid(i) * c + F.silu(g) * k
        return torch.tanh(c), c

    return silu


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_cell_is_defined_where_gradients_are_off(context):
    with context():
        cell = silu_cell(0.25).with_(k=0.75)
    assert cell.name == silu_cell(0.75).name


def test_cells_are_defined_in_many_threads():
    def define(n: int) -> tuple[str, fused_lstm.Cell]:
        return silu_cell(n / 8).name, origin.with_(k=3.0)

    origin = silu_cell(2.0)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(define, range(12)))
    assert len({name for name, _ in found}) == 12
    assert len({id(changed) for _, changed in found}) == 1


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
        y, _ = module(x)
        module.engine = "loop"
        torch.testing.assert_close(module(x)[0], y)


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


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["cfc", "cfc_backbone", "gru_reset_before"])
def test_a_stream_of_a_cell_with_inputs_or_products(name, engine):
    """One step a call, and weights that change in place: the layer's own values."""
    cell = zoo.ALL[name]
    module, x = fused_lstm.Recurrent(cell, 3, 4, engine=engine), torch.randn(5, 2, 3)
    stream = fused_lstm.Streaming(module, 2)
    for width in (1, 4):
        inputs = {name: torch.rand(5, 2, width) for name in cell.inputs}
        stream.reset()
        found = [stream(x[t], **{n: of[t] for n, of in inputs.items()}) for t in range(5)]
        assert_close(torch.stack(found), module(x, **inputs)[0].detach(), f"width {width}")
        with torch.no_grad():
            for p in module.parameters():
                p.mul_(0.5)
    with pytest.raises(ValueError, match="inputs: got q; expected the cell's: "):
        stream(x[0], q=x[0])


def test_inputs_of_a_step_are_checked():
    module, x = fused_lstm.Recurrent(zoo.cfc, 3, 4, engine="loop"), torch.randn(5, 2, 3)
    for inputs, error in (
        ({"dt": torch.ones(3, 1)}, r"dt: got \[3, 1\]; expected .* or \[5, 2, 4\], or without T"),
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


@needs_native
@pytest.mark.parametrize("width", [3, 5, 8])
def test_the_operator_needs_a_cells_inputs(width):
    """Behind x's 3 columns there is one number, or one of each of 4 units."""
    module, state = fused_lstm.Recurrent(zoo.cfc, 3, 4, engine="native"), torch.zeros(1, 2, 4)
    with pytest.raises(ValueError, match=f"x: got {width - 3} columns behind .*; expected 1 or 4"):
        torch.ops.fused_lstm_native.lstm(
            torch.randn(5, 2, width), state, state, module.weights(), 0.0, None, "steps", False,
            **module.spec.schema,
        )  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("batch_first", "batched"), [(False, True), (True, True), (False, False)])
def test_an_input_of_a_row_is_the_same_at_each_step(engine, batch_first, batched):
    """EA-LSTM's input gate, which a product outside makes of a catchment's attributes."""
    module = fused_lstm.Recurrent(zoo.ea_lstm, 3, 4, batch_first=batch_first, engine=engine)
    x = torch.randn(*([2, 5] if batch_first else [5, 2] if batched else [5]), 3)
    gate = torch.randn(*([2] if batched else []), 4, requires_grad=True)
    steps = gate.unsqueeze(1 if batch_first else 0).expand(*x.shape[:-1], 4)
    results = []
    for s in (gate, steps):
        y, (h, c) = module(x, s=s)
        results.append([y, h, c, *torch.autograd.grad((y * y).sum() + c.sum(), [gate])])
    for found, wanted in zip(*results, strict=True):
        assert_close(found.detach(), wanted.detach(), "of a row")
    packed = torch.nn.utils.rnn.pack_sequence([torch.randn(5, 3), torch.randn(4, 3)])
    with pytest.raises(ValueError, match=r"s: got \[2, 4\]; expected \[9, 1\] or \[9, 4\]$"):
        module(packed, s=torch.randn(2, 4))
    two = torch.randn(5, 4), torch.randn(4, 4)
    of_steps = torch.nn.utils.rnn.pack_sequence(two)
    assert torch.equal(module(packed, s=of_steps)[0][0], module(packed, s=of_steps.data)[0][0])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_packed_input_has_its_rows_where_x_has_them(engine):
    module = fused_lstm.Recurrent(zoo.cfc, 3, 4, engine=engine)
    x, dt = torch.randn(4, 3, 3), torch.rand(4, 3, 1)

    def packed(tensor, *lengths, sort=True):
        return pack_padded_sequence(tensor, torch.tensor(lengths), enforce_sorted=sort)

    of_x, of_dt = (packed(t, 2, 4, 1, sort=False) for t in (x, dt))
    y, _ = pad_packed_sequence(module(of_x, dt=of_dt)[0])
    assert_close(y.detach(), module(x, dt=dt, lengths=torch.tensor([2, 4, 1]))[0].detach(), "y")
    in_order = packed(x, 3, 2, 2)
    assert torch.equal(  # of no indices, and of those that change nothing
        module(in_order, dt=packed(dt, 3, 2, 2, sort=False))[0].data,
        module(in_order, dt=packed(dt, 3, 2, 2))[0].data,
    )
    for other, error in (
        (packed(dt, 3, 3, 1), "dt: got batch_sizes [3, 2, 2]; expected [3, 3, 1], input's"),
        (packed(dt, 2, 3, 2, sort=False), "dt: got sorted_indices [1, 0, 2]; expected [0, 1, 2],"),
    ):
        with pytest.raises(ValueError, match=re.escape(error)):
            module(in_order, dt=other)
    with pytest.raises(ValueError, match="dt: got a PackedSequence; expected a tensor, as input"):
        module(x[:, 0], dt=packed(dt[:, :1], 4))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda x: x.to(torch.complex64), "dt: got torch.complex64; expected real"),
        (torch.Tensor.to_sparse, "dt: got a torch.sparse_coo tensor; expected a dense"),
        (  # imports TorchDynamo
            lambda x: torch.nested.nested_tensor([*x], layout=torch.jagged),
            "dt: got a nested tensor; expected a",
        ),
    ],
    ids=["complex", "sparse", "nested"],
)
def test_an_input_is_a_dense_tensor_of_real_numbers(make, error):
    module = fused_lstm.Recurrent(zoo.cfc, 3, 4, engine="loop")
    with pytest.raises(ValueError, match=error):
        module(torch.randn(5, 2, 3), dt=make(torch.ones(5, 2, 1)))


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


@pytest.mark.parametrize("argument", ["states", "weights", "products", "inputs", "x_only"])
def test_a_name_is_told_once(argument):
    def twice(i, n, *, h):
        return torch.tanh(i) + n + h

    names = "n n" if argument == "x_only" else "h h"
    error = f"cell twice: {argument}: got '{names}'; expected each name once"
    with pytest.raises(ValueError, match=error):
        fused_lstm.cell(twice, **{argument: names})


def test_errors_name_the_function_and_the_argument():
    @told("results: got 1 results; expected 2 tensors: h, the next c", states="c")
    def one_result(a, *, c):
        return a

    @told("results: got results of Tensor, float", states="c")
    def a_number(a, *, c):
        return a, 1.0

    @told(
        "keywords: got d; expected the names of states=, weights=, inputs= and products=: c",
        states="c",
    )
    def another_name(a, *, d):
        return a, d

    @told("products=: h, behind a *", states="h")
    def no_keyword(a, h):
        return a + h

    @told("states: got 'c, n'; expected names in one text, separated by spaces", states="c, n")
    def commas(a, *, c, n):
        return a, c, n

    @told("gates: got 0 positional arguments; expected 1 to 8", states="h")
    def no_gates(*, h):
        return h

    @told("gates: got 9 positional arguments; expected 1 to 8")
    def nine_gates(a, b, c, d, e, f, g, h, i):
        return a

    @told("arguments: got *gates; expected gates, then keywords after a *")
    def starred(*gates):
        return gates[0]

    @told("apart: got 'c'; expected names of gates, each once: a, b", apart="c")
    def no_gate(a, b):
        return b

    @told("apart: got 'a'; expected names of gates, each once: a, b", apart="a", x_only="a")
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

    @told("function: got a decision of Python's on the value of a tensor", states="h")
    def branch(a, *, h):
        return a if h > 0 else h

    @told("expected torch's, of tensors: torch.exp(c), not math.exp(c) or float(c)", states="c")
    def number(i, *, c):
        return i * math.exp(c), c

    @told("gates: got 'self'; expected a function, not a method: a gate comes first", states="c")
    def method(self, i, *, c):
        return i, c

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

    @told("got a tensor of shape [] from outside; expected weights=", states="h")
    def counts_its_calls(a, *, h):
        fixed.add_(1)
        return a + h

    @told("of Python's or NumPy's numbers (.numpy() is not supported", states="h")
    def computes_by_numpy(a, *, h):
        return a * float(a.detach().numpy().mean()) + h

    @told(".tolist() is not supported", states="h")
    def computes_by_lists(a, *, h):
        return a * max(a.detach().flatten().tolist()) + h

    @told("the power 0.3", states="h")
    def power(a, *, h):
        return a.abs() ** 0.3 + h

    matrix, products = torch.randn(8, 8), 'expected products="u", a matrix that the layer learns'

    @told(f"function: got a matrix product; {products}", states="h")
    def multiplies(a, *, h):
        return a + h @ matrix

    @told(f"function: got a matrix product; {products}", states="h", products="u")
    def multiplies_by_a_product(a, *, h, u):
        return a + h @ u

    @told("function: got tensors of two shapes (The size of tensor a (3) must match", states="h")
    def of_another_shape(a, *, h):
        return a + h * matrix[0, :5]

    @told("without a derivative (derivative for aten::heaviside is not implemented", states="h")
    def steps(a, *, h):
        return torch.heaviside(a, torch.zeros_like(a)) + h

    @told(f"function: got torch's operator 'permute'; {products}", states="h")
    def multiplies_by_a_gate(a, *, h):
        return a + (h @ h.T) @ a

    @told("mean with dim=None, keepdim=False; expected x.mean(-1, keepdim=True), over", states="h")
    def averages(a, *, h):
        return a - a.mean() + h

    @told("torch's operator 'cumsum'; expected x.sum(-1, keepdim=True), mean, var,", states="h")
    def adds_up_some(a, *, h):
        return a.cumsum(-1) + h

    @told("layer_norm of shape [2, 3]; expected F.layer_norm(x, x.shape[-1:], ...)", states="h")
    def normalizes_rows(a, *, h):
        return F.layer_norm(a, a.shape) + h

    @told("got a sum of what is one number a row; expected a sum of values of units", states="h")
    def adds_up_numbers(a, *, h):
        return a + h.amax(-1, keepdim=True).sum(-1, keepdim=True)

    @told("at most 24 products, sums and maxima in a step", states="h")
    def adds_up_often(a, *, h):
        for _ in range(25):
            a = torch.tanh(a - a.mean(-1, keepdim=True))
        return a + h

    @told("expected no random numbers: zoneout=, recurrent_dropout= and dropout=", states="h")
    def drops(a, *, h):
        return F.dropout(a) + h

    @told("got a torch.autograd.Function; expected torch's own operators; soft", states="h")
    def function_of_autograd(a, *, h):
        return Double.apply(a) + h

    @told("torch's operator 'round' with decimals=2", states="h")
    def rounds(a, *, h):
        return torch.round(a, decimals=2) + h

    @told("products: got u called twice; expected one call of each a step", products="u")
    def twice(a, *, u):
        return u(u(a))

    @told("products: got calls of none; expected one of each, in order: u", products="u")
    def never(a, *, u):
        return a

    @told("products: got calls of v, u; expected one of each, in order: u, v", products="u v")
    def in_another_order(a, *, u, v):
        return u(v(a))

    @told("products: got u of a tensor of shape [1, 3]; expected one tensor of", products="u")
    def of_a_part(a, *, u):
        return u(a[:1]) + a

    @told("products: got u of int; expected one tensor of a gate's shape", products="u")
    def of_a_number(a, *, u):
        return u(1) + a

    @told("products: got 5 for u; expected 1 to 4 columns of a unit", products={"u": 5})
    def wide(a, *, u):
        return u(a)[0]

    @told("products: got 'hh'; expected a name that a layer does not have", products="hh")
    def taken_product(a, *, hh):
        return hh(a)

    @told("got a result of torch.bool; expected the gates' dtype", states="h")
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
    with pytest.raises(ValueError, match="zoneout: got it with cell slstm, which has 3 states"):
        fused_lstm.Recurrent(zoo.slstm, 3, 4, zoneout=0.1)
    why = "layer_norm: got it with cell cfc, which has inputs; expected none"
    with pytest.raises(ValueError, match=why):
        fused_lstm.Recurrent(zoo.cfc, 3, 4, layer_norm=True)
    with pytest.raises(ValueError, match="num_heads: got '2'; expected a divisor of hidden_size"):
        fused_lstm.Recurrent(zoo.lltm, 3, 4, num_heads="2")
    with pytest.raises(ValueError, match=r"hx: got Tensor; expected a tuple \(h_0, c_0\)"):
        fused_lstm.Recurrent(zoo.rhn, 3, 4)(torch.randn(2, 2, 3), torch.randn(1, 2, 4))
    with pytest.raises(ValueError, match=r"constants: got 'scale'; expected dt"):
        zoo.liquid.with_(scale=1.0)
    with pytest.raises(ValueError, match="cell: got 'slstm_"):
        fused_lstm.Recurrent(zoo.slstm, 3, 4, engine="cudnn")


def test_a_conversion_to_the_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        why = r"float64; expected .* write \(x > 0\)\.to\(x"
        with pytest.raises(ValueError, match=why):
            fused_lstm.cell(lambda a, *, h: a + h * ((a > 0) * 1.0), states="h")
        with pytest.raises(ValueError, match=why):
            fused_lstm.cell(lambda a, *, h: a + h * torch.where(a > 0, 1.0, 0.0), states="h")
        fused_lstm.cell(lambda a, *, h: a + h * (a > 0).to(a.dtype), states="h")
    finally:
        torch.set_default_dtype(torch.float32)


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


def test_the_librarys_tables_are_as_printed():
    """What a cell is, is told in cells/library.py alone; a trace at import would take seconds."""
    assert (generate.FOLDER / "all.h").read_text() == generate.table()
    assert generate.KINDS.read_text() == generate.kinds()


@pytest.mark.parametrize("name", sorted(CELLS.keys() & library.CELLS.keys()))
def test_what_a_kind_says_of_the_librarys_cells(name):
    told, kind = library.CELLS[name], CELLS[name]
    assert kind.cell is told
    assert told.is_wide(Spec(name)) or not kind.wide  # of a GRU only m is wide


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
    page = (Path(__file__).parents[3] / "docs" / "your-own-cell.md").read_text(encoding="utf-8")
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
        return torch.atan(c) + i + o + g, c

    with pytest.raises(ValueError, match=re.escape(message)):
        fused_lstm.cell(lltm, states="c")
    space.clear()  # globals of a cell's function: they would live as long as the process
