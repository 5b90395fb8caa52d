"""A cell's programs as C++: the functions `finish` and `finish_back` of native/cells/step.h.

A sweep calls them through a pointer, once a tile, so that no sweep is compiled for a new cell.
"""

from __future__ import annotations

import re

from .expressions import HEAVY, Expressions
from .program import Program

INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "eq": "==", "ne": "!=", "and": "&", "or": "|",
}  # fmt: skip
CALLS = {"max": "maximum", "min": "minimum", "abs": "absolute", "sqrt": "square_root"}
STEP = "(const CellStep<T>& step, long first, long row, long rows, long blocks, Vec<T>* sums)"
STEP_BACK = (
    "(const CellStepBack<T>& step, long first, long row, long rows, long blocks, const Vec<T>* dh)"
)


def source(p: Program) -> str:
    """Return a header for FL_INSTEAD of native/isa/body.h: a cell's functions, and their table."""
    tables = table(["fused_lstm::Bf16"]), table(["float", "double"])
    directives = "#if defined(FL_BF16)", "#else"
    lines = "".join(f"{d}\n{t}" for d, t in zip(directives, tables, strict=True))
    return f"{functions(p, 'custom')}\n{lines}#endif\n"


def functions(p: Program, name: str) -> str:
    """Return a cell's functions, finish_<name> and finish_<name>_back, and what they include."""
    kept = '#include "cells/zoneout.h"\n' if p.zoneout else ""
    return (
        f'#include "cells/functions.h"\n{kept}\nnamespace fused_lstm::FL_ISA {{\n\n'
        f"{forward(p, name)}\n{backward(p, name)}\n}}  // namespace fused_lstm::FL_ISA\n"
    )


def table(dtypes: list[str]) -> str:
    """Return the table of a library's functions, two for each dtype."""
    entries = ", ".join(
        f"(void*)fused_lstm::FL_ISA::{function}<{dtype}>"
        for dtype in dtypes
        for function in ("finish_custom", "finish_custom_back")
    )
    visible = '__attribute__((visibility("default")))'
    name = f"fused_lstm_cell[{2 * len(dtypes)}]"
    return f'extern "C" {visible} void* const {name} = {{\n    {entries}}};\n'


# --- a step ---


def forward(p: Program, name: str) -> str:
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
    results = {n for n, _ in (*stores, *save_lines(p)) if loop[n]}
    used = {o for n in nodes[1] for o in e.operands(n)} | results
    weights = [n for n in order if e.nodes[n][:2] == ("leaf", "weight")]
    there = {*nodes[1], *weights}
    crossing = [n for n in sorted(used) if n not in there and not is_const(e, n)]

    def place(k: int) -> str:  # between the loops: the tile's sums, then more
        return f"sum[{k}]" if k < G else f"more[r][{k - G}]"

    def body(k: int) -> list[str]:
        text = [f"const Vec<T> {var(p, n)} = {place(i)};" for i, n in enumerate(crossing) if k]
        text += [statement(p, n) for n in nodes[k]]
        text += [line for n, line in stores if loop[n] == k]
        if saves := [line for n, line in save_lines(p) if loop[n] == k]:
            text += ["if (step.gates) {"]
            text += [f"  T* const gates = step.gates + {row_of(p.columns)} + unit;"]
            text += [*indented(saves), "}"]
        if k == 0:
            text += [f"{place(i)} = {var(p, n)};" for i, n in enumerate(crossing)]
        return text

    text = [f"Vec<T> more[32][{len(crossing) - G}];"] if len(crossing) > G else []
    for k in (0, 1):
        if k and not nodes[k]:
            continue
        inner = [*weight_lines(p, weights), *(body(k) if k else [*leaf_lines(p, order), *body(k)])]
        inner = with_used(places_of_row(p), reset_lines(p) + inner if k == 0 else inner)
        text += over_rows(p, inner)
    places = {
        "S": "using S = Sum<T>;",
        "hidden": "const long hidden = step.hidden;",
        "unit": "const long unit = first;",
        "width": "const long width = min(hidden - unit, W<T>);",
        "lane": "const Lane<T>& lane = *step.lane;",
    }
    if G == 1:  # a tile has several blocks
        del places["unit"], places["width"]
    return function(f"finish_{name}{STEP}", with_used(places, text))


def over_rows(p: Program, inner: list[str]) -> list[str]:
    """Return a loop over the vectors of a tile; `r` counts them."""
    if len(p.gates.by_h) != 1:
        return [
            "for (long r = 0; r < rows; ++r) {",
            "  const long b = row + r;",
            *indented(inner),
            "}",
        ]
    return [
        "for (long b = row, r = 0; b < row + rows; ++b) {",
        "  for (long block = 0; block < blocks; ++block, ++r) {",
        "    const long unit = first + block * W<T>, width = min(hidden - unit, W<T>);",
        *indented(indented(inner)), "  }", "}",
    ]  # fmt: skip


def indented(lines: list[str]) -> list[str]:
    return ["  " + line for line in lines]


def with_used(declarations: dict[str, str], lines: list[str]) -> list[str]:
    """Return lines after those declarations, name -> statement, that they or later ones use."""
    for name, declaration in reversed(declarations.items()):
        if re.search(rf"\b{name}\b", "\n".join(lines)):
            lines = [declaration, *lines]
    return lines


def plus(k: int) -> str:
    """Return the offset of column k of a row."""
    return "" if k == 0 else " + hidden" if k == 1 else f" + {k} * hidden"


def row_of(columns: int) -> str:
    """Return where row b begins, of so many columns a unit."""
    return "b * hidden" if columns == 1 else f"b * {columns} * hidden"


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
    """Return the numbers of h and of the next states, and the statements that store them."""
    lines = [(n, f"store(after{plus(k)}, {vector(p, n)}, width);") for k, n in enumerate(p.after)]
    store = f"store(step.h + b * step.stride + unit, {vector(p, p.h)}, width);"
    if p.zoneout:
        made = f"leave_made<T>(step, b, unit, {vector(p, p.h)});"
        store = f"if (lane.options) {made} else {store}"
    return [*lines, (p.h, store)]


def save_lines(p: Program) -> list[tuple[int, str]]:
    """Return the numbers of what a step saves, and the statements that store it."""
    return [(n, f"store(gates{plus(k)}, {vector(p, n)}, width);") for k, n in enumerate(p.saved)]


def places_of_row(p: Program) -> dict[str, str]:
    """Return the declarations of where a row's sums, states and gates lie."""
    gates, states = len(p.gates.by_h), row_of(max(len(p.states), 1))
    sums = "sums + r" if gates == 1 else f"sums + r * {gates}"
    return {
        "sum": f"Vec<T>* const sum = {sums};",
        "after": f"S* const after = step.c_next + {states} + unit;",
        "before": f"const S* const before = step.c + {states} + unit;",
        "x": "const S* const x = step.input_part + b * step.input_stride + unit;",
        "kept": "const bool kept = step.kept(b);",
    }


def weight_lines(p: Program, weights: list[int]) -> list[str]:
    """Return the statements that load a unit's weights."""
    lines = []
    for n in weights:
        place = f"lane.options->w_ch{plus(p.expressions.nodes[n][2])} + unit"
        lines.append(f"const Vec<T> {var(p, n)} = load({place}, width);")
    return lines


def reset_lines(p: Program) -> list[str]:
    """Return the statements that take h's part from the sums of a row that begins anew."""
    summed = len(p.gates.summed)
    lines = [f"sum[{k}] = load(x{plus(k)}, width);" for k in range(summed)]
    for k in range(len(p.gates.of_h)):
        bias = f"load(lane.b_m{plus(k)} + unit, width)"
        lines.append(f"sum[{summed + k}] = lane.b_m ? {bias} : Vec<T>{{}};")
    return ["if (!kept) {", *indented(lines), "}"] if lines else []


def leaf_lines(p: Program, order: list[int]) -> list[str]:
    """Return the statements that load gates and states."""
    lines = []
    for n in order:
        op, *rest = p.expressions.nodes[n]
        if op != "leaf" or rest[0] == "weight":
            continue
        kind, k = rest
        if kind == "x":
            value = f"load(x{plus(p.gates.by_x.index(k))}, width)"
        elif kind in ("gate", "h"):
            value = f"sum[{p.gates.by_h.index(k)}]"
        elif kind == "zoneout":
            value = part_kept(p, "step")
        else:
            value = f"kept ? load(before{plus(k)}, width) : Vec<T>{{}}"
        lines.append(f"const Vec<T> {var(p, n)} = {value};")
    return lines


def part_kept(p: Program, step: str) -> str:
    """Return the part of the states that zoneout keeps; h's mask serves a state that is h."""
    mask = f"lane.options ? &lane.options->zoneout_{'h' if p.states == ('h',) else 'c'} : nullptr"
    return f"part_kept<T>({mask}, lane, {step}.place, b, unit)"


# --- its backward ---


def backward(p: Program, name: str) -> str:
    """Return the function that makes a tile's gradients by h those by gates, states and weights."""
    e, states = p.expressions, row_of(max(len(p.states), 1))
    places = {n: f"after{plus(k)}" for k, n in enumerate(p.after)}
    if not p.states:
        places[p.h] = "local.h + b * local.stride + unit"
    places |= {n: f"gates{plus(k)}" for k, n in enumerate(p.saved)}
    text = []
    for n in e.order([*p.dgates, *p.dstates, *p.dweights], p.known):
        op, *rest = e.nodes[n]
        if n in places and op != "const":
            text.append(f"const Vec<T> {var(p, n)} = load({places[n]}, width);")
        elif op == "leaf":
            kind, k = rest
            value = {
                "state": f"kept ? load(before{plus(k)}, width) : Vec<T>{{}}",
                "weight": f"load(lane.options->w_ch{plus(k)} + unit, width)",
                "zoneout": part_kept(p, "local"),
                "dh": "*dh",
                "dstate": f"load(running{plus(k)}, width)",
            }[kind]
            text.append(f"const Vec<T> {var(p, n)} = {value};")
        elif op != "const":
            text.append(statement(p, n))
    for k, n in enumerate(p.dstates):
        value = f"kept ? {vector(p, n)} : Vec<T>{{}}"
        text.append(f"store(running{plus(k)}, {value}, width);")
    for k, n in enumerate(p.dgates):
        value = f"Vec<T>({vector(p, n)})"
        text.append(f"store_block(local.dgates, {k}, block, local.line + b, {value}, width);")
    for k, n in enumerate(p.dweights):
        place = f"lane.options->dw_ch + (b * {len(p.weights)} + {k}) * hidden + unit"
        text.append(f"store({place}, load({place}, width) + {vector(p, n)}, width);")
    declarations = {
        "unit": "const long unit = block * W<T>;",
        "width": "const long width = hidden - unit;",
        "gates": f"const T* const gates = local.gates + {row_of(p.columns)} + unit;",
        "after": f"const S* const after = local.c_next + {states} + unit;",
        "begin": "const S* const begin = b < local.continued ? local.c : local.c0;",
        "before": f"const S* const before = begin + {states} + unit;",
        "running": f"S* const running = local.dc + {states} + unit;",
    }
    of_rows = {"kept": "const bool kept = local.kept(b);"}
    blocks = [
        "for (long block = first; block < first + blocks; ++block, ++dh) {",
        *indented(with_used(declarations, text)), "}",
    ]  # fmt: skip
    rows = [
        "for (long b = row; b < row + rows; ++b) {",
        *indented(with_used(of_rows, blocks)), "}",
    ]  # fmt: skip
    of_step = {
        "S": "using S = Sum<T>;",
        "local": "const CellStepBack<T> local = step;  // a copy: stores do not change it",
        "hidden": "const long hidden = local.hidden;",
        "lane": "const Lane<T>& lane = *local.lane;",
    }
    return function(f"finish_{name}_back{STEP_BACK}", with_used(of_step, rows))


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
