"""A cell's programs as C++: a struct of expressions, whose loops native/cells/finish.h has.

A sweep calls a cell through a pointer, once a tile, so that no sweep is compiled for a new cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .expressions import HEAVY, Expressions
from .printing import INFIX, operation, variable
from .program import Program
from .sums import MAXIMUM, SUM

CALLS = {"max": "maximum", "min": "minimum", "abs": "absolute", "sqrt": "square_root"}


def source(p: Program, facts: str = "") -> str:
    """Return a header for FL_INSTEAD of native/isa/body.h: a cell's functions, and their table."""
    wide = table(p, {"float32": "float", "float64": "double"})
    tables = table(p, {"bfloat16": "fused_lstm::Bf16"}), wide
    directives = "#if defined(FL_BF16)", "#else"
    lines = "".join(f"{d}\n{t}" for d, t in zip(directives, tables, strict=True))
    return f"{functions(p, 'custom', facts)}\n{lines}#endif\n"


def functions(p: Program, name: str, facts: str = "") -> str:
    """Return a cell's structs, one a phase, and what they include; facts: more of its CellShape."""
    phases = (*range(1 + len(p.inner)), *p.early)
    structs = [struct(p, struct_name(name, k), facts, k) for k in phases]
    return (
        '#include "cells/finish.h"\n\nnamespace fused_lstm::FL_ISA {\n\n'
        + "\n".join(structs)
        + "\n}  // namespace fused_lstm::FL_ISA\n"
    )


def struct_name(name: str, phase: int = 0) -> str:
    """Return the name of a cell's struct, of a phase."""
    return "".join(part.capitalize() for part in name.split("_")) + f"Cell{phase or ''}"


def table(p: Program, dtypes: dict[str, str]) -> str:
    """Return the CompiledCell that a library exports. dtypes: FactorKind -> its C++ type."""
    count, space = len(p.inner), "fused_lstm::FL_ISA::"

    def functions_of(dtype: str, forward: int, back: int) -> str:
        names = [("finish", forward), ("finish_back", back)]
        names += [("derive", forward)] * (forward - 1 in p.sums)
        return braces(
            f"(void*){space}{name}<{space}{struct_name('custom', phase)}, {dtype}>"
            for name, phase in names
        )

    def by_kind(of: Callable[[str], str]) -> str:  # InnerProducts' and CompiledCell's `functions`
        return braces(of(dtypes[kind]) if kind in dtypes else "{}" for kind in KINDS)

    inner = {"count": str(count)}
    if count:
        meets, meets_back = zip(*p.meetings(), strict=True)
        widths, sums = p.widths, len(p.sums)
        matrices = {k: n for n, k in enumerate(p.matrices)}
        inner |= {
            "kind": braces(f"fused_lstm::InnerKind::{kind}" for kind in p.kinds),
            "number": braces((p.sums if k in p.sums else matrices)[k] for k in range(count)),
            "matrices": str(count - sums),
            "sums": str(sums),
            "numbers": str(len(p.numbers)),
            "works": braces(int(works(p, k + 1)) for k in range(count)),
            "works_back": braces(int(bool(gradients(p, k))) for k in range(count)),
            "columns": braces(p.inner),
            "fed": braces(0 if k in p.sums else p.saved.index(n) for k, n in enumerate(p.fed)),
            "meets": braces(map(int, meets)),
            "meets_back": braces(map(int, meets_back)),
            "compares": str(int(p.compares)),
            "width_of_gates": str(widths.engine_number(widths.gates)),
            "width": braces(map(widths.engine_number, widths.of_calls)),
            "factor": braces(map(widths.engine_number, widths.of_factors)),
            "width_of_input": braces(map(widths.engine_number, widths.of_inputs)),
            "functions": by_kind(lambda d: braces(functions_of(d, k + 1, k) for k in range(count))),
        }
        if p.early:
            of_early = widths.of_early
            early = [
                of_early.index(w) if w in of_early else -1
                for w in map(widths.root, widths.of_states)
            ]
            inner |= {
                "early": str(len(p.early)),
                "width_of_early": braces(map(widths.engine_number, of_early)),
                "early_of_state": braces(early),
                "early_functions": by_kind(
                    lambda d: braces(functions_of(d, k, k) for k in p.early)
                ),
            }
    fields = {
        "shape": f"{space}{struct_name('custom')}::shape",
        "inner": designated(inner),
        "functions": by_kind(lambda d: functions_of(d, 0, count)),
    }
    visible = '__attribute__((visibility("default")))'
    head = f'extern "C" {visible} const fused_lstm::CompiledCell fused_lstm_cell'
    return f"{head} = {designated(fields)};\n"


KINDS = "float32", "float64", "bfloat16"  # FactorKind of native/isa/kernels.h, those with cells


def braces(items: Iterable[object]) -> str:
    """Return an initializer."""
    return "{" + ", ".join(map(str, items)) + "}"


def designated(fields: dict[str, str]) -> str:
    """Return an initializer that names its fields, a line each."""
    return "{\n" + "".join(f"    .{name} = {text},\n" for name, text in fields.items()) + "}"


# --- a step and its backward ---


def struct(p: Program, name: str, facts: str, phase: int) -> str:
    """Return the struct of a cell, or of one of its phases.

    A step's work is in one loop over a tile's rows, or in two: the last of functions that wait for
    each other are in the second.
    """
    e, stored_in, first = p.expressions, p.stored_in, p.phases()
    known = p.saved_before(phase) | {n for n in p.numbers if first[n] <= phase}
    h_in, *states_in = p.results_in
    stores = [(n, f"after({k}, ") for k, n in enumerate(p.after) if states_in[k] == phase]
    stores += [(p.h, "h(")] * (h_in == phase)
    stores += [(n, f"save({k}, ") for k, n in enumerate(p.saved) if stored_in[n] == phase]
    stores += [(n, feed(p, k)) for k, n in p.feeds(phase)]
    order = e.order([n for n, _ in stores], known)
    loop = loops(e, order, known)
    nodes = [
        [n for n in order if loop[n] == k and e.operands(n) and n not in known] for k in (0, 1)
    ]
    nodes[1] = with_masks(e, nodes[1], set(nodes[0]))
    used = {o for n in nodes[1] for o in e.operands(n)} | {n for n, _ in stores if loop[n]}
    weights = [n for n in order if e.nodes[n][:2] == ("leaf", "weight")]
    numbers = [n for n in order if n in p.numbers]
    there = {*nodes[1], *weights, *numbers}
    crossing = [n for n in sorted(used) if n not in there and not is_const(e, n)]

    def body(k: int) -> list[str]:
        text = [f"const auto {var(p, n)} = row.crossing({i});" for i, n in enumerate(crossing) if k]
        text += [statement(p, n) for n in nodes[k]]
        text += [f"row.{store}{vector(p, n)});" for n, store in stores if loop[n] == k]
        if k == 0:
            text += [f"row.crossing({i}) = {var(p, n)};" for i, n in enumerate(crossing)]
        return text

    begins_with_number = phase > 0 and phase - 1 in p.sums
    sums = [len(p.gates.by_h), *(0 if k in p.sums else n for k, n in enumerate(p.inner))]
    text = [
        f"static constexpr CellShape shape{{{shape(p)}{facts}}};",
        f"static constexpr long sums = {0 if phase in p.early else sums[phase]};",
    ]
    others = {"products": len(p.inner), "phase": phase}
    others |= {"zoneout": int(p.zoneout), "crossing": len(crossing)}
    others |= {"numbers": len(p.numbers)}
    text += [f"static constexpr long {name} = {n};" for name, n in others.items() if n]
    text += function("step", [*leaf_lines(p, order, phase, known), *body(0)])
    if nodes[1]:
        found = leaf_lines(p, [n for n in order if n in used & {*weights, *numbers}], phase, known)
        text += function("finish", [*found, *body(1)])
    if begins_with_number:
        text += function("derive", derived(p, phase, first))
    text += function("back", backward(p, phase))
    lines = "".join(f"  {line}\n" if line else "\n" for line in text)
    return f"struct {name} : PrintedCell {{\n{lines}}};\n"


def feed(p: Program, k: int) -> str:
    """Return the beginning of what adds to a sum or a maximum."""
    name = "feed_maximum" if p.kinds[k] == MAXIMUM else "feed"
    return f"{name}({p.sums[k]}, "


def derived(p: Program, phase: int, first: list[int]) -> list[str]:
    """Return the statements that make numbers of a row of a phase's sum, and of earlier ones."""
    e = p.expressions
    made = [n for n, at in p.numbers.items() if first[n] == phase and at >= len(p.sums)]
    known = {n for n in p.numbers if n not in made}
    order = e.order(made, known)
    lines = leaf_lines(p, [n for n in order if n not in made], phase, known)
    lines += [statement(p, n) for n in order if e.operands(n) and n not in known]
    return lines + [f"row.leave({p.numbers[n]}, {vector(p, n)});" for n in made]


def works(p: Program, phase: int) -> bool:
    """Return whether a phase computes values of units."""
    return phase in (*p.results_in, *p.stored_in.values(), *p.fed_in.values())


def shape(p: Program) -> str:
    """Return the fields of a cell's CellShape."""
    fields = {
        "sums": len(p.gates.summed), "of_h": len(p.gates.of_h),
        "of_x": len(p.gates.of_x) - p.inputs, "saved": p.columns, "inputs": p.inputs,
        "states": len(p.states), "weights": len(p.weights),
    }  # fmt: skip
    text = [
        f".{name} = {n}" for name, n in fields.items() if n and not (name == "states" and n < 2)
    ]
    return ", ".join(text + [".c_is_h = true"] * (p.states in ((), ("h",))))


def function(name: str, lines: list[str]) -> list[str]:
    """Return the lines of a function of a row, S being the type of its sums."""
    head = ["", "template <class S, class Row>", f"FL_INLINE static void {name}(const Row& row) {{"]
    return [*head, *("  " + line for line in lines), "}"]


def leaf_lines(p: Program, order: list[int], phase: int, known: set[int]) -> list[str]:
    """Return the statements that load gates, states and weights, and what is known of a step."""
    lines, column = [], sum(p.inner[: phase - 1]) if phase else 0
    for n in order:
        op, *rest = p.expressions.nodes[n]
        if n in p.numbers:
            lines.append(f"const auto {var(p, n)} = row.number({p.numbers[n]});")
            continue
        if n in known:
            lines.append(f"const auto {var(p, n)} = row.saved({p.saved.index(n)});")
        if n in known or op != "leaf":
            continue
        kind, k = rest
        value = {
            "x": lambda k: of_x(p, p.gates.by_x.index(k)),
            "gate": lambda k: f"sum({p.gates.by_h.index(k)})",
            "h": lambda k: f"sum({p.gates.by_h.index(k)})",
            "product": lambda k: f"sum({k - column})",
            "state": lambda k: f"state({k})",
            "weight": lambda k: f"weight({k})",
            "zoneout": lambda _: "zoneout()",
            "share": lambda k: f"share({k})",
        }[kind](k)
        lines.append(f"const auto {var(p, n)} = row.{value};")
    return lines


def of_x(p: Program, gate: int) -> str:
    """Return what reads x's part of a gate, or an input; the inputs are the last gates."""
    first = len(p.gates.by_x) - p.inputs
    return f"x({gate})" if gate < first else f"input({gate - first})"


def backward(p: Program, phase: int) -> list[str]:
    """Return the statements that make the gradients of a phase."""
    e, last = p.expressions, len(p.inner)
    stores = gradients(p, phase)
    results = [n for n, _ in stores]

    def gradient(at: int) -> str:  # that comes to a phase
        if at in p.sums:
            return f"total({p.sums[at]})"
        return "by_h" if at == phase else f"arrived({at - 1})"

    places = {n: f"after({k})" for k, n in enumerate(p.after)}
    if not p.states:
        places[p.h] = "h()"
    places |= {n: f"saved({k})" for k, n in enumerate(p.saved)}
    places |= {n: f"number({k})" for n, k in p.numbers.items()}
    text = []
    for n in e.order(results, p.known):
        op, *rest = e.nodes[n]
        if n in places and op != "const":
            text.append(f"const auto {var(p, n)} = row.{places[n]};")
        elif op == "leaf":
            kind, k = rest
            value = {
                "state": f"state({k})", "weight": f"weight({k})", "zoneout": "zoneout()",
                "dh": gradient(last), "dfed": gradient(k), "dstate": f"by_after({k})",
                "share": f"share({k})",
            }[kind]  # fmt: skip
            text.append(f"const auto {var(p, n)} = row.{value};")
        elif op != "const":
            text.append(statement(p, n))
    hands_on = phase > 0 and phase not in (*p.sums, *p.early)
    text += [f"row.arrive({phase - 1});"] * hands_on
    return text + [f"row.{store}{vector(p, n)});" for n, store in stores]


def gradients(p: Program, phase: int) -> list[tuple[int, str]]:
    """Return the gradients that a phase makes, and the beginning of each one's store."""
    made, column = [], 0
    for product, count in enumerate(p.inner):
        if p.products_made_in[product] == phase:
            columns = p.dproducts[column : column + count]
            if product not in p.sums:
                made += [(n, f"by_product({product}, {j}, ") for j, n in enumerate(columns)]
            elif p.kinds[product] == SUM and columns[0] != p.expressions.absent:
                made.append((columns[0], f"feed({p.sums[product]}, "))
        column += count
    stores = [(n, f"by_state({k}, ") for k, n in enumerate(p.dstates)]
    gates = len(p.dgates) - p.inputs
    stores += [(n, f"by_gate({k}, ") for k, n in enumerate(p.dgates[:gates])]
    stores += [(n, f"by_input({k}, ") for k, n in enumerate(p.dgates[gates:])]
    stores += [(n, f"by_weight({k}, ") for k, n in enumerate(p.dweights)]
    return made + [store for store, at in zip(stores, p.made_in, strict=True) if at == phase]


def loops(e: Expressions, order: list[int], known: set[int]) -> dict[int, int]:
    """Return the loop, 0 or 1, of each node: the last of functions in a row is in the second."""
    depth: dict[int, int] = dict.fromkeys(known, 0)
    for n in order:
        if n in known:
            continue
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


# --- a node ---


def is_const(e: Expressions, n: int) -> bool:
    return e.value(n) is not None


def var(p: Program, n: int) -> str:
    """Return a node's variable, or its value where it is a constant."""
    value = p.expressions.value(n)
    return variable(p, n) if value is None else f"S({number(value)})"


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
    operands = [(var if op in INFIX else vector)(p, x) for x in args]
    text = operation(p, n, operands, f"{CALLS.get(op, op)}<S>", " + S(0)")
    if op == "where":
        text = f"{operands[0]} ? {operands[1]} : {operands[2]}"
    return f"const auto v{n} = {text};"
