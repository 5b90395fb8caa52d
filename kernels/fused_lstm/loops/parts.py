"""A step taken apart: which of its operators run once a call, before the loop, in it, after it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from .capture import GETITEM, Graph, Node, OfBatch, draw, function_of

# once: of weights alone. fixed: of arguments that are the same at each step, too; once a call.
# before: of x, row by row, for all steps at once. step: feeds the next state. after: of the loop's
# results, row by row, for all steps at once, and feeds no state.
ONCE, FIXED, BEFORE, STEP, AFTER = "once", "fixed", "before", "step", "after"
FILLS = {"zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like",
         "full_like"}  # fmt: skip


class Parts:
    """The part of each node of a graph, and Python functions that run a part."""

    def __init__(self, graph: Graph, hoists: bool = True) -> None:
        self.graph, self.hoists = graph, hoists
        needed = ancestors([*graph.after, *graph.y])
        self.nodes = [n for n in graph.nodes if n in needed]
        self.of: dict[Node, str] = dict.fromkeys(graph.outside, ONCE)
        self.of |= dict.fromkeys(graph.fixed, FIXED)
        self.of |= dict.fromkeys([*graph.x, *graph.draws], BEFORE)
        self.of |= dict.fromkeys(graph.state, STEP)
        for n in self.nodes:
            self.of[n] = self._part(n)
        if hoists:
            self._move_behind(needed)
        # Values of the loop that the part after it, or y, reads.
        read = {o for n in self.part(AFTER) for o in n.all_input_nodes}
        read |= {n for n in graph.y if self.of[n] != AFTER}
        self.read_after = [n for n in (*self.leaves(), *self.nodes) if n in read]
        in_step = {o for n in self.part(STEP) for o in n.all_input_nodes} | set(graph.after)
        self.to_step = [n for n in (*self.leaves(), *self.nodes) if n in in_step]
        self.loop_results = [n for n in self.read_after if self.of[n] == STEP]

    def _part(self, n: Node) -> str:
        operands = {self.of[o] for o in n.all_input_nodes}
        if STEP in operands:
            return STEP
        if BEFORE in operands:
            fixed = [o for o in n.all_input_nodes if self.of[o] == FIXED]
            by_row = self.is_by_row(n) and all(
                self.is_by_row(o) or self.is_weight(o) for o in fixed
            )
            return BEFORE if self.hoists and by_row else STEP
        return FIXED if FIXED in operands or any_rows(self.graph.shapes[n]) else ONCE

    def _move_behind(self, needed: set[Node]) -> None:
        feeding = ancestors(self.graph.after)
        for n in reversed(self.nodes):
            if self.of[n] == STEP and n not in feeding and self.is_by_row(n):
                users = [u for u in n.users if u in needed]
                operands = [o for o in n.all_input_nodes if self.of[o] == FIXED]
                if all(self.of.get(u) == AFTER or u.op == "output" for u in users) and all(
                    self.is_by_row(o) or self.is_weight(o) for o in operands
                ):
                    self.of[n] = AFTER
        for n in self.nodes:  # a result of several is taken where these are made
            if n.target is GETITEM and self.of[n] == AFTER:
                self.of[n] = self.of[n.args[0]]

    def is_by_row(self, n: Node) -> bool:
        """Return whether a value has one leading batch dimension, and no other."""
        return is_by_row(self.graph.shapes[n])

    def is_weight(self, n: Node) -> bool:
        """Return whether a value is the same at each step and in each row."""
        part = self.of[n]
        return part == ONCE or (part == FIXED and not any_rows(self.graph.shapes[n]))

    def leaves(self) -> list[Node]:
        """Return the nodes without operands."""
        g = self.graph
        return [*g.outside, *g.fixed, *g.x, *g.draws, *g.state]

    def part(self, which: str) -> list[Node]:
        """Return the operators of a part, in order."""
        return [n for n in self.nodes if self.of[n] == which]

    def function(
        self, nodes: Iterable[Node], inputs: Sequence[Node], outputs: Sequence[Node]
    ) -> Callable[..., tuple[Tensor, ...]]:
        """Return f(N, *inputs) -> outputs, which runs operators on N rows."""
        graph = fx.Graph()
        rows = graph.placeholder("rows")
        values = {n: graph.placeholder(f"in{k}") for k, n in enumerate(inputs)}
        needed = ancestors(outputs, values)
        numbers: dict[int, Any] = {1: rows}

        def argument(a: Any) -> Any:
            if isinstance(a, Node):
                return values[a]
            if isinstance(a, OfBatch):
                if int(a) not in numbers:
                    numbers[int(a)] = graph.call_function(operator.mul, (rows, int(a)))
                return numbers[int(a)]
            if isinstance(a, tuple | list):
                return [argument(b) for b in a]
            return a

        for n in nodes:
            if n in needed and n not in values:
                kwargs = {k: argument(v) for k, v in n.kwargs.items()}
                values[n] = graph.call_function(
                    function_of(n), tuple(argument(a) for a in n.args), kwargs
                )
        graph.output(tuple(values[n] for n in outputs))
        return fx.GraphModule({}, graph).forward

    def rows_are_apart(self) -> bool:
        """Return whether the parts before and after the loop compute each row by itself.

        They are run on seven rows, and on three and four of these. What fails on such numbers is
        not known to be apart.
        """
        try:
            return self._rows_are_apart()
        except (RuntimeError, ValueError, IndexError, ZeroDivisionError):
            return False

    def _rows_are_apart(self) -> bool:
        rng = torch.Generator().manual_seed(0)
        known = dict(zip(self.graph.outside, self.graph.values_outside(), strict=True))

        def sample(n: Node) -> Tensor:
            if n in known:
                return known[n].detach()
            value = n.meta["val"]
            shape = (7, *value.shape[1:]) if self.is_by_row(n) else value.shape
            if value.is_floating_point():
                return torch.rand(shape, generator=rng).to(self.graph.device, value.dtype)
            return torch.zeros(shape, dtype=value.dtype, device=self.graph.device)

        for part in (BEFORE, AFTER):
            nodes = self.part(part)
            outputs = [n for n in nodes if isinstance(n.meta.get("val"), Tensor)]
            outside = {o for n in nodes for o in n.all_input_nodes if self.of[o] != part}
            outside |= {o for n in nodes for o in n.all_input_nodes if o in self.leaves()}
            inputs = [n for n in (*self.leaves(), *self.nodes) if n in outside]
            run, values = self.function(nodes, inputs, outputs), [sample(n) for n in inputs]
            by_row = [self.is_by_row(n) for n in inputs]

            def of(a: int, b: int, values=values, by_row=by_row) -> list[Tensor]:
                return [v[a:b] if rows else v for v, rows in zip(values, by_row, strict=True)]

            with torch.no_grad():
                every, first, rest = run(7, *of(0, 7)), run(3, *of(0, 3)), run(4, *of(3, 7))
            for whole, a, b in zip(every, first, rest, strict=True):
                if not torch.allclose(whole, torch.cat([a, b]), 1e-3, 1e-4, equal_nan=True):
                    return False
        return True


# Operators that move no number and compute none.
SILENT = {"view", "_unsafe_view", "t", "transpose", "expand", "alias", "getitem", "unsqueeze",
          "slice", "select", "split", "chunk", "permute", "squeeze", "unbind"}  # fmt: skip


def is_by_row(shape: Any) -> bool:
    """Return whether a shape, or all of a list, begins with the batch, which is nowhere else."""
    if isinstance(shape, list):
        several = [s for s in shape if s is not None]
        return is_by_row(several[0]) and all(is_by_row(s) or not any_rows(s) for s in several)
    rows = [k for k, n in enumerate(shape or ()) if isinstance(n, OfBatch)]
    return rows == [0] and shape[0] == 1


def any_rows(shape: Any) -> bool:
    """Return whether a shape depends on the batch size."""
    if isinstance(shape, list):
        return any(any_rows(s) for s in shape if s is not None)
    return any(isinstance(n, OfBatch) for n in shape or ())


def ancestors(roots: Iterable[Node], stop: Iterable[Node] = ()) -> set[Node]:
    """Return nodes and all that they are computed from, up to those of `stop`."""
    seen, stack, stop = set(), list(roots), set(stop)
    while stack:
        n = stack.pop()
        if n not in seen:
            seen.add(n)
            stack += () if n in stop else n.all_input_nodes
    return seen


class Values:
    """Values of a call, by node: of weights, of what is fixed, of all steps [T, B, ...].

    functions: what `compute` has found for each label, which a plan keeps.
    """

    def __init__(
        self,
        parts: Parts,
        x: list[Tensor],
        fixed: list[Tensor],
        functions: dict[str, Any],
        draws: list[Tensor] | None = None,
    ) -> None:
        graph = parts.graph
        self.parts, self._functions = parts, functions
        self.T, self.B = x[0].shape[:2]
        self.of: dict[Node, Tensor] = dict(zip(graph.outside, graph.values_outside(), strict=True))
        self.of.update(zip(graph.x, x, strict=True))
        if fixed:
            self.of.update(zip(graph.fixed, fixed, strict=True))
        if graph.draws:
            if draws is None:
                draws = [draw(n, (self.T, self.B), x[0].device) for n in graph.draws]
            self.of.update(zip(graph.draws, draws, strict=True))

    def compute(self, label: str, nodes: Sequence[Node]) -> None:
        """Compute values, which are the same nodes at each call of a label."""
        of, T, B = self.of, self.T, self.B
        if label not in self._functions:
            self._functions[label] = stages(self.parts, list(of), nodes)
        once, *of_steps = self._functions[label]
        if once.outputs:
            of.update(zip(once.outputs, once.run(B, *[of[n] for n in once.inputs]), strict=True))
        for stage in of_steps:
            if stage.outputs:
                results = stage.run(T * B, *map(self._flat, stage.inputs))
                values = [v.unflatten(0, (T, B)) for v in results]
                of.update(zip(stage.outputs, values, strict=True))

    def per_step(self, n: Node) -> Tensor:
        """Return a value as one of all steps, [T, B, ...]."""
        value = self.of[n]
        if self.parts.of[n] == FIXED and any_rows(self.parts.graph.shapes[n]):
            return value.expand(self.T, *value.shape)
        return value

    def _flat(self, n: Node) -> Tensor:
        return self.of[n] if self.parts.is_weight(n) else self.per_step(n).flatten(0, 1)


class Stage:
    """Operators of some parts, as a function of rows: run(rows, *inputs) -> outputs."""

    def __init__(self, parts: Parts, known: Iterable[Node], outputs: Iterable[Node]) -> None:
        known = list(known)
        self.outputs = [n for n in dict.fromkeys(outputs) if n not in known]
        reached = ancestors(self.outputs, known)
        self.inputs = [n for n in known if n in reached]
        self.run = parts.function(parts.nodes, self.inputs, self.outputs)


def stages(parts: Parts, known: list[Node], nodes: Sequence[Node]) -> tuple[Stage, Stage, Stage]:
    """Return what computes some nodes: once a call, for all steps before the loop, and after it."""
    late = {n for n in parts.nodes if parts.of[n] in (AFTER, STEP)}.difference(known)
    early = [n for n in (*parts.leaves(), *parts.nodes) if n not in late]
    entering = [n for n in early if n in ancestors(nodes, early)]
    of_weights = [n for n in early if parts.of[n] in (ONCE, FIXED)]
    before = [n for n in entering if parts.of[n] == BEFORE]
    needed = ancestors(entering, [*known, *of_weights])
    once = Stage(parts, known, [n for n in of_weights if n in needed])
    known = [*known, *once.outputs]
    early_stage = Stage(parts, known, before)
    return once, early_stage, Stage(parts, [*known, *early_stage.outputs], nodes)
