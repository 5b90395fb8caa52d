"""A cell's programs as C++: the functions `finish` and `finish_back` of native/cells/step.h.

A sweep calls them through a pointer, once a tile, so that no sweep is compiled for a new cell.
"""

from __future__ import annotations

from .expressions import HEAVY, Expressions
from .program import Program

INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "eq": "==", "ne": "!=", "and": "&", "or": "|",
}  # fmt: skip
CALLS = {"max": "maximum", "min": "minimum", "abs": "absolute", "sqrt": "square_root"}
STEP = (
    "finish_custom(const CellStep<T>& step, long first, long row, long rows, long blocks,"
    " Vec<T>* sums)"
)
STEP_BACK = (
    "finish_custom_back(const CellStepBack<T>& step, long first, long row, long rows, long blocks,"
    " const Vec<T>* dh)"
)


def source(p: Program) -> str:
    """Return a header for FL_INSTEAD of native/isa/body.h."""
    kept = '#include "cells/zoneout.h"\n' if p.zoneout else ""
    functions = ", ".join(
        f"(void*)fused_lstm::FL_ISA::{function}<{dtype}>"
        for dtype in ("float", "double")
        for function in ("finish_custom", "finish_custom_back")
    )
    return (
        f'#include "cells/functions.h"\n{kept}\nnamespace fused_lstm::FL_ISA {{\n\n'
        f"{forward(p)}\n{backward(p)}\n}}  // namespace fused_lstm::FL_ISA\n\n"
        'extern "C" __attribute__((visibility("default"))) void* const fused_lstm_cell[4] = {\n'
        f"    {functions}}};\n"
    )


# --- a step ---


def forward(p: Program) -> str:
    """Return the function that makes a tile's gates a step's h, states and saved columns.

    Its work is in one loop over the tile's vectors, or in two: rows do not wait for each other, so
    that the second loop's functions, which wait for the first's, keep a CPU as busy.
    """
    e, G = p.expressions, len(p.gates.by_h)
    order = e.order([p.h, *p.after, *p.saved])
    loop = loops(e, order)
    stores = store_lines(p)
    nodes = [[n for n in order if loop[n] == k and e.operands(n)] for k in (0, 1)]
    nodes[1] = with_masks(e, nodes[1], set(nodes[0]))
    used = {o for n in nodes[1] for o in e.operands(n)} | {n for n, _ in stores if loop[n]}
    weights = [n for n in order if e.nodes[n][:2] == ("leaf", "weight")]
    there = {*nodes[1], *weights}
    crossing = [n for n in sorted(used) if n not in there and not is_const(e, n)]

    def place(k: int) -> str:  # between the loops: the tile's sums, then more
        return f"sum[{k}]" if k < G else f"more[r][{k - G}]"

    def body(k: int) -> list[str]:
        text = [f"const Vec<T> {var(p, n)} = {place(i)};" for i, n in enumerate(crossing) if k]
        text += [statement(p, n) for n in nodes[k]]
        text += [line for n, line in stores if loop[n] == k and "gates +" not in line]
        if saves := [line for n, line in stores if loop[n] == k and "gates +" in line]:
            columns = max(len(p.saved), 1)
            text += ["if (step.gates) {"]
            text += [f"  T* const gates = step.gates + b * {columns} * hidden + unit;"]
            text += [*("  " + line for line in saves), "}"]
        if k == 0:
            text += [f"{place(i)} = {var(p, n)};" for i, n in enumerate(crossing)]
        return text

    text = [
        "using S = Sum<T>;",
        "const long hidden = step.hidden;",
        f"const long across = {1 if G > 1 else 'blocks'};",
        "[[maybe_unused]] const Lane<T>& lane = *step.lane;",
    ]
    if len(crossing) > G:
        text.append(f"Vec<T> more[32][{len(crossing) - G}];")
    for k in (0, 1):
        if k and not nodes[k]:
            continue
        inner = [*places_of_row(p), *weight_lines(p, weights)]
        inner += [*first_lines(p, order), *body(k)] if k == 0 else body(k)
        text += [
            "for (long r = 0; r < rows * across; ++r) {",
            *("  " + line for line in inner),
            "}",
        ]
    return function(STEP, text)


def loops(e: Expressions, order: list[int]) -> dict[int, int]:
    """Return the loop, 0 or 1, of each node: the last of functions in a row is in the second."""
    depth: dict[int, int] = {}
    for n in order:
        below = max((depth[o] for o in e.operands(n)), default=0)
        depth[n] = below + (e.nodes[n][0] in HEAVY)
    last = max(depth.values(), default=0)
    return {n: int(last > 1 and depth[n] == last) for n in order}


def with_masks(e: Expressions, nodes: list[int], others: set[int]) -> list[int]:
    """Return nodes with the masks among `others` that they need: no vector of numbers holds one."""
    needed, stack = set(nodes), list(nodes)
    while stack:
        for n in e.operands(stack.pop()):
            if n in others and e.is_mask(n) and n not in needed:
                needed.add(n)
                stack.append(n)
    return sorted(needed)


def store_lines(p: Program) -> list[tuple[int, str]]:
    """Return each result's number and the statement that stores it."""
    lines = [
        (n, f"store(gates + {k} * hidden, {vector(p, n)}, width);") for k, n in enumerate(p.saved)
    ]
    lines += [
        (n, f"store(after + {k} * hidden, {vector(p, n)}, width);") for k, n in enumerate(p.after)
    ]
    store = f"store(step.h + b * step.stride + unit, {vector(p, p.h)}, width);"
    if p.zoneout:
        made = f"leave_made<T>(step, b, unit, {vector(p, p.h)});"
        store = f"if (lane.added) {made} else {store}"
    return [*lines, (p.h, store)]


def places_of_row(p: Program) -> list[str]:
    """Return the statements that say where the results of one vector of a tile go."""
    return [
        "const long b = row + r / across, unit = first + r % across * W<T>;",
        "const long width = min(hidden - unit, W<T>);",
        f"[[maybe_unused]] Vec<T>* const sum = sums + r * {len(p.gates.by_h)};",
        "[[maybe_unused]] S* const after ="
        f" step.c_next + b * {max(len(p.states), 1)} * hidden + unit;",
    ]


def weight_lines(p: Program, weights: list[int]) -> list[str]:
    """Return the statements that load a unit's weights."""
    lines = []
    for n in weights:
        k = p.expressions.nodes[n][2]
        place = f"lane.added->w_ch + {k} * hidden + unit"
        lines.append(f"const Vec<T> {var(p, n)} = load({place}, width);")
    return lines


def first_lines(p: Program, order: list[int]) -> list[str]:
    """Return the statements that load gates and states, of a row that begins anew too."""
    summed, of_h = len(p.gates.summed), len(p.gates.of_h)
    reset = [f"for (int k = 0; k < {summed}; ++k) sum[k] = load(x + k * hidden, width);"] if summed else []
    for k in range(of_h):
        bias = f"load(lane.b_m + {k} * hidden + unit, width)"
        reset.append(f"sum[{summed + k}] = lane.b_m ? {bias} : Vec<T>{{}};")
    lines = [
        "[[maybe_unused]] const S* const before ="
        f" step.c + b * {max(len(p.states), 1)} * hidden + unit;",
        "[[maybe_unused]] const S* const x = step.input_part + b * step.input_stride + unit;",
        "[[maybe_unused]] const bool kept = step.kept(b);",
    ]
    if reset:
        lines += ["if (!kept) {", *("  " + line for line in reset), "}"]
    for n in order:
        op, *rest = p.expressions.nodes[n]
        if op != "leaf" or rest[0] == "weight":
            continue
        kind, k = rest
        if kind == "x":
            value = f"load(x + {p.gates.by_x.index(k)} * hidden, width)"
        elif kind in ("gate", "h"):
            value = f"sum[{p.gates.by_h.index(k)}]"
        elif kind == "zoneout":
            value = part_kept(p, "step")
        else:
            value = f"kept ? load(before + {k} * hidden, width) : Vec<T>{{}}"
        lines.append(f"const Vec<T> {var(p, n)} = {value};")
    return lines


def part_kept(p: Program, step: str) -> str:
    """Return the part of the states that zoneout keeps; h's mask serves a state that is h."""
    mask = f"lane.added ? &lane.added->zoneout_{'h' if p.states == ('h',) else 'c'} : nullptr"
    return f"part_kept<T>({mask}, lane, {step}.place, b, unit)"


# --- its backward ---


def backward(p: Program) -> str:
    """Return the function that makes a tile's gradients by h those by gates, states and weights."""
    e, columns, states = p.expressions, max(len(p.saved), 1), max(len(p.states), 1)
    places = {n: f"after + {k} * hidden" for k, n in enumerate(p.after)}
    places |= {n: f"gates + {k} * hidden" for k, n in enumerate(p.saved)}
    text = [
        "const long unit = block * W<T>, width = hidden - unit;",
        f"[[maybe_unused]] const T* const gates = local.gates + b * {columns} * hidden + unit;",
        f"[[maybe_unused]] const S* const after = local.c_next + b * {states} * hidden + unit;",
        "[[maybe_unused]] const S* const before ="
        f" (b < local.continued ? local.c : local.c0) + b * {states} * hidden + unit;",
        f"[[maybe_unused]] S* const running = local.dc + b * {states} * hidden + unit;",
    ]
    for n in e.order([*p.dgates, *p.dstates, *p.dweights], p.known):
        op, *rest = e.nodes[n]
        if n in places:
            text.append(f"const Vec<T> {var(p, n)} = load({places[n]}, width);")
        elif op == "leaf":
            kind, k = rest
            value = {
                "state": f"kept ? load(before + {k} * hidden, width) : Vec<T>{{}}",
                "weight": f"load(lane.added->w_ch + {k} * hidden + unit, width)",
                "zoneout": part_kept(p, "local"),
                "dh": "*dh",
                "dstate": f"load(running + {k} * hidden, width)",
            }[kind]
            text.append(f"const Vec<T> {var(p, n)} = {value};")
        elif op != "const":
            text.append(statement(p, n))
    for k, n in enumerate(p.dstates):
        value = f"kept ? {vector(p, n)} : Vec<T>{{}}"
        text.append(f"store(running + {k} * hidden, {value}, width);")
    for k, n in enumerate(p.dgates):
        value = f"Vec<T>({vector(p, n)})"
        text.append(f"store_block(local.dgates, {k}, block, local.line + b, {value}, width);")
    for k, n in enumerate(p.dweights):
        place = f"lane.added->dw_ch + (b * {len(p.weights)} + {k}) * hidden + unit"
        text.append(f"store({place}, load({place}, width) + {vector(p, n)}, width);")
    return function(STEP_BACK, [
        "using S = Sum<T>;",
        "const CellStepBack<T> local = step;  // a copy: stores do not change it",
        "const long hidden = local.hidden;",
        "[[maybe_unused]] const Lane<T>& lane = *local.lane;",
        "for (long b = row; b < row + rows; ++b) {",
        "  const bool kept = local.kept(b);",
        "  for (long block = first; block < first + blocks; ++block, ++dh) {",
        *("    " + line for line in text),
        "  }",
        "}",
    ])  # fmt: skip


# --- a node ---


def is_const(e: Expressions, n: int) -> bool:
    return e.value(n) is not None


def var(p: Program, n: int) -> str:
    """Return a node's variable, or its value where it is a constant."""
    op, *rest = p.expressions.nodes[n]
    if op == "const":
        return f"S({number(rest[0])})"
    if op != "leaf":
        return f"v{n}"
    kind, k = rest
    names = {"state": p.states, "weight": p.weights, "dstate": p.states}
    if kind in ("gate", "x", "h"):
        return f"gate_{p.gates.column_name((kind, k))}"
    if kind in names:
        return f"{kind}_{names[kind][k]}"
    return {"dh": "by_h", "zoneout": "zoneout"}[kind]


def number(value: float) -> str:
    """Return a number as C++ has it."""
    if value != value:
        return '__builtin_nan("")'
    if value in (float("inf"), float("-inf")):
        return "__builtin_inf()" if value > 0 else "-__builtin_inf()"
    return repr(value)


def vector(p: Program, n: int) -> str:
    """Return a node's variable, or a vector of its value where it is a constant."""
    text = var(p, n)
    return f"broadcast({text})" if is_const(p.expressions, n) else text


def statement(p: Program, n: int) -> str:
    """Return the statement that computes a node."""
    e = p.expressions
    op, *args = e.nodes[n]
    names, vectors = [var(p, x) for x in args], [vector(p, x) for x in args]
    if op in INFIX:
        text = f"{names[0]} {INFIX[op]} {names[1]}"
    elif op in ("neg", "not"):
        text = ("-" if op == "neg" else "~") + names[0]
    elif op == "where":
        text = f"{names[0]} ? {vectors[1]} : {vectors[2]}"
    else:
        text = f"{CALLS.get(op, op)}<S>({', '.join(vectors)})"
    return f"const {'auto' if e.is_mask(n) else 'Vec<T>'} v{n} = {text};"


def function(head: str, body: list[str]) -> str:
    """Return a function template."""
    lines = "".join(f"  {line}\n" for line in body)
    return f"template <class T>\nFL_APART void {head} {{\n{lines}}}\n"
