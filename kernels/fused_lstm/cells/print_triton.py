"""A cell's programs as Triton: a `KernelCell` of triton/cells, in a module of its own."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from types import ModuleType
from typing import Any

from . import printing
from .compile import cache_folder
from .meetings import in_few_phases
from .program import Program
from .sums import PRODUCT

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
# Signatures of a cell with products, sums or maxima inside its step: of phase k, and its backward.
STEP_AFTER = "{}(by_x, made, numbers, saved, states, options, HAS: tl.constexpr)"
BACK = "{}(saved, numbers, states, after, by, dafter, options, HAS: tl.constexpr)"


def source(p: Program, name: str, head: str) -> str:
    """Return the module's text, which begins with the docstring `head`."""
    body, numbers = (in_phases if p.inner else in_one_phase)(p)
    gates = p.gates
    shape = f"sums={len(gates.summed)}, of_x={len(gates.of_x)}, of_h={len(gates.of_h)}"
    shape += f", saved={len(p.saved)}, states={max(1, len(p.states))}"
    return (
        f'"""{head}"""\n\nimport triton.language as tl\n\n{imports(body + numbers)}{body}'
        f'\n\nCELL = KernelCell("{name}", step, backward, {shape}{numbers})\n'
    )


def in_one_phase(p: Program) -> tuple[str, str]:
    """Return the functions of a cell whose units do not meet inside a step."""
    leaves = leaves_of(p)
    value, after = h_and_after(p)
    like = "by_x[0]"
    step = statements(p, [value, *after, *p.saved], {}, leaves)
    results = whole(p, value, like), *(listed(p, nodes, like) for nodes in (after, p.saved))
    step.append(f"return {', '.join(results)}")
    places = {n: f"saved[{k}]" for k, n in enumerate(p.saved)}
    return function(STEP, step) + function(BACKWARD, backward(p, leaves, places, [])), ""


def in_phases(program: Program) -> tuple[str, str]:
    """Return the functions of a cell with products, sums or maxima inside its step.

    The second text is what its KernelCell is told of them.
    """
    p = in_few_phases(program)
    stored_in, numbers = p.stored_in, p.numbers_of
    # Each phase saves columns that lie side by side.
    p = replace(p, saved=tuple(sorted(p.saved, key=lambda n: stored_in[n])))
    ends = list(accumulate(p.inner, initial=0))
    leaves, places = leaves_of(p), {n: f"saved[{k}]" for k, n in enumerate(p.saved)}
    leaves |= {("share", k): f"options[2][{k}]" for k in p.sums}
    kept = [n for made in numbers for n in made]
    of_row = {n: f"numbers[{k}]" for k, n in enumerate(kept)}
    value, after = h_and_after(p)
    steps, counts = [], []
    for phase in range(1 + p.last):
        saves = [n for n in p.saved if stored_in[n] == phase]
        known = {n: places[n] for n in p.saved if stored_in[n] < phase}
        known |= {n: of_row[n] for made in numbers[:phase] for n in made}
        made = leaves_made(p, ends, phase)
        fed = {k: [p.fed[k]] for k, at in p.fed_in.items() if at == phase}
        is_last = phase == p.last
        feeds = [value, *after] if is_last else [n for nodes in fed.values() for n in nodes]
        step = statements(p, [*feeds, *saves, *numbers[phase]], known, leaves | made)
        like = "states[0]"
        results = [whole(p, value, like) if is_last else by_call(p, fed, like)]
        results += [listed(p, after if is_last else [], like), listed(p, saves, like)]
        if phase:
            results.append(listed(p, numbers[phase], like))
        step.append(f"return {', '.join(results)}")
        counts.append(len(saves))
        steps.append(function(STEP_AFTER.format(f"step_{phase}") if phase else STEP, step))

    back_in, places = p.fed_back_in, places | of_row
    leaves |= {("dfed", k): f"by[{1 + k}]" for k in range(len(p.inner))}
    backs = []
    for phase in range(1 + max(back_in)):
        made = {
            k: p.dproducts[ends[k] : ends[k + 1]] for k, at in enumerate(back_in) if at == phase
        }
        results = [n for nodes in made.values() for n in nodes]
        lines = ["dh = by[0]", *received(p, leaves)]
        lines += statements(p, results, later(p, places), leaves)
        lines.append(f"return {by_call(p, made, 'dh')}")
        backs.append(function(BACK.format(f"back_{phase}"), lines))
    last = function(BACK.format("backward"), backward(p, leaves, places, ["dh = by[0]"]))

    columns = {k: n for k, n in enumerate(p.inner) if p.kinds[k] == PRODUCT}
    fed_columns = tuple(p.saved.index(p.fed[k]) for k in columns)
    meetings = ", ".join(
        f'Meeting("{p.kinds[k]}", {p.fed_in[k]}, {back_in[k]})' for k in range(len(p.inner))
    )
    text = f", inner={tuple(columns.values())}, fed={fed_columns}, counts={tuple(counts)}"
    text += f", meetings=({meetings},), numbers={tuple(map(len, numbers))}"
    text += f", steps=({' '.join(f'step_{k + 1},' for k in range(p.last))})"
    text += f", backs=({' '.join(f'back_{k},' for k in range(len(backs)))})"
    return "".join([*steps, *backs, last]), text


def leaves_of(p: Program) -> dict[tuple, str]:
    """Return what a cell's functions find in their arguments, of a step and of its backward."""
    gates, count = p.gates, len(p.gates.summed)
    leaves = {("h", k): f"by_h[{count + n}] + h_bias[{n}]" for n, k in enumerate(gates.of_h)}
    leaves |= {("gate", k): f"by_x[{n}] + by_h[{n}]" for n, k in enumerate(gates.summed)}
    leaves |= {("x", k): f"by_x[{count + n}]" for n, k in enumerate(gates.of_x)}
    leaves |= {("state", k): f"states[{k}]" for k in range(len(p.states))}
    leaves |= {("weight", k): f"options[0][{k}]" for k in range(len(p.weights))}
    leaves |= {("dstate", k): f"dafter[{k}]" for k in range(len(p.states))}
    return leaves | {("zoneout", 0): "options[1]"}


def leaves_made(p: Program, ends: list[int], phase: int) -> dict[tuple, str]:
    """Return what products, sums and maxima have made that a phase begins with."""
    found = {}
    for k, at in enumerate(p.begun_by):
        for j in range(ends[k], ends[k + 1]):
            if at == phase:
                column = f"[{j - ends[k]}]" if p.kinds[k] == PRODUCT else ""
                found["product", j] = f"made[{k}]{column}"
    return found


def h_and_after(p: Program) -> tuple[int, Sequence[int]]:
    """Return the nodes of h and of the states after a step; of h alone after its zoneout."""
    return p.after[0] if p.states == ("h",) else p.h, p.after or (p.h,)


def received(p: Program, leaves: dict[tuple, str]) -> list[str]:
    """Return the statements for the gradients that a step receives by h and by its states."""
    if p.states == ("h",) and p.zoneout:  # h is the state, after zoneout
        leaves.pop(("dstate", 0), None)
        return ["dstate_h, dh = dafter[0] + dh, tl.zeros_like(dh)"]
    return [] if p.states else ["dh = dh + dafter[0]"]


def later(p: Program, places: dict[int, str]) -> dict[int, str]:
    """Return `places` with the states after a step, which a backward finds too."""
    _, after = h_and_after(p)
    return {n: f"after[{k}]" for k, n in enumerate(after)} | places


def backward(
    p: Program, leaves: dict[tuple, str], places: dict[int, str], lines: list[str]
) -> list[str]:
    """Return the statements of a backward's last phase, which makes all gradients."""
    gates = p.gates
    lines = [*lines, *received(p, leaves)]
    lines += statements(p, [*p.dgates, *p.dstates, *p.dweights], later(p, places), leaves)
    of = dict(zip(gates.columns, p.dgates, strict=True))
    summed = [of["gate", k] for k in gates.summed]
    by_x = [*summed, *(of["x", k] for k in gates.of_x)]
    by_h = [*summed, *(of["h", k] for k in gates.of_h)]
    found = [listed(p, nodes, "dh") for nodes in (by_x, by_h, p.dstates, p.dweights)]
    found[2] = found[2] if p.states else "(tl.zeros_like(dh),)"
    return [*lines, f"return {', '.join(found)}"]


def imports(text: str) -> str:
    """Return the imports that a module's functions need."""
    names = ("KernelCell", "Meeting") if "Meeting(" in text else ("KernelCell",)
    lines = [f"from fused_lstm.triton.cells import {', '.join(names)}"]
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


def by_call(p: Program, nodes: Mapping[int, Sequence[int]], like: str) -> str:
    """Return a tuple of nodes by product, sum or maximum: of each a tuple, or 0.0 for none."""
    parts = [listed(p, nodes[k], like) if k in nodes else "0.0" for k in range(len(p.inner))]
    return f"({', '.join(parts)},)"


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
