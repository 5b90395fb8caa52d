"""Places: which number of a step is which, whatever only moves numbers.

Every number of a step has a place: a value that is computed has places of its own, and what only
moves numbers (chunk, cat, a slice, reshape) is run on tensors of places, so that no operator needs
a rule. Elementwise operations then say which stretches of places are one unit vector: a cut of an
operand is one of its result, and the reverse, until nothing changes.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..cells.expressions import Expressions
from ..cells.sums import MAXIMUM, SUM
from ..cells.trace import aten as table_of
from .capture import FUNCTION, GETITEM, STOP, Node, OfBatch, name_of
from .parts import AFTER, FILLS, ONCE, STEP, Parts, any_rows

ROW = 1 << 40  # between the places of one row and of the next
MOVES = {
    "view", "_unsafe_view", "reshape", "slice", "select", "split", "split_with_sizes",
    "unsafe_split", "unsafe_split_with_sizes", "cat", "stack", "unsqueeze", "squeeze", "expand",
    "permute", "transpose", "t", "alias", "clone", "unbind", "slice_scatter", "select_scatter",
    "repeat", "flip", "roll", "copy", "lift_fresh_copy", "index_select", "narrow", "contiguous",
    "chunk",
}  # fmt: skip
KINDS = {"sum": SUM, "amax": MAXIMUM}  # operators that make one number of many
ELEMENTWISE = set(table_of(Expressions())) - MOVES - FILLS - {"detach"}


class NoCell(Exception):
    """A reason why a step is no cell of the engines; it names the operator."""


class Places:
    """Places of all values of a graph, and the stretches that are unit vectors.

    of: node -> places of one row [1, ..], or of a weight [..]; a list of them for several values.
    summed: node -> places [results, terms] of a sum or a maximum over units.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts, self.graph = parts, parts.graph
        self.base: dict[Node, int] = {}
        self._bases: list[int] = []
        self._owners: list[Node] = []  # of the values at `_bases`
        self.size = 1
        self.of: dict[Node, Any] = {}
        self.summed: dict[Node, Tensor] = {}
        for n in parts.leaves():
            self.of[n] = self._fresh(n, self.graph.shapes[n])
        for n in parts.nodes:
            if parts.of[n] != AFTER:
                self.of[n] = self._places(n)
        self._is_of_step = torch.zeros(self.size + 1, dtype=torch.bool)
        for first, end, n in zip(self._bases, [*self._bases[1:], self.size], self._owners,
                                 strict=True):  # fmt: skip
            self._is_of_step[first:end] = parts.of[n] == STEP
        self._cut()

    # --- places ---

    def _new(self, n: Node, shape: tuple[int, ...]) -> Tensor:
        self.base.setdefault(n, self.size)
        self._bases.append(self.size)
        self._owners.append(n)
        count = prod(shape)
        places = torch.arange(self.size, self.size + count).reshape(shape)
        self.size += count + 1  # a gap: no stretch of places is of two values
        return places

    def node_at(self, place: int) -> Node:
        """Return the node whose value has a place."""
        return self._owners[bisect_right(self._bases, place) - 1]

    def _places(self, n: Node) -> Any:
        shape, name = self.graph.shapes[n], name_of(n)
        if self._moves(n):
            try:
                return self._moved(n)
            except NoCell:
                if self.parts.of[n] == STEP:
                    raise
        if self.parts.of[n] != STEP or name in FILLS or n.target in (STOP, FUNCTION):
            return self._fresh(n, shape)
        if n.target is GETITEM:
            return self.of[n.args[0]][n.args[1]]
        if name in ("mm", "addmm"):
            if not self.parts.is_weight(n.args[-1]):
                raise NoCell(f"torch's operator {name!r}: a product of two values of the step")
        elif name in KINDS:
            self.summed[n] = self._groups(n)
        elif name not in ELEMENTWISE:
            raise NoCell(f"torch's operator {name!r}")
        return self._fresh(n, shape)

    def _groups(self, n: Node) -> Tensor:
        """Return which places each number of a sum or a maximum over units is of."""
        places = self.of[n.args[0]]
        dims = n.args[1] if len(n.args) > 1 and n.args[1] else range(places.dim())
        dims = sorted(d % places.dim() for d in dims)
        if self._row_dim(self.graph.shapes[n.args[0]], n) in dims or n.kwargs:
            raise NoCell(f"torch's operator {name_of(n)!r} over rows")
        others = [d for d in range(places.dim()) if d not in dims]
        count = prod(places.shape[d] for d in dims)
        return places.permute(*others, *dims).reshape(-1, count)

    def _moves(self, n: Node) -> bool:
        """Return whether a node moves numbers alone; before the loop, of several values each."""
        if n.target is GETITEM:
            return self._moves(n.args[0])
        return name_of(n) in MOVES and self.parts.of[n] != ONCE

    def _fresh(self, n: Node, shape: Any) -> Any:
        if isinstance(shape, list):
            return [None if s is None else self._new(n, self._row(s)) for s in shape]
        return self._new(n, self._row(shape or ()))

    @staticmethod
    def _row(shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(1 if isinstance(k, OfBatch) else int(k) for k in shape)

    def _two(self, n: Node) -> Tensor:
        """Return places of two rows."""
        places = self.of[n]
        if not any_rows(self.graph.shapes[n]):
            return places
        return torch.cat([places, places + ROW], self._row_dim(self.graph.shapes[n], n))

    @staticmethod
    def _row_dim(shape: Any, n: Node) -> int:
        """Return which dimension of a value is the batch."""
        dims = [d for d, k in enumerate(shape) if isinstance(k, OfBatch)]
        if len(dims) != 1 or shape[dims[0]] != 1:
            raise NoCell(f"torch's operator {name_of(n)!r}, which moves numbers between rows")
        return dims[0]

    def _moved(self, n: Node) -> Any:
        """Run what moves numbers on places of two rows."""
        if n.target is GETITEM:
            return self.of[n.args[0]][n.args[1]]

        def argument(a: Any) -> Any:
            if isinstance(a, Node):
                return self._two(a)
            if isinstance(a, OfBatch):
                return 2 * int(a)
            if isinstance(a, tuple | list):
                return [argument(b) for b in a]
            return a

        kwargs = {k: argument(v) for k, v in n.kwargs.items() if k != "memory_format"}
        moved = n.target(*[argument(a) for a in n.args], **kwargs)
        shapes = self.graph.shapes[n]
        if isinstance(moved, tuple | list):
            return [self._one(n, t, shape) for t, shape in zip(moved, shapes, strict=True)]
        return self._one(n, moved, shapes)

    def _one(self, n: Node, two: Tensor, shape: Any) -> Tensor:
        """Return places of one row of two, which have to be moved alike."""
        first, second = two.split(1, self._row_dim(shape, n))
        shift = second - first
        if not bool(((shift == ROW) | ((shift == 0) & (first < ROW))).all()):
            raise NoCell(f"torch's operator {name_of(n)!r}, which moves numbers between rows")
        return first.clone()

    # --- cuts ---

    def is_step(self, places: Tensor) -> Tensor:
        """Return which places are of values that the state has a part in."""
        return self._is_of_step[places]

    def _cut(self) -> None:
        self.starts = torch.zeros(self.size + 1, dtype=torch.bool)
        self.starts[self._bases] = True
        self.starts[self.size] = True
        pairs: list[tuple[Tensor, Tensor]] = []  # places of a result, and of an operand
        for n in self.parts.nodes:
            if self.parts.of[n] != STEP or n not in self.base or n.target is GETITEM:
                continue
            if name_of(n) in FILLS:
                continue
            if n in self.summed:
                for group in self.summed[n]:
                    self._cut_alone(group)
                continue
            if name_of(n) in ("mm", "addmm"):
                a = self.of[n.args[-2]].reshape(-1)
                self._cut_alone(a)
                continue
            for out in self.of[n] if isinstance(self.of[n], list) else [self.of[n]]:
                if out is None:
                    continue
                for o in n.all_input_nodes:
                    places = self.broadcast(o, n, out)
                    pairs.append((out.reshape(-1), places.reshape(-1)))
        for leaf, after in zip(self.graph.state, self.graph.after, strict=True):
            pairs.append((self.of[leaf].reshape(-1), self.of[after].reshape(-1)))
        while True:
            before = int(self.starts.sum())
            for out, operand in pairs:
                self._join(out, operand)
            if int(self.starts.sum()) == before:
                break

    def broadcast(self, operand: Node, n: Node, out: Tensor) -> Tensor:
        """Return an operand's places for each place of an elementwise operation's result."""
        try:
            return torch.broadcast_to(self.of[operand], out.shape)
        except RuntimeError:
            raise NoCell(f"torch's operator {name_of(n)!r}, which joins rows and units") from None

    def _cut_alone(self, a: Tensor) -> None:
        """Set a cut where what a product or a sum reads is not in a row."""
        step = self.is_step(a)
        gap = torch.ones(len(a), dtype=torch.bool)
        gap[1:] = a[1:] != a[:-1] + 1
        at = gap & step
        self.starts[a[at]] = True
        ends = torch.ones(len(a), dtype=torch.bool)
        ends[:-1] = gap[1:] | (step[1:] != step[:-1])
        self.starts[a[ends & step] + 1] = True

    def _join(self, out: Tensor, operand: Tensor) -> None:
        """Set a result's cuts where its operand has cuts, and the reverse."""
        step = self.is_step(operand)
        gap = torch.zeros(len(out), dtype=torch.bool)
        if len(out) > 1:  # one number for many units: the sum of a norm
            same = operand[1:] == operand[:-1]
            spread = torch.zeros(len(out), dtype=torch.bool)
            spread[1:] |= same
            spread[:-1] |= same
            spread &= step
            gap[1:] = (spread[1:] != spread[:-1]) | (spread[1:] & ~same)
            step = step & ~spread
        gap[1:] |= (step[1:] != step[:-1]) | (step[1:] & (operand[1:] != operand[:-1] + 1))
        begins = self.starts[out] | gap | (self.starts[operand] & step)
        begins[0] = True
        self.starts[out[begins]] = True
        self.starts[operand[begins & step]] = True
        ends = torch.ones(len(out), dtype=torch.bool)
        ends[:-1] = begins[1:]
        self.starts[operand[ends & step] + 1] = True
        self.starts[out[ends] + 1] = True

    def stretches(self, places: Tensor) -> list[tuple[int, int]]:
        """Return the unit vectors of places, as positions [lo, hi) in them."""
        flat = places.reshape(-1)
        step = self.is_step(flat)
        begins = self.starts[flat] & step
        begins[0] = True
        begins[1:] |= (step[1:] != step[:-1]) | (step[1:] & (flat[1:] != flat[:-1] + 1))
        at = [*begins.nonzero().flatten().tolist(), len(flat)]
        return list(pairwise(at))
