"""Widths: how many units the values of a step have, where products inside it may change that.

Values that meet in an operation have as many. Those of h and of the states have hidden_size; gates,
and what a product makes, may have another number where none of theirs meets these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..call.spec import Units


class Refused(Exception):
    """A number of units that cannot be: what was given, and what was expected."""

    def __init__(self, got: str, expected: str) -> None:
        super().__init__(got, expected)
        self.got, self.expected = got, expected


class Widths:
    """Tells which values of a step have as many units, since they meet in an operation.

    Numbers stand for widths: `h`, that of h and the states, `gates`, and k + 2 for product k; then
    those of weights of a unit, and of inputs. Equal widths have one `root`, the least.

    Args:
        p: a Program.
    """

    h, gates = 0, 1

    def __init__(self, p: Any) -> None:
        e, products = p.expressions, 2 + len(p.inner)
        of_column = [2 + k for k, count in enumerate(p.inner) for _ in range(count)]
        of_sum = {k: products + len(p.weights) + p.inputs + j for k, j in p.sums.items()}
        self.of_calls = [of_sum.get(k, 2 + k) for k in range(len(p.inner))]
        self.of_weights = [products + k for k in range(len(p.weights))]
        inputs = products + len(p.weights)
        first_input = len(p.gates.names) - p.inputs
        self._of_gate = [
            inputs + k - first_input if k >= first_input else self.gates for _, k in p.gates.columns
        ]
        self._of = list(range(inputs + p.inputs + len(p.sums)))
        self.of_node: dict[int, int] = {}
        gates = dict(zip(p.gates.columns, self._of_gate, strict=True))
        for n, (op, *rest) in enumerate(e.nodes):  # what no result needs, too: a loop computes it
            if op == "leaf":
                kind, k = rest
                # The gradient by a factor is as wide as this; a number of a row has no width.
                is_sum = kind == "product" and of_column[k] - 2 in p.sums
                if kind in ("dfed", "share") or is_sum:
                    continue
                of = {"weight": self.of_weights, "product": of_column}
                self.of_node[n] = of[kind][k] if kind in of else gates.get((kind, k), self.h)
                continue
            found = [self.of_node[o] for o in e.operands(n) if o in self.of_node]
            for other in found[1:]:
                self._join(found[0], other)
            if found:  # else a constant, as wide as anything
                self.of_node[n] = found[0]
        for n in (p.h, *p.after):
            if n in self.of_node:
                self._join(self.h, self.of_node[n])
        for k in p.sums:  # behind which there is what the next one is of
            following = p.fed[k + 1] if k + 1 < len(p.fed) else p.h
            self._join(self.of_calls[k], self.of_node.get(following, self.h))
        self.of_node = {n: self.root(width) for n, width in self.of_node.items()}
        self.of_factors = [self.of_node.get(n, self.h) for n in p.fed]
        self._products, self.of_inputs = products, range(inputs, inputs + p.inputs)

    def told(self, width: int) -> int:
        """Return the number of a width for an engine: of h, of gates, or of a product.

        A weight or an input that meets nothing else is as wide as h.
        """
        root = self.root(width)
        return root if root < self._products else self.h

    def of_phase(self, phase: int) -> int:
        """Return the width of a phase's values."""
        return self.root(self.of_calls[phase - 1] if phase else self.gates)

    def of_gate(self, column: int) -> int:
        """Return the width of a part of a gate, as in `Gates.columns`."""
        return self.root(self._of_gate[column])

    def root(self, width: int) -> int:
        """Return the least of the widths that equal this one."""
        while self._of[width] != width:
            width = self._of[width]
        return width

    def _join(self, a: int, b: int) -> None:
        least, other = sorted((self.root(a), self.root(b)))
        self._of[other] = least


def units_of(p: Any, names: Mapping[str, int], told: Mapping[str, Any], hidden_size: int) -> Units:
    """Return how many units values of a step have.

    Args:
        names: of gates and products: name -> the number of its width, as in `Widths`.
        told: names -> how many units. The widths of others are hidden_size.

    Raises:
        Refused: a name or a number cannot be.
    """
    width, last = p.widths, len(p.inner)
    factors = width.of_factors
    found = {width.h: hidden_size}
    for name, units in told.items():
        if name not in names:
            raise Refused(repr(name), ", ".join(names) or "none: it has no products")
        if isinstance(units, bool) or not isinstance(units, int) or units < 1:
            raise Refused(f"{units!r} for {name}", "a positive number")
        root = width.root(names[name])
        if found.setdefault(root, units) != units:
            meets = "h" if root == width.h else "another with that number"
            raise Refused(f"{units} for {name}", f"{found[root]}, since {name} meets {meets}")
        if root not in (width.h, *factors):
            raise Refused(repr(name), "a name whose value h depends on")

    def of(number: int) -> int:
        return found.get(width.root(number), hidden_size)

    phases = [width.of_phase(k) for k in range(1 + last)]  # what each begins with
    if of(phases[last]) != hidden_size:
        raise Refused(f"{of(phases[last])} for the last product", f"hidden_size, {hidden_size}")
    for k, n in enumerate(p.fed):
        beside = of(phases[p.fed_in[k] if k in p.sums else p.stored_in[n]])
        if of(factors[k]) != beside:
            got = f"{of(factors[k])} for what product {k} is of"
            raise Refused(got, f"{beside}, as what it is computed beside")
    for k, number in enumerate(phases[1:]):  # a phase of the backward has its gradients' width
        if k in p.sums:
            by_sum = width.of_node.get(p.dproducts[sum(p.inner[:k])])
            beside = of([*factors, width.h][p.products_made_in[k]])
            if by_sum is not None and of(by_sum) != beside:
                raise Refused(f"{of(by_sum)} for what sum {k} is read by", f"{beside}")
            continue
        later = width.root(number) in (width.h, *map(width.root, factors[k + 1 :]))
        if not later and of(number) != hidden_size:
            name = next(n for n, of_name in names.items() if of_name == width.of_calls[k])
            raise Refused(
                f"{of(number)} for {name}", f"hidden_size, {hidden_size}: nothing reads it"
            )
    inputs = tuple(of(width.root(number)) for number in width.of_inputs)
    products = [of(width.of_calls[k]) for k in p.matrices]
    multiplied = tuple(of(factors[k]) for k in p.matrices)
    return Units(of(width.gates), tuple(products), multiplied, inputs)
