"""Widths: how many units the values of a step have, where products inside it may change that.

Values that meet in an operation have as many. Those of h have hidden_size; gates, states and what a
product makes may have another number where none of theirs meets h.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..call.spec import Units


class Refused(Exception):
    """A number of units that cannot be: what was given, and what was expected."""

    def __init__(self, got: str, expected: str) -> None:
        super().__init__(got, expected)
        self.got, self.expected = got, expected


class Widths:
    """Tells which values of a step have as many units, since they meet in an operation.

    Numbers stand for widths: `h`, `gates`, and k + 2 for what product k makes; then those of
    weights of a unit, of inputs, of sums, and of states. Equal widths have one `root`, the least. A
    state that no product reads or makes is as wide as h.

    Args:
        p: a Program.
    """

    h, gates = 0, 1

    def __init__(self, p: Any) -> None:
        products, self._matrices = 2 + len(p.inner), p.matrices
        inputs = products + len(p.weights)
        states = inputs + p.inputs + len(p.sums)
        of_sum = {k: inputs + p.inputs + j for k, j in p.sums.items()}
        first_input = len(p.gates.names) - p.inputs
        self.of_calls = [of_sum.get(k, 2 + k) for k in range(len(p.inner))]
        self.of_weights, self.of_inputs = range(products, inputs), range(inputs, inputs + p.inputs)
        self.of_states = range(states, states + len(p.states))
        self._of_gate = [
            inputs + k - first_input if k >= first_input else self.gates for _, k in p.gates.columns
        ]
        self._products, self._of = products, list(range(states + len(p.states)))
        self._join_operands(p)
        self.of_results = [self.h, *self.of_states]
        self._join_results(p)
        self._join_untold(p)
        self.of_node = {n: self.root(width) for n, width in self.of_node.items()}
        self.of_factors = [self.of_node.get(n, self.h) for n in p.fed]
        # Widths of states that are not h's.
        of_states = dict.fromkeys(map(self.root, self.of_states))
        self.of_early = [width for width in of_states if width != self.h]
        factors = {self.root(self.of_factors[k]): k for k in reversed(p.matrices)}
        phases = {*self.of_early, *map(self.root, (self.gates, *self.of_calls))}
        self._factors = {root: k for root, k in factors.items() if root in phases}

    def _join_operands(self, p: Any) -> None:
        """Make the widths of an operation's operands one, and find that of each node."""
        e, sums = p.expressions, set(p.sums)
        of_column = [k for k, count in enumerate(p.inner) for _ in range(count)]
        gates = dict(zip(p.gates.columns, self._of_gate, strict=True))
        of_leaf = {
            "weight": self.of_weights, "state": self.of_states, "dstate": self.of_states,
            "product": [2 + k for k in of_column], "zoneout": self.of_states[:1] or [self.h],
        }  # fmt: skip
        self.of_node: dict[int, int] = {}
        for n, (op, *rest) in enumerate(e.nodes):  # what no result needs, too: a loop computes it
            if op == "leaf":
                kind, k = rest
                # The gradient by a factor is as wide as this; a number of a row has no width.
                is_sum = kind == "product" and of_column[k] in sums
                if kind in ("dfed", "share") or is_sum:
                    continue
                of = of_leaf[kind][k] if kind in of_leaf else gates.get((kind, k), self.h)
                self.of_node[n] = of
                continue
            found = [self.of_node[o] for o in e.operands(n) if o in self.of_node]
            for other in found[1:]:
                self._join(found[0], other)
            if found:  # else a constant, as wide as anything
                self.of_node[n] = found[0]

    def _join_results(self, p: Any) -> None:
        """Make a state before a step as wide as after it, and a sum as what its phase computes."""
        results = [*zip((p.h, *p.after), self.of_results, strict=True)]
        for n, width in results:
            if n in self.of_node:
                self._join(width, self.of_node[n])
        for name, width in zip(p.states, self.of_states, strict=True):
            if name == "h":
                self._join(self.h, width)
        first = p.phases()
        for k in p.sums:  # behind which there is what the next one is of, or a result
            stored = [width for n, width in results if first[n] == k + 1]
            following = stored[0] if stored else self.h
            if k + 1 < len(p.fed):
                following = self.of_node.get(p.fed[k + 1], self.h)
            self._join(self.of_calls[k], following)

    def _join_untold(self, p: Any) -> None:
        """Make widths h's that no weight's shape tells, or that nothing reads."""
        if self.gates not in self._of_gate:
            self._join(self.h, self.gates)
        factors = [self.of_node.get(n, self.h) for n in p.fed]
        of_weights = [self.h]  # widths that a weight's shape tells
        for k in p.matrices:
            of_weights += [self.gates, 2 + k, factors[k]]
        roots = {*map(self.root, of_weights)}
        for width in self.of_states:
            if self.root(width) not in roots:
                self._join(self.h, width)
        of_states = [*map(self.root, self.of_states)]
        for k in p.matrices:
            later = map(self.root, factors[k + 1 :])
            if self.root(2 + k) not in (self.h, *of_states, *later):
                self._join(self.h, 2 + k)

    def engine_number(self, width: int) -> int:
        """Return the number of a width for an engine: of h, of gates, or of what a product makes.

        One that product k alone tells, by what it multiplies, is -1 - k. A weight or an input that
        meets nothing else is as wide as h.
        """
        root = self.root(width)
        if root >= self._products and root in self._factors:
            return -1 - self._factors[root]
        return root if root < self._products else self.h

    def sizes(self, hidden_size: int, units: Units) -> Callable[[int], int]:
        """Return a function that tells how many units a width has, by its number."""
        numbers = [*(self.of_factors[k] for k in self._matrices), *(2 + k for k in self._matrices)]
        sizes = dict(zip(map(self.root, numbers), [*units.factors, *units.products], strict=True))
        sizes |= {self.root(self.gates): units.gates, self.h: hidden_size}
        return lambda number: sizes.get(self.root(number), hidden_size)

    def of_phase(self, phase: int) -> int:
        """Return the width of a phase's values."""
        if phase > len(self.of_calls):
            return self.of_early[phase - len(self.of_calls) - 1]
        return self.root(self.of_calls[phase - 1] if phase else self.gates)

    @property
    def of_phases_back(self) -> list[int]:
        """Return the widths of the backward's phases, in the order of their numbers."""
        return [*map(self.root, self.of_factors), self.h, *self.of_early]

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
        names: of values: name -> the number of its width, as in `Widths`.
        told: names -> how many units. The widths of others are hidden_size.

    Raises:
        Refused: a name or a number cannot be.
    """
    width = p.widths
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
        if root not in (width.h, *factors, *width.of_early):
            raise Refused(repr(name), "a name whose value h depends on")
        if root in width.of_early and units > hidden_size:
            expected = f"at most hidden_size, {hidden_size}, as of all states"
            raise Refused(f"{units} for {name}", expected)

    def of(number: int) -> int:
        return found.get(width.root(number), hidden_size)

    def in_phase(k: int) -> int:
        return of(width.of_phase(k))

    for name, number, k in zip(("h", *p.states), width.of_results, p.results_in, strict=True):
        if of(number) != in_phase(k):
            raise Refused(f"{of(number)} for {name}", f"{in_phase(k)}, as what it is made of")
    for k, n in enumerate(p.fed):
        beside = in_phase(p.fed_in[k] if k in p.sums else p.stored_in[n])
        if of(factors[k]) != beside:
            got = f"{of(factors[k])} for what product {k} is of"
            raise Refused(got, f"{beside}, as what it is computed beside")
    for k in p.sums:  # a phase of the backward has its gradients' width
        by_sum = width.of_node.get(p.dproducts[sum(p.inner[:k])])
        beside = of(width.of_phases_back[p.products_made_in[k]])
        if by_sum is not None and of(by_sum) != beside:
            raise Refused(f"{of(by_sum)} for what sum {k} is read by", f"{beside}")
    inputs = tuple(of(width.root(number)) for number in width.of_inputs)
    products = tuple(of(width.of_calls[k]) for k in p.matrices)
    multiplied, gates = tuple(of(factors[k]) for k in p.matrices), of(width.gates)
    narrow = gates == hidden_size == max((gates, *products, *multiplied, *inputs))
    return Units(gates, products, multiplied, inputs, narrow)
