"""A cell's programs as Triton: a `KernelCell` of triton/cells, in a module of its own."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

from . import printing
from .compile import cache_folder
from .program import Program

FUNCTIONS = {  # of triton/cells, by their module
    "activation": ("sigmoid", "tanh"),
    "functions": (
        "elu", "expm1", "log1p", "log_sigmoid", "maximum", "minimum", "relu",
    ),
}  # fmt: skip
CALLS = {
    "max": "maximum", "min": "minimum", "abs": "tl.abs", "sqrt": "tl.sqrt", "exp": "tl.exp",
    "log": "tl.log", "where": "tl.where", "floor": "tl.floor", "sin": "tl.sin", "cos": "tl.cos",
    "erf": "tl.erf",
}  # fmt: skip
STEP = "step(by_x, by_h, h_bias, states, options, HAS: tl.constexpr)"
BACKWARD = "backward(saved, states, after, dh, dafter, options, HAS: tl.constexpr)"
# Signatures of phase k of a cell with products inside its step.
STEP_AFTER = "{}(by_x, made, saved, states, options, HAS: tl.constexpr)"
BACK = "{}(saved, states, after, by, dafter, options, HAS: tl.constexpr)"


def source(p: Program, name: str, head: str) -> str:
    """Return the module's text, which begins with the docstring `head`."""
    stored_in = p.stored_in
    if p.inner:  # each phase saves columns that lie side by side
        p = replace(p, saved=tuple(sorted(p.saved, key=lambda n: stored_in[n])))
    gates, count = p.gates, len(p.gates.summed)
    leaves = {("h", k): f"by_h[{count + n}] + h_bias[{n}]" for n, k in enumerate(gates.of_h)}
    leaves |= {("gate", k): f"by_x[{n}] + by_h[{n}]" for n, k in enumerate(gates.summed)}
    leaves |= {("x", k): f"by_x[{count + n}]" for n, k in enumerate(gates.of_x)}
    leaves |= {("state", k): f"states[{k}]" for k in range(len(p.states))}
    leaves |= {("weight", k): f"options[0][{k}]" for k in range(len(p.weights))}
    leaves |= {("dstate", k): f"dafter[{k}]" for k in range(len(p.states))}
    leaves |= {("zoneout", 0): "options[1]"}
    alone = p.states == ("h",)  # h is the state, after zoneout

    # A step.
    h, after = p.after[0] if alone else p.h, p.after or (p.h,)
    counts, steps, made, column = [], [], {}, 0
    for k in range(1 + len(p.inner)):
        saves = [n for n in p.saved if stored_in[n] == k]
        known = {n: f"saved[{i}]" for i, n in enumerate(p.saved[: sum(counts)])}
        value, *states = [h, *after] if k == len(p.inner) else [p.fed[k]]
        like = "made[0]" if k else "by_x[0]"
        step = statements(p, [value, *states, *saves], known, leaves | made)
        results = whole(p, value, like), *(listed(p, nodes, like) for nodes in (states, saves))
        step.append(f"return {', '.join(results)}")
        counts.append(len(saves))
        steps.append(function(STEP_AFTER.format(f"step_{k}") if k else STEP, step))
        if k < len(p.inner):
            made = {("product", column + j): f"made[{j}]" for j in range(p.inner[k])}
            column += p.inner[k]

    # Its backward.
    back = []
    if alone and p.zoneout:
        back = ["dstate_h, dh = dafter[0] + dh, tl.zeros_like(dh)"]
        del leaves["dstate", 0]
    elif not p.states:
        back = ["dh = dh + dafter[0]"]
    if p.inner:
        back.insert(0, "dh = by[0]")
        leaves |= {("dfed", k): f"by[{1 + k}]" for k in range(len(p.inner))}
    places = {n: f"after[{k}]" for k, n in enumerate(after)}
    places |= {n: f"saved[{k}]" for k, n in enumerate(p.saved)}
    backs, column = [], 0
    for k, columns in enumerate(p.inner, 1):
        by_product = list(p.dproducts[column : column + columns])
        lines = [*back, *statements(p, by_product, places, leaves)]
        lines.append(f"return {listed(p, by_product, 'dh')}")
        backs.append(function(BACK.format(f"back_{k}"), lines))
        column += columns
    gradients = [*p.dgates, *p.dstates, *p.dweights]
    back += statements(p, gradients, places, leaves)
    of = dict(zip(gates.columns, p.dgates, strict=True))
    summed = [of["gate", k] for k in gates.summed]
    by_x = [*summed, *(of["x", k] for k in gates.of_x)]
    by_h = [*summed, *(of["h", k] for k in gates.of_h)]
    found = [listed(p, nodes, "dh") for nodes in (by_x, by_h, p.dstates, p.dweights)]
    found[2] = found[2] if p.states else "(tl.zeros_like(dh),)"
    back.append(f"return {', '.join(found)}")

    numbers = f"sums={count}, of_x={len(gates.of_x)}, of_h={len(gates.of_h)}"
    numbers += f", saved={len(p.saved)}, states={max(1, len(p.states))}"
    if p.inner:
        fed, phases = tuple(p.saved.index(n) for n in p.fed), range(1, 1 + len(p.inner))
        numbers += f", inner={p.inner}, fed={fed}, counts={tuple(counts)}"
        for name, of in (("steps", "step"), ("backs", "back")):
            numbers += f", {name}=({' '.join(f'{of}_{k},' for k in phases)})"
    last = function(BACK.format("backward") if p.inner else BACKWARD, back)
    body = "".join([*steps, *backs, last])
    return (
        f'"""{head}"""\n\nimport triton.language as tl\n\n{imports(body)}{body}'
        f'\n\nCELL = KernelCell("{name}", step, backward, {numbers})\n'
    )


def imports(text: str) -> str:
    """Return the imports that a module's functions need."""
    lines = ["from fused_lstm.triton.cells import KernelCell"]
    for module, names in FUNCTIONS.items():
        used = [name for name in names if re.search(rf"(?<!\.)\b{name}\(", text)]
        if used:
            lines.append(f"from fused_lstm.triton.cells.{module} import {', '.join(used)}")
    return "\n".join([*lines, "from fused_lstm.triton.helper import helper", ""])


def statements(
    p: Program, results: list[int], places: dict[int, str], leaves: dict[tuple, str]
) -> list[str]:
    """Return the statements that compute nodes; `places` has those that need not be computed."""
    text = []
    for n in p.expressions.order(results, set(places)):
        op, *rest = p.expressions.nodes[n]
        if n in places and op != "const":
            text.append(f"{variable(p, n)} = {places[n]}")
        elif op == "leaf":
            if tuple(rest) in leaves:  # else it is an argument
                text.append(f"{variable(p, n)} = {leaves[tuple(rest)]}")
        elif op != "const":
            text.append(statement(p, n))
    return text


def statement(p: Program, n: int) -> str:
    """Return the statement that computes a node."""
    op, *args = p.expressions.nodes[n]
    names = [variable(p, x) for x in args]
    if op == "where" and None not in (p.expressions.value(x) for x in args[1:]):
        # A choice of numbers alone would be float32, which rounds what it is multiplied by.
        names[1] = whole(p, args[1], variable(p, compared(p, args[0])))
    return f"v{n} = {printing.operation(p, n, names, CALLS.get(op, op), ' + 0.0')}"


def compared(p: Program, mask: int) -> int:
    """Return a node that a mask compares, neither a mask nor a constant."""
    e, stack = p.expressions, [mask]
    while stack:
        n = stack.pop()
        if not e.is_mask(n) and e.value(n) is None:
            return n
        stack += e.operands(n)
    raise AssertionError("a mask of constants is one")


def variable(p: Program, n: int) -> str:
    """Return a node's variable, or its value where it is a constant."""
    value = p.expressions.value(n)
    if value is None:
        return printing.variable(p, n)
    finite = value == value and abs(value) != float("inf")
    return repr(value) if finite else f'float("{value}")'


def whole(p: Program, n: int, like: str) -> str:
    """Return a node's variable, or, of a constant, a tile of its value with the shape of `like`."""
    value = p.expressions.value(n)
    if value is None:
        return variable(p, n)
    return f"tl.zeros_like({like})" + (f" + {variable(p, n)}" if value != 0 else "")


def listed(p: Program, nodes: Sequence[int], like: str) -> str:
    """Return a tuple of nodes, as `whole` has each."""
    parts = [whole(p, n, like) for n in nodes]
    return "(" + ", ".join(parts) + ("," if len(parts) == 1 else "") + ")"


def function(head: str, lines: list[str]) -> str:
    return f"\n\n@helper\ndef {head}:\n" + "".join(f"    {line}\n" for line in lines)


def text_of(p: Program, name: str) -> str:
    """Return the text of a user's cell."""
    return source(p, name, f"The cell {name}, printed by fused_lstm.cell.")


def load(p: Program, name: str) -> Any:
    """Return the cell of a module in the user's cache, where Triton reads a function's source."""
    text = text_of(p, name)
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
