"""Expressions of unit vectors: what a step computes, read from its places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph as FxGraph

from ..cells.sums import SUM
from .capture import GETITEM, Node, OfBatch, name_of
from .parts import BEFORE, FILLS, FIXED, ONCE, STEP
from .places import ELEMENTWISE, KINDS, MOVES, NoCell, Places

MULTIPLY = FxGraph().call_function(torch.ops.aten.mul.Tensor)
# Places: (first, count) in a row; (first, count, 0), one place count times; or all of them and -1.
Stretch = tuple[int, ...]


@dataclass(frozen=True)
class State:
    """Units lo to hi of a leaf of the state before the step."""

    leaf: int
    lo: int
    hi: int


@dataclass(frozen=True)
class Outer:
    """A value that no state has a part in: of weights, or of x."""

    places: Stretch
    of_x: bool


@dataclass(frozen=True, eq=False)
class Op:
    """An elementwise operation on units lo to hi of a node; args: expressions, Const, tuples."""

    node: Node
    lo: int
    hi: int
    args: tuple[Any, ...]


@dataclass(frozen=True)
class Const:
    """A number, or another argument of an operator."""

    value: Any


@dataclass(frozen=True)
class Block:
    """Rows r0 to r1 and columns c0 to c1 of a product's second factor."""

    node: Node
    r0: int
    r1: int
    c0: int
    c1: int


@dataclass(frozen=True)
class Column:
    """A unit vector of the step times a block of a weight."""

    factor: Any
    block: Block


@dataclass(frozen=True)
class Linear:
    """Places of x times a block of a weight, whose rows are told for each stretch."""

    source: tuple[Stretch, ...]
    node: Node
    rows: tuple[tuple[int, int], ...]
    c0: int
    c1: int


@dataclass(frozen=True, eq=False)
class Sum:
    """A sum of Column, Linear, Outer and other expressions."""

    terms: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Total:
    """One number of a row: the sum or the maximum of a unit vector's units."""

    kind: str
    value: Any


class Reader:
    """Reads expressions of unit vectors from places."""

    def __init__(self, places: Places, sinks: bool = False) -> None:
        self.places, self.parts, self.graph = places, places.parts, places.graph
        self.sinks = sinks
        self._known: dict[tuple, Any] = {}
        self._totals: dict[tuple, Any] = {}
        self._state = {n: k for k, n in enumerate(self.graph.state)}

    def vectors(self, n: Node) -> list[tuple[int, int, Any]]:
        """Return a value's unit vectors: lo, hi, an expression."""
        flat = self.places.of[n].reshape(-1)
        return [(lo, hi, self.at(flat[lo:hi])) for lo, hi in self.places.stretches(flat)]

    def at(self, places: Tensor) -> Any:
        """Return the expression of a stretch of places."""
        key = stretch_of(places)
        if key not in self._known:
            self._known[key] = self._read(places, key)
        return self._known[key]

    def _read(self, places: Tensor, key: tuple[int, ...]) -> Any:
        first = int(places[0])
        n = self.places.node_at(first)
        part = self.parts.of[n]
        if part != STEP:
            if name_of(n) in FILLS and n.op == "call_function":
                return Const(filled(n))
            if name_of(n) == "scalar_tensor":
                return Const(n.args[0])
            if self.sinks and part == BEFORE and len(key) == 2 and self._sinks(n):
                return self._op(n, first - self.places.base[n], len(places))
            return Outer(key, not self.parts.is_weight(n))
        if len(key) == 3:
            return self._spread(n, first, len(places))
        if len(key) != 2:
            raise NoCell(f"numbers of {name_of(n) or 'a state'!r} that are spread over units")
        if n in self.places.summed:
            raise NoCell(f"torch's operator {name_of(n)!r}, whose results are units")
        lo = first - self.places.base[n]
        hi = lo + len(places)
        if n in self._state:
            return State(self._state[n], lo, hi)
        name = name_of(n)
        if name in FILLS:
            return Const(filled(n))
        if name in ("mm", "addmm"):
            return self._product(n, lo, hi)
        return self._op(n, lo, hi - lo)

    def _sinks(self, n: Node) -> bool:
        """Return whether an operation on x alone may be done in the step: on products of x."""
        if n.op != "call_function" or self.parts.of[n] in (ONCE, FIXED):
            return self.parts.of[n] == ONCE
        if name_of(n) in ("mm", "addmm"):
            return self.parts.is_weight(n.args[-1])
        moves = name_of(n) in MOVES or n.target is GETITEM
        known = moves or (name_of(n) in ELEMENTWISE and isinstance(self.places.of[n], Tensor))
        return (
            known
            and all(self._sinks(o) for o in n.all_input_nodes)
            and (moves or any(self.parts.of[o] == BEFORE for o in n.all_input_nodes))
        )

    def _op(self, n: Node, lo: int, width: int) -> Any:
        """Return an operation on units lo to lo + width of a value."""
        if name_of(n) in ("mm", "addmm"):
            return Outer((self.places.base[n] + lo, width), True)
        out, name = self.places.of[n], name_of(n)
        if isinstance(out, list):
            out = out[0]
            if not lo < out.numel():
                raise NoCell(f"torch's operator {name!r}, which has several results")

        def argument(a: Any) -> Any:
            if isinstance(a, Node):
                value = self.places.broadcast(a, n, out).reshape(-1)
                return self.at(value[lo : lo + width])
            if isinstance(a, tuple | list):
                return tuple(argument(b) for b in a)
            if isinstance(a, OfBatch):
                raise NoCell(f"torch's operator {name!r} with the batch size as a number")
            return Const(a)

        return Op(n, lo, lo + width, tuple(argument(a) for a in n.args))

    def _spread(self, n: Node, place: int, width: int) -> Any:
        """Return one number of the step, a sum over units or of such, for each of some units."""
        at = place - self.places.base[n]
        if n in self.places.summed:
            group = self.places.summed[n][at]
            return self._total(n, tuple(group.tolist()), group)
        if name_of(n) in ("mm", "addmm"):
            return self._dot_product(n, at, width)
        if n in self._state:
            if (n, at) not in self._totals:
                self._totals[n, at] = Total(SUM, State(self._state[n], at, at + 1))
            return self._totals[n, at]
        out = self.places.of[n]
        out = out[0] if isinstance(out, list) else out

        def argument(a: Any) -> Any:
            if isinstance(a, Node):
                value = self.places.broadcast(a, n, out).reshape(-1)
                return self.at(value[at : at + 1].expand(width).clone())
            return tuple(argument(b) for b in a) if isinstance(a, tuple | list) else Const(a)

        return Op(n, at, at + width, tuple(argument(a) for a in n.args))

    def _total(self, n: Node, key: tuple[int, ...], group: Tensor) -> Any:
        """Return a sum or a maximum of the units at some places, each once."""
        if (n, key) not in self._totals:
            kind = KINDS[name_of(n)]
            by_width: dict[int, list[Any]] = {}
            for lo, hi in self.places.stretches(group):
                by_width.setdefault(hi - lo, []).append(self.at(group[lo:hi]))
            if kind != SUM and sum(map(len, by_width.values())) > 1:
                raise NoCell(f"torch's operator {name_of(n)!r} of several vectors of units")
            parts = [
                Total(kind, several[0] if len(several) == 1 else Sum(tuple(several)))
                for several in by_width.values()
            ]
            self._totals[n, key] = parts[0] if len(parts) == 1 else Sum(tuple(parts))
        return self._totals[n, key]

    def _dot_product(self, n: Node, at: int, width: int) -> Any:
        """Return one number of a product for each of some units: sums over the factor's units."""

        def term(factor: Tensor, r0: int, r1: int) -> Any:
            if (n, at, r0) not in self._totals:
                column = self.at(self.places.of[n.args[-1]][r0:r1, at])
                value = Op(MULTIPLY, 0, r1 - r0, (self.at(factor), column))
                self._totals[n, at, r0] = Total(SUM, value)
            return self._totals[n, at, r0]

        return self._terms_of(n, at, at + 1, width, term)

    def _product(self, n: Node, lo: int, hi: int) -> Any:
        def term(factor: Tensor, r0: int, r1: int) -> Any:
            return Column(self.at(factor), Block(n.args[-1], r0, r1, lo, hi))

        return self._terms_of(n, lo, hi, hi - lo, term)

    def _terms_of(self, n: Node, lo: int, hi: int, width: int, term: Callable) -> Sum:
        """Return columns lo to hi of a product as a sum; one column may be spread to a width.

        term: (places of the step, r0, r1) -> their product with the second factor's rows r0 to r1.
        """
        a, weight = n.args[-2], n.args[-1]
        flat = self.places.of[a].reshape(-1)
        terms: list[Any] = []
        if n.target is not torch.ops.aten.mm.default:
            if n.kwargs:
                raise NoCell("torch's operator 'addmm' with factors")
            bias = torch.broadcast_to(self.places.of[n.args[0]], self.places.of[n].shape)
            terms.append(self.at(bias.reshape(-1)[lo:hi].expand(width)))
        source, rows = [], []
        for r0, r1 in self.places.stretches(flat):
            places = flat[r0:r1]
            if bool(self.places.is_step(places[:1])[0]):
                terms.append(term(places, r0, r1))
            else:
                for q0, q1 in runs_of(places):
                    source.append(stretch_of(places[q0:q1]))
                    rows.append((r0 + q0, r0 + q1))
        if source:
            terms.append(Linear(tuple(source), weight, tuple(rows), lo, hi))
        return Sum(tuple(terms))

    def linear_of(self, outer: Outer) -> list[Any] | None:
        """Return the terms of a value of x that is a sum of products, or None."""
        if not outer.of_x:
            return [outer]
        if len(outer.places) != 2:
            return None
        first, width = outer.places
        n = self.places.node_at(first)
        lo, name = first - self.places.base[n], name_of(n)
        if n.op != "call_function":
            return None
        if name in ("mm", "addmm") and self.parts.is_weight(n.args[-1]) and not n.kwargs:
            flat = self.places.of[n.args[-2]].reshape(-1)
            runs = runs_of(flat)
            source = tuple(stretch_of(flat[a:b]) for a, b in runs)
            terms: list[Any] = [Linear(source, n.args[-1], tuple(runs), lo, lo + width)]
            if name == "addmm":
                bias = torch.broadcast_to(self.places.of[n.args[0]], self.places.of[n].shape)
                terms += self._outer_terms(bias.reshape(-1)[lo : lo + width]) or [None]
            return None if None in terms else terms
        if name == "add" and n.kwargs.get("alpha", 1) == 1 and len(n.args) == 2:
            terms = []
            for a in n.args:
                if not isinstance(a, Node):
                    return None
                value = self.places.broadcast(a, n, self.places.of[n]).reshape(-1)
                more = self._outer_terms(value[lo : lo + width])
                if more is None:
                    return None
                terms += more
            return terms
        return None

    def _outer_terms(self, places: Tensor) -> list[Any] | None:
        value = self.at(places)
        return self.linear_of(value) if isinstance(value, Outer) else None


def filled(n: Node) -> float:
    """Return the number that a node fills a tensor with."""
    name = name_of(n)
    if "full" in name:
        return float(n.args[1] if name != "new_full" else n.args[2])
    return 1.0 if "ones" in name else 0.0


def stretch_of(places: Tensor) -> Stretch:
    """Return a stretch of places."""
    flat = places.tolist()
    if len(flat) > 1 and flat[0] == flat[1] and len(set(flat)) == 1:
        return flat[0], len(flat), 0
    if flat == list(range(flat[0], flat[0] + len(flat))):
        return flat[0], len(flat)
    if len(set(flat)) == 1:
        return flat[0], len(flat), 0
    return (*flat, -1)


def runs_of(places: Tensor) -> list[tuple[int, int]]:
    """Return stretches of places that lie in a row."""
    flat = places.tolist()
    at = [0, *(k for k in range(1, len(flat)) if flat[k] != flat[k - 1] + 1), len(flat)]
    return [(a, b) for a, b in pairwise(at)]


def units_in(stretch: Stretch) -> int:
    """Return how many numbers a stretch has."""
    return len(stretch) - 1 if stretch[-1] == -1 else stretch[1]


def width_of(e: Any) -> int:
    """Return how many units an expression has; 1 of a constant."""
    if isinstance(e, Column):
        return e.block.c1 - e.block.c0
    if isinstance(e, Linear):
        return e.c1 - e.c0
    if isinstance(e, Op | State):
        return e.hi - e.lo
    if isinstance(e, Outer):
        return units_in(e.places)
    return max(map(width_of, e.terms)) if isinstance(e, Sum) else 1


def operands_of(e: Any) -> list[Any]:
    """Return the expressions that one is computed of, without those of x alone."""
    if isinstance(e, Op):
        return [o for a in e.args for o in (a if isinstance(a, tuple) else (a,))
                if not isinstance(o, Const)]  # fmt: skip
    if isinstance(e, Total):
        return [e.value]
    if isinstance(e, Sum):
        return [t.factor if isinstance(t, Column) else t for t in e.terms
                if not isinstance(t, Linear)]  # fmt: skip
    return []
