"""A cell's programs as Triton: a `Cell` of triton/cells, in a module of its own."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import tempfile
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from .compile import cache_folder
from .print_cpp import INFIX
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
BACKWARD = "backward(saved, states, after, dh, dafter, edges, options, HAS: tl.constexpr)"


def source(p: Program, name: str, head: str) -> str:
    """Return the module's text, which begins with the docstring `head`."""
    gates, count = p.gates, len(p.gates.summed)
    leaves = {("h", k): f"by_h[{count + n}] + h_bias[{n}]" for n, k in enumerate(gates.of_h)}
    leaves |= {("gate", k): f"by_x[{n}] + by_h[{n}]" for n, k in enumerate(gates.summed)}
    leaves |= {("x", k): f"by_x[{count + n}]" for n, k in enumerate(gates.of_x)}
    leaves |= {("state", k): f"states[{k}]" for k in range(len(p.states))}
    leaves |= {("weight", k): f"options[0][{k}]" for k in range(len(p.weights))}
    leaves |= {("dstate", k): f"dafter[{k}]" for k in range(len(p.states))}
    leaves |= {("zoneout", 0): "options[2]"}
    alone = p.states == ("h",)  # h is the state, after zoneout

    # A step.
    h, after = p.after[0] if alone else p.h, p.after or (p.h,)
    step = statements(p, [h, *after, *p.saved], {}, leaves)
    results = whole(p, h, "by_x[0]"), *(listed(p, nodes, "by_x[0]") for nodes in (after, p.saved))
    step.append(f"return {', '.join(results)}")

    # Its backward.
    back = []
    if alone and p.zoneout:
        back = ["dstate_h, dh = dafter[0] + dh, tl.zeros_like(dh)"]
        del leaves["dstate", 0]
    elif not p.states:
        back = ["dh = dh + dafter[0]"]
    places = {n: f"after[{k}]" for k, n in enumerate(after)}
    places |= {n: f"saved[{k}]" for k, n in enumerate(p.saved)}
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
    body = function(STEP, step) + function(BACKWARD, back)
    return (
        f'"""{head}"""\n\nimport triton.language as tl\n\n{imports(body)}{body}'
        f'\n\nCELL = Cell("{name}", step, backward, {numbers})\n'
    )


def imports(text: str) -> str:
    """Return the imports that a module's functions need."""
    lines = ["from fused_lstm.triton.cells import Cell"]
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
        if kind in ("dh", "zoneout"):
            return {"dh": "dh", "zoneout": "kept"}[kind]
        return f"{kind}_{p.weights[k] if kind == 'weight' else p.states[k]}"
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
    """Return the `Cell` of a module in the user's cache: Triton reads a function's source there."""
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
