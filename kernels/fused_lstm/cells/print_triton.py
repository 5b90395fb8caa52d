"""A cell's programs as Triton: the functions of a `Cell` of triton/cells, in a module of their own.

The kernels stay as they are. A step's `made` is h itself, which `output` hands on; in the backward
`do` is the state after the step, and `dmade` the gradient by h.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tempfile
from types import ModuleType
from typing import Any

from .compile import cache_folder
from .print_cpp import INFIX
from .program import Program

HEAD = '''"""The cell {name}, as fused_lstm.cell has generated it."""

import triton.language as tl

from fused_lstm.triton.cells import Cell
from fused_lstm.triton.cells.activation import sigmoid, tanh
from fused_lstm.triton.cells.functions import (
    elu, expm1, log1p, log_sigmoid, maximum, minimum, relu,
)
from fused_lstm.triton.helper import helper
'''
CALLS = {
    "max": "maximum", "min": "minimum", "abs": "tl.abs", "sqrt": "tl.sqrt", "exp": "tl.exp",
    "log": "tl.log", "where": "tl.where",
}  # fmt: skip


def source(p: Program, name: str) -> str:
    """Return the module's text.

    The kernels have one state, no weights of a unit, one to four gates, one of them at most a pair.
    """
    G, e, apart = len(p.gates.by_x), p.expressions, bool(p.gates.apart)
    columns = max(len(p.saved), G + apart)
    filling = columns - len(p.saved)  # columns that nobody reads

    # A step.
    sums = [f"by_x[{k}] + by_h[{k}]" for k in range(G)]
    if apart:
        sums = [f"by_h[{G - 1}] + h_bias", *sums[:-1], f"by_x[{G - 1}]"]
    leaves = {column: f"gates[{n}]" for n, column in enumerate(p.gates.columns)}
    leaves |= {("state", 0): "c", ("dstate", 0): "dc_next"}
    leaves[("dh", 0)] = "dmade" if p.states else "dmade + dc_next"  # whose c is h
    step = statements(p, e.order([p.h, *p.after, *p.saved]), {}, leaves)
    saved = [variable(p, n) for n in (*(p.h,) * filling, *p.saved)]
    after = variable(p, p.after[0] if p.after else p.h)
    step.append(f"return {listed(saved)}, {variable(p, p.h)}, {after}")

    # Its backward.
    gradients = [*p.dgates, *p.dstates]
    places = {n: f"gates[{k + filling}]" for k, n in enumerate(p.saved)}
    places = {(p.after[0] if p.after else p.h): "do"} | places
    back = statements(p, e.order(gradients, p.known), places, leaves)
    by_x = [full(p, n) for n in p.dgates[apart:]]
    by_h = [*by_x[:-1], full(p, p.dgates[0])] if apart else by_x
    by_state = full(p, p.dstates[0]) if p.dstates else "tl.zeros_like(dmade)"
    back.append(f"return {listed(by_x)}, {listed(by_h)}, {by_state}")

    arguments = "gates, c, dc_next, do, dmade, options, HAS: tl.constexpr"
    parts = "combine, forward, made, output, output_backward, backward"
    return HEAD.format(name=name) + "".join([
        function("combine(by_x, by_h, h_bias)", [f"return {listed(sums)}"]),
        function("forward(gates, c, options, HAS: tl.constexpr)", step),
        function("made(gates, c, c_next, options, HAS: tl.constexpr)", ["return c_next"]),
        function("output(gates, seen)", ["return seen"]),
        function("output_backward(gates, seen, dh)", ["return seen, dh"]),
        function(f"backward({arguments})", back),
        f"\n\nCELL = Cell({name!r}, {G}, {columns}, {apart}, {parts})\n",
    ])  # fmt: skip


def statements(
    p: Program, order: list[int], places: dict[int, str], leaves: dict[tuple, str]
) -> list[str]:
    """Return the statements that compute nodes; `places` has those that need not be computed."""
    text = []
    for n in order:
        op, *rest = p.expressions.nodes[n]
        if n in places:
            text.append(f"{variable(p, n)} = {places[n]}")
        elif op == "leaf":
            text.append(f"{variable(p, n)} = {leaves[tuple(rest)]}")
        elif op != "const":
            text.append(statement(p, n))
    return text


def statement(p: Program, n: int) -> str:
    """Return the statement that computes a node."""
    op, *args = p.expressions.nodes[n]
    names = [variable(p, x) for x in args]
    if op in INFIX:
        return f"v{n} = {names[0]} {INFIX[op]} {names[1]}"
    if op in ("neg", "not"):
        return f"v{n} = {'-' if op == 'neg' else '~'}{names[0]}"
    return f"v{n} = {CALLS.get(op, op)}({', '.join(names)})"


def variable(p: Program, n: int) -> str:
    """Return a node's variable, or its value where it is a constant."""
    value = p.expressions.value(n)
    if value is None:
        op, *rest = p.expressions.nodes[n]
        if op != "leaf":
            return f"v{n}"
        kind, k = rest
        if kind in ("gate", "x", "h"):
            return f"gate_{p.gates.column_name((kind, k))}"
        return "by_h" if kind == "dh" else f"{kind}_{p.states[k]}"
    finite = value == value and abs(value) != float("inf")
    return repr(value) if finite else f'float("{value}")'


def full(p: Program, n: int) -> str:
    """Return a gradient's variable, or a tile of its value where it is a constant."""
    value = p.expressions.value(n)
    return variable(p, n) if value is None else f"tl.zeros_like(dmade) + {value!r}"


def listed(parts: list[str]) -> str:
    return "(" + ", ".join(parts) + ("," if len(parts) == 1 else "") + ")"


def function(head: str, lines: list[str]) -> str:
    return f"\n\n@helper\ndef {head}:\n" + "".join(f"    {line}\n" for line in lines)


def load(p: Program, name: str) -> Any:
    """Return the `Cell` of a module in the user's cache: Triton reads a function's source there."""
    text = source(p, name)
    folder = cache_folder()
    path = folder / f"triton_{hashlib.sha256(text.encode()).hexdigest()[:32]}.py"
    if not path.exists() or path.read_text() != text:
        descriptor, part = tempfile.mkstemp(dir=folder)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        os.replace(part, path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CELL
