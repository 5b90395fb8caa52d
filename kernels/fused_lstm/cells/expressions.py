"""Expressions of a cell, each once: what the traced functions become, and what is printed.

A node is an operation and the numbers of its operands, which are lower than its own. There are some
thirty operations; `trace.aten` says which of PyTorch's operators become which.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

# Functions that take a CPU or a GPU many instructions.
HEAVY = {
    "exp", "expm1", "log", "log1p", "sqrt", "sigmoid", "log_sigmoid", "tanh", "elu", "sin", "cos",
    "erf",
}  # fmt: skip
# Operations whose result is true or false.
MASKS = {"lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not"}
FOLD: dict[str, Callable[..., float]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv,
    "neg": operator.neg, "max": max, "min": min, "lt": operator.lt, "le": operator.le,
    "gt": operator.gt, "ge": operator.ge, "eq": operator.eq, "ne": operator.ne,
    "not": operator.not_,
}  # fmt: skip


class CannotExpress(Exception):
    """An operation of a function that no kernel can have; the message says which.

    expected: what a function may have instead.
    """

    def __init__(
        self, got: str, expected: str = "elementwise operations of a unit's own numbers"
    ) -> None:
        super().__init__(got)
        self.expected = expected


class Expressions:
    """A table of nodes: ("const", value), ("leaf", kind, index) or (operation, operands...).

    `absent` is the 0 of a gradient that does not exist: a product with it is not there either.
    """

    def __init__(self) -> None:
        self.nodes: list[tuple] = []
        self._numbers: dict[tuple, int] = {}
        self.absent = self.node("const", 0.0, "absent")  # a gradient that does not exist

    def node(self, *node: Any) -> int:
        """Return the number of a node, a new one or the one that is there."""
        key = (*node, str(node[1])) if node[0] == "const" else node  # 0.0 and -0.0 differ
        if key not in self._numbers:
            self._numbers[key] = len(self.nodes)
            self.nodes.append(node)
        return self._numbers[key]

    def const(self, value: float) -> int:
        """Return the number of a constant."""
        return self.node("const", float(value))

    def value(self, n: int) -> float | None:
        """Return the value of node n where it is a constant, else None."""
        op, *rest = self.nodes[n]
        return rest[0] if op == "const" else None

    def operands(self, n: int) -> tuple[int, ...]:
        """Return the numbers of the operands of node n."""
        op, *rest = self.nodes[n]
        return () if op in ("const", "leaf") else tuple(rest)

    def is_mask(self, n: int) -> bool:
        """Return whether node n is true or false."""
        return self.nodes[n][0] in MASKS

    def make(self, op: str, *args: int) -> int:
        """Return the number of an operation's result, simplified where that changes no value.

        A product with a function's own 0 stays: that with infinity is not 0.
        """
        if op in ("mul", "div", "neg") and self.absent in args[: 1 + (op == "mul")]:
            return self.absent
        values = [self.value(a) for a in args]
        divides_by_zero = op == "div" and values[-1] == 0
        if op in FOLD and None not in values and not divides_by_zero:
            return self.const(FOLD[op](*values))
        a, b = args[0], args[-1]
        left, right = (self._negated(n) for n in (a, b))
        if op in ("add", "mul") and a > b:
            return self.make(op, b, a)
        if (op in ("add", "sub") and values[-1] == 0) or (op in ("mul", "div") and values[-1] == 1):
            return a
        if (op == "add" and values[0] == 0) or (op == "mul" and values[0] == 1):
            return b
        if (op == "sub" and values[0] == 0) or (op == "mul" and values[0] == -1):
            return self.make("neg", b)
        if op == "neg" and left is not None:
            return left
        if op in ("mul", "div") and left is not None:
            return self.make("neg", self.make(op, left, b))
        if op in ("mul", "div") and right is not None:
            return self.make("neg", self.make(op, a, right))
        if op in ("add", "sub") and right is not None:
            return self.make("sub" if op == "add" else "add", a, right)
        if op == "add" and left is not None:
            return self.make("sub", b, left)
        if op == "where" and (args[1] == args[2] or values[0] is not None):
            return args[1] if values[0] != 0 else args[2]
        if op == "where" and self.absent in args[1:] and values[1:] == [0, 0]:
            return self.absent
        if op in ("and", "or") and (values[0] is not None or values[-1] is not None):
            decided, other = (values[0], b) if values[0] is not None else (values[-1], a)
            return other if bool(decided) == (op == "and") else self.const(bool(decided))
        return self.node(op, *args)

    def _negated(self, n: int) -> int | None:
        """Return x where node n is -x."""
        op, *rest = self.nodes[n]
        return rest[0] if op == "neg" else None

    def rounded(self) -> set[int]:
        """Return the products that are added to, or taken from, a sum that has them too.

        Compilers add a product before it is rounded: they make one instruction of both. So
        `soft + (hard - soft)` would not be `hard` where `soft` is a product: the inner `soft` would
        be rounded and the outer one not.
        """
        found = set()
        for op, *args in self.nodes:
            if op in ("add", "sub"):
                a, b = (self._terms(n) for n in args)
                found |= {n for n in a & b if self.nodes[n][0] == "mul"}
        return found

    def _terms(self, n: int) -> set[int]:
        """Return the terms of node n where it is a sum, else the node."""
        seen, stack = set(), [n]
        while stack:
            n = stack.pop()
            if n not in seen:
                seen.add(n)
                stack += self.operands(n) if self.nodes[n][0] in ("add", "sub", "neg") else ()
        return seen

    def order(self, roots: Iterable[int], known: Iterable[int] = ()) -> list[int]:
        """Return the nodes that `roots` need, operands first; those of `known` need nothing."""
        needed, stack, known = set(), list(roots), set(known)
        while stack:
            n = stack.pop()
            if n not in needed:
                needed.add(n)
                stack += () if n in known else self.operands(n)
        return sorted(needed)
