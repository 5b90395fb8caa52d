"""A cell's programs as Python, for a reader: what a step computes, saves, and its backward."""

from __future__ import annotations

from .expressions import HEAVY
from .printing import operation
from .program import Program
from .sums import PRODUCT

CALLS = {
    "max": "torch.maximum", "min": "torch.minimum", "elu": "F.elu", "log_sigmoid": "F.logsigmoid",
}  # fmt: skip


def text(p: Program, name: str) -> str:
    """Return a cell's description: gates, states, what a step saves and why, and both programs."""
    e = p.expressions
    lines = [f"cell {name}"]
    lines.append(f"gates: {', '.join(gate(p, name) for name in p.gates.names)}")
    lines.append(f"states: {', '.join(p.states) or 'none'}")
    if p.weights:
        lines.append(f"weights of a unit: {', '.join(p.weights)}")
    lines += ["", "# A step."]
    lines += step(p)
    lines.append(f"h = {named(p, p.h)}")
    lines += [f"{s} = {named(p, n)}" for s, n in zip(p.states, p.after, strict=True)]
    lines += [
        "",
        f"# Saved for the backward, in addition to the states: {len(p.saved)} numbers per unit.",
    ]
    lines += [f"{named(p, n)}  # {why(p, n)}" for n in p.saved]
    lines += [f"{named(p, n)}  # a number of a row" for n in p.numbers]
    lines += [
        "",
        "# Its backward: by_h is the gradient with respect to h, by_next_s to the next s.",
    ]
    order = e.order([*p.dproducts, *p.dgates, *p.dstates, *p.dweights], p.known)
    lines += [f"v{n} = {expression(p, n)}" for n in order if e.operands(n) and n not in p.known]
    lines += [f"dproduct_{j} = {named(p, n)}" for j, n in enumerate(p.dproducts)]
    for column, n in zip(p.gates.columns, p.dgates, strict=True):
        lines.append(f"d{p.gates.column_name(column)} = {named(p, n)}")
    lines += [f"d{s} = {named(p, n)}" for s, n in zip(p.states, p.dstates, strict=True)]
    lines += [f"d{w} += {named(p, n)}" for w, n in zip(p.weights, p.dweights, strict=True)]
    return "\n".join(lines) + "\n"


def step(p: Program) -> list[str]:
    """Return the statements of a step, with the products that divide it into phases."""
    e, known, lines, column = p.expressions, set(), [], 0
    for k in (*p.early, *range(len(p.inner) + 1)):
        last = k == len(p.inner)
        order = e.order([*p.results_of(k), *(p.saved if last else ())], known)
        lines += [f"v{n} = {expression(p, n)}" for n in order if e.operands(n) and n not in known]
        known |= {*order}
        if k < len(p.inner):
            columns = [f"product_{column + j}" for j in range(p.inner[k])]
            kind = f"product {k}" if p.kinds[k] == PRODUCT else f"the {p.kinds[k]}"
            lines.append(f"{', '.join(columns)} = {kind} of {named(p, p.fed[k])}")
            column += p.inner[k]
    return lines


def gate(p: Program, name: str) -> str:
    """Return a gate's name and the products that it is a sum of, where these are not both."""
    if name in p.gates.apart:
        return f"({name} by x, {name} by h)"
    alone = {"x": p.gates.x_only, "h": p.gates.h_only}
    return name + "".join(f" (of {part} alone)" for part, names in alone.items() if name in names)


def why(p: Program, n: int) -> str:
    """Return why a step saves a node."""
    op = p.expressions.nodes[n][0]
    if n in p.fed:
        return "what a product inside the step multiplies, or a maximum is of"
    if op == "leaf":
        return "what comes out of the products is nowhere else"
    if op in HEAVY:
        return f"{op} is not computed twice"
    return "one column in place of the several that it is made of"


def named(p: Program, n: int) -> str:
    """Return a node's name, or its value where it is a constant."""
    op, *rest = p.expressions.nodes[n]
    if op == "const":
        return repr(rest[0])
    if op != "leaf":
        return f"v{n}"
    kind, k = rest
    if kind in ("product", "dfed", "share"):
        words = {"product": "product_{}", "dfed": "by_what_product_{}_is_of",
                 "share": "1_over_units_of_{}"}  # fmt: skip
        return words[kind].format(k)
    if kind in ("dh", "zoneout"):
        return {"dh": "by_h"}.get(kind, kind)
    if kind in ("gate", "x", "h"):
        return p.gates.column_name((kind, k))
    name = p.weights[k] if kind == "weight" else p.states[k]
    return f"by_next_{name}" if kind == "dstate" else name


def expression(p: Program, n: int) -> str:
    """Return what computes a node."""
    op, *args = p.expressions.nodes[n]
    names = [named(p, x) for x in args]
    return operation(p, n, names, CALLS.get(op, f"torch.{op}"))
