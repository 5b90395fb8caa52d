"""Normalizations of a step as sums over units: a copy of a graph, for the cell alone."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch.fx import Graph as FxGraph

from .capture import GETITEM, ROWS, Node, Rows, name_of
from .parts import STEP, Parts

aten = torch.ops.aten


def expanded(parts: Parts) -> Parts:
    """Return parts whose step has sums in place of norms and means; the same without any."""
    if not any(name_of(n) in NORMS for n in parts.part(STEP)):
        return parts
    return Parts(Expansion(parts).graph, parts.hoists)


class Expansion:
    """A copy of a graph, with sums in place of norms."""

    def __init__(self, parts: Parts) -> None:
        old = parts.graph
        self._copy, self._copies, self.shapes = FxGraph(), {}, {}
        self._old, self._nodes = old, []
        several: set[Node] = set()  # norms that return a tuple, whose first result is the norm
        for n in (*parts.leaves(), *old.nodes):
            if n.target is GETITEM and n.args[0] in several:
                if n.args[1] == 0:
                    self._copies[n] = self._copies[n.args[0]]
                continue
            norm = NORMS[name_of(n)](self, n) if self._is_norm(parts, n) else None
            if norm is None:
                norm = self._copy.node_copy(n, lambda o: self._copies[o])
                self.shapes[norm] = old.shapes[n]
                if n in old.nodes:
                    self._nodes.append(norm)
            elif isinstance(old.shapes[n], list):
                several.add(n)
            self._copies[n] = norm

        def copies(nodes: list[Node]) -> list[Node]:
            return [self._copies[n] for n in nodes]

        self.graph = replace(
            old, nodes=self._nodes, x=copies(old.x), fixed=copies(old.fixed),
            state=copies(old.state), draws=copies(old.draws), y=copies(old.y),
            after=copies(old.after), shapes=self.shapes,
            slots={self._copies[n]: slot for n, slot in old.slots.items()},
            constants={self._copies[n]: t for n, t in old.constants.items()},
        )  # fmt: skip

    def _is_norm(self, parts: Parts, n: Node) -> bool:
        if n.op != "call_function" or name_of(n) not in NORMS or parts.of.get(n) != STEP:
            return False
        shape = self._old.shapes[n.args[0]]
        return isinstance(shape[0], Rows) and not any(isinstance(k, Rows) for k in shape[1:])

    def _call(self, target: Any, shape: Any, *args: Any) -> Node:
        n = self._copy.call_function(target, args)
        self.shapes[n] = shape
        sizes = [ROWS[0] * k if isinstance(k, Rows) else int(k) for k in shape]
        n.meta["val"] = torch.empty(sizes, dtype=args[0].meta["val"].dtype, device="meta")
        self._nodes.append(n)
        return n

    def _mean(self, value: Node, dims: list[int], shape: Any, keep: bool = True) -> Node:
        """Add a mean over units; shape: of the result."""
        count = prod(int(self.shapes[value][d]) for d in dims)
        total = self._call(aten.sum.dim_IntList, shape, value, dims, keep)
        return self._call(aten.mul.Tensor, shape, total, 1 / count)

    def layer_norm(self, n: Node) -> Node | None:
        """Add a layer norm; None where its mean is read too, or it spans rows."""
        value, normalized, weight, bias, eps = n.args
        x, shape = self._copies[value], self._old.shapes[value]
        count = len(normalized)
        if any(u.args[1] != 0 and u.users for u in n.users) or count >= len(shape):
            return None
        dims, small = list(range(-count, 0)), (*shape[:-count], *[1] * count)
        centered = self._call(aten.sub.Tensor, shape, x, self._mean(x, dims, small))
        square = self._call(aten.mul.Tensor, shape, centered, centered)
        variance = self._mean(square, dims, small)
        root = self._call(
            aten.rsqrt.default, small, self._call(aten.add.Tensor, small, variance, eps)
        )
        result = self._call(aten.mul.Tensor, shape, centered, root)
        for target, factor in ((aten.mul.Tensor, weight), (aten.add.Tensor, bias)):
            if factor is not None:
                result = self._call(target, shape, result, self._copies[factor])
        return result

    def mean(self, n: Node) -> Node | None:
        """Add a mean over units; None where it is one over rows."""
        value, dims, keep = (*n.args, None, False)[:3]
        dims = self._dims(value, dims)
        if n.kwargs or 0 in dims:
            return None
        return self._mean(self._copies[value], dims, self._old.shapes[n], bool(keep))

    def norm(self, n: Node) -> Node | None:
        """Add a Euclidean norm over units; None for others."""
        value, order, dims, keep = (*n.args, None, None, False)[:4]
        dims = self._dims(value, dims)
        if n.kwargs or 0 in dims or order not in (None, 2):
            return None
        x, shape = self._copies[value], self._old.shapes[n]
        square = self._call(aten.mul.Tensor, self.shapes[x], x, x)
        total = self._call(aten.sum.dim_IntList, shape, square, dims, bool(keep))
        return self._call(aten.sqrt.default, shape, total)

    def _dims(self, value: Node, dims: Any) -> list[int]:
        count = len(self._old.shapes[value])
        return [d % count for d in (dims or range(count))]


NORMS = {"native_layer_norm": Expansion.layer_norm, "mean": Expansion.mean,
         "linalg_vector_norm": Expansion.norm}  # fmt: skip
