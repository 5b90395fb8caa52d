"""Norms and softmax of a step as sums and maxima: a copy of a graph, for the cell alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.fx import Graph as FxGraph

from ..cells import sums
from .capture import GETITEM, ROWS, Node, OfBatch, Stops, name_of
from .parts import STEP, Parts

# ATen's reductions: name -> what makes sums and maxima of one, with the operator's own arguments.
RULES: dict[str, Callable] = {
    "native_layer_norm": sums.layer_norm, "mean": sums.mean, "var": sums.var, "std": sums.std,
    "linalg_vector_norm": sums.vector_norm, "amin": sums.amin, "logsumexp": sums.logsumexp,
    "_softmax": lambda x, dim, to_float: sums.softmax(x, dim),
    "_log_softmax": lambda x, dim, to_float: sums.log_softmax(x, dim),
}  # fmt: skip


def expanded(parts: Parts) -> Parts:
    """Return parts whose step has sums and maxima in place of norms; the same without any."""
    if not any(name_of(n) in RULES for n in parts.part(STEP)):
        return parts
    return Parts(Expansion(parts).graph, parts.hoists)


class Expansion:
    """A copy of a graph, with sums and maxima in place of norms."""

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
            norm = self._norm(n) if self._is_norm(parts, n) else None
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
        """Return whether a node is a norm of units of the step, and nothing else of it is read."""
        if n.op != "call_function" or name_of(n) not in RULES or parts.of.get(n) != STEP:
            return False
        shape = self._old.shapes[n.args[0]]
        has_rows = isinstance(shape[0], OfBatch) and not any(
            isinstance(k, OfBatch) for k in shape[1:]
        )
        if isinstance(self._old.shapes[n], list):  # a layer norm, its mean and its root
            reads_more = any(u.args[1] != 0 and u.users for u in n.users)
            return has_rows and len(n.args[1]) < len(shape) and not reads_more
        dims = n.args[1] if len(n.args) > 1 else n.kwargs.get("dim")
        if name_of(n) == "linalg_vector_norm":
            dims = n.args[2] if len(n.args) > 2 else None
        return has_rows and bool(dims or dims == 0) and 0 not in self._dims(shape, dims)

    @staticmethod
    def _dims(shape: Any, dims: Any) -> list[int]:
        return [d % len(shape) for d in ((dims,) if isinstance(dims, int) else dims)]

    def _norm(self, n: Node) -> Node | None:
        """Add a norm as its rule has it; None where that has no such argument."""
        from torch.fx.experimental.proxy_tensor import make_fx  # which takes long to import

        operands = list(dict.fromkeys(n.all_input_nodes))
        like = [self._sample(o) for o in operands]

        def rule(*tensors: Any) -> Any:
            of = dict(zip(operands, tensors, strict=True))
            args, kwargs = torch.fx.map_arg((n.args, n.kwargs), lambda o: of[o])
            with torch.enable_grad(), Stops():  # which stops gradients where a caller has none
                return RULES[name_of(n)](*args, **kwargs)

        try:
            graph = make_fx(rule)(*like).graph
        except (sums.CannotExpress, TypeError):
            return None
        rows, made = self._old.shapes[n.args[0]][0], {}
        waiting = iter(operands)
        for m in graph.nodes:
            if m.op == "placeholder":
                made[m] = self._copies[next(waiting)]
            elif m.op == "output":
                return made[m.args[0]]
            else:
                made[m] = self._call(m, made, rows)
        return None

    def _sample(self, n: Node) -> torch.Tensor:
        sizes = [ROWS[0] * k if isinstance(k, OfBatch) else int(k) for k in self._old.shapes[n]]
        return torch.empty(sizes, dtype=n.meta["val"].dtype, device="meta")

    def _call(self, m: Node, made: dict[Node, Node], rows: OfBatch) -> Node:
        """Add a rule's operation; its values have the rows of what is normalized."""
        arguments = torch.fx.map_arg(m.args, lambda o: made[o])
        places = {"device": self._old.device} if "device" in m.kwargs else {}
        n = self._copy.call_function(m.target, arguments, m.kwargs | places)
        value = m.meta["val"]
        n.meta["val"] = torch.empty_like(value, device="meta")
        self.shapes[n] = (rows, *value.shape[1:]) if value.dim() else ()
        self._nodes.append(n)
        return n
