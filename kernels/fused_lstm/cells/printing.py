"""Variables and operations of a cell's programs, as every printer writes them."""

from __future__ import annotations

from collections.abc import Sequence

from .program import Program

INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "eq": "==", "ne": "!=", "and": "&", "or": "|",
}  # fmt: skip


def variable(p: Program, n: int) -> str:
    """Return the variable of a node that is no constant."""
    op, *rest = p.expressions.nodes[n]
    if op != "leaf":
        return f"v{n}"
    kind, k = rest
    if kind in ("gate", "x", "h"):
        return f"gate_{p.gates.column_name((kind, k))}"
    if kind in ("dh", "zoneout"):
        return kind
    if kind in ("product", "dfed", "share"):
        return f"{kind}_{k}"
    return f"{kind}_{p.weights[k] if kind == 'weight' else p.states[k]}"


def operation(p: Program, n: int, names: Sequence[str], call: str, zero: str = "") -> str:
    """Return what computes a node of operands called `names`.

    call: what calls the operation, where it is a function. zero: added to a product that has to be
    rounded, which the sum then takes as it is: see `Expressions.rounded`.
    """
    op = p.expressions.nodes[n][0]
    if op in INFIX:
        return f"{names[0]} {INFIX[op]} {names[1]}" + zero * (n in p.rounded)
    if op in ("neg", "not"):
        return f"{'-' if op == 'neg' else '~'}{names[0]}"
    return f"{call}({', '.join(names)})"
