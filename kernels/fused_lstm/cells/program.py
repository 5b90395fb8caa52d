"""A cell's two small programs, a step and its backward, and what the first saves for the second."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from .expressions import HEAVY, Expressions
from .gates import Gates
from .trace import CannotExpress, traced
from .widths import Widths

# (k, a value of the step) -> the columns that product k makes of it
Product = Callable[[int, Tensor], list[Tensor]]
# function(parts of gates in the order of Gates.columns, states, weights, product) -> h, the states
# after
Step = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor], Product], tuple]


@dataclass(frozen=True)
class Program:
    """A step and its backward, as numbers of nodes in `expressions`.

    Leaves: ("gate", k), ("x", k) and ("h", k), parts of gates before activation, as in
    Gates.columns; ("state", k), before the step; ("weight", k), of a unit; ("zoneout", 0), the part
    of the states that zoneout keeps; ("dh", 0) and ("dstate", k), the gradients by h and by the
    states after the step. Of products inside the step: ("product", j), a column that one makes,
    counted through all of them; ("dfed", k), the gradient by the value that product k multiplies.

    These products divide a step into phases: phase 0 begins with R h, phase k + 1 with product k. A
    phase saves every column that is known by then, what later products multiply among them, where
    later phases find it; the last one computes h and the states. Backwards the last phase comes
    first, and then phase k with the gradient by what product k multiplies. They hand on the
    gradients by h and by what products multiply; the rest is computed again.

    Values that meet in an operation have as many units. Those of h and of the states are
    hidden_size; gates, and each product, may have another number where none of theirs meets them
    (`widths`). A phase's values are as wide as what it begins with.
    """

    expressions: Expressions
    gates: Gates
    states: tuple[str, ...]  # names
    weights: tuple[str, ...]  # names
    zoneout: bool  # whether the states are kept in part
    h: int
    after: tuple[int, ...]  # the states after the step
    saved: tuple[int, ...]  # columns that a step leaves for its backward, beside the states
    dgates: tuple[int, ...]  # in the order of Gates.columns
    dstates: tuple[int, ...]
    dweights: tuple[int, ...]
    inner: tuple[int, ...] = ()  # columns of a unit that each product makes
    fed: tuple[int, ...] = ()  # what each multiplies
    dproducts: tuple[int, ...] = ()  # the gradients by all columns that products make
    inputs: int = 0  # how many of the gates, the last ones, are inputs that nothing multiplies

    @property
    def columns(self) -> int:
        """Return how many columns the engines save: one at least where there are states."""
        return max(len(self.saved), 1 if self.states else 0)

    @property
    def known(self) -> set[int]:
        """Return the nodes that a backward finds in memory."""
        return {*self.saved, *self.after, *([] if self.states else [self.h])}

    @cached_property
    def rounded(self) -> set[int]:
        """Return the products that printed code has to round: see `Expressions.rounded`."""
        return self.expressions.rounded()

    def digest(self) -> str:
        """Return a hash of what is computed: equal programs have the same."""
        names = self.gates.names, self.gates.columns, self.states, self.weights, self.zoneout
        results = self.h, self.after, self.dgates, self.dstates
        if self.inner:
            results = *results, self.inner, self.fed, self.dproducts
        text = repr((self.expressions.nodes, names, results, self.dweights))
        return hashlib.sha256(text.encode()).hexdigest()

    def phases(self) -> list[int]:
        """Return the first phase that each node can be computed in; -1: it needs no product."""
        of_column = [k + 1 for k, count in enumerate(self.inner) for _ in range(count)]
        first: list[int] = []
        for n, (op, *rest) in enumerate(self.expressions.nodes):
            if op == "leaf" and rest[0] == "product":
                first.append(of_column[rest[1]])
            elif op == "leaf":
                first.append(0 if rest[0] in ("gate", "h") else -1)
            else:
                operands = self.expressions.operands(n)
                first.append(max((first[o] for o in operands), default=-1))
        return first

    def results_of(self, phase: int) -> list[int]:
        """Return what a phase computes for the next product, or in the end."""
        return [self.fed[phase]] if phase < len(self.fed) else [self.h, *self.after]

    @cached_property
    def widths(self) -> Widths:
        """Return which values have as many units."""
        return Widths(self)

    @cached_property
    def stored_in(self) -> dict[int, int]:
        """Return the phase of a step that stores each saved node.

        It is the first one that can compute it and whose values are as wide. What needs no product
        has a width of its own: that of a state, a weight or an input.
        """
        width, last, first = self.widths, len(self.inner), self.phases()
        begins = [width.root(w) for w in (width.gates, *range(2, 2 + last))]
        stored = {}
        for n in self.saved:
            phase = first[n]
            if phase < 0:
                root, until = width.of_node.get(n, width.h), last
                if n in self.fed:  # which its product needs; `units_of` checks the width
                    until = self.fed.index(n)
                phases = [k for k, of in enumerate(begins[: until + 1]) if of == root]
                phase = phases[0] if phases else 0 if n in self.fed else last
            stored[n] = phase
        return stored

    @cached_property
    def made_in(self) -> list[int]:
        """Return the phase of the backward that makes each gradient by a state, gate and weight.

        It is the last one whose values are as wide: no phase behind it has a part in the gradient.
        """
        width, last = self.widths, len(self.inner)
        phases = [*(width.of_node[n] for n in self.fed), width.h]
        columns = [width.of_gate(k) for k in range(len(self.gates.columns))]
        wide = [*[width.h] * len(self.states), *columns, *width.of_weights]
        return [phases.index(width.root(w)) if width.root(w) in phases else last for w in wide]

    @cached_property
    def products_made_in(self) -> list[int]:
        """Return the phase of the backward that makes the gradients by each product.

        It is the first one that knows all that they depend on. Those that depend on nothing are 0,
        and made by a phase that is as wide.
        """
        e, width, last, known = self.expressions, self.widths, len(self.inner), []
        for n, (op, *rest) in enumerate(e.nodes):
            of = [known[o] for o in e.operands(n)]
            of += [rest[1]] if op == "leaf" and rest[0] == "dfed" else []
            known.append(min(of, default=last))
        ends = list(accumulate(self.inner, initial=0))
        found = [min(known[n] for n in self.dproducts[a:b]) for a, b in pairwise(ends)]
        phases = [*map(width.root, width.of_factors), width.h]
        for k, phase in enumerate(found):
            if phase == last:
                wide = [q for q in range(k + 1, last + 1) if phases[q] == width.root(2 + k)]
                found[k] = wide[-1] if wide else last
        return found

    def meetings(self) -> list[tuple[bool, bool]]:
        """Return whether workers have to meet before each product, forwards and backwards.

        They need not where the last meeting was behind the phase that made its factor. A worker has
        the same units of products of as many columns: what another may have saved, or may still
        read of states that the last phase writes over, comes before a meeting too.
        """
        e, met, forwards = self.expressions, -1, []
        reads: list[list[int]] = []  # nodes, by phase
        for phase in range(1 + len(self.inner)):
            known = {n for n in self.saved if self.stored_in[n] < phase}
            stored = [n for n in self.saved if self.stored_in[n] == phase]
            stored += [self.h, *self.after] * (phase == len(self.inner))
            reads.append(e.order(stored, known))
        for k, fed in enumerate(self.fed):
            before = [self.stored_in[n] for n in reads[k + 1] if n in self.stored_in]
            if k + 1 == len(self.inner):
                before += [
                    q for q in range(k + 1) for n in reads[q] if e.nodes[n][:2] == ("leaf", "state")
                ]
            others = [
                q for q in before if met < q <= k and (not q or self.inner[q - 1] != self.inner[k])
            ]
            forwards.append(self.stored_in[fed] > met or bool(others))
            met = k if forwards[-1] else met  # the last phase that all have finished
        met, backwards = len(self.inner) + 1, []
        for k in reversed(range(len(self.inner))):
            backwards.insert(0, self.products_made_in[k] < met)
            met = k + 1 if backwards[0] else met
        return list(zip(forwards, backwards, strict=True))


def program(
    step: Step,
    gates: Gates,
    states: tuple[str, ...],
    weights: tuple[str, ...],
    zoneout: bool = False,
    inner: tuple[int, ...] = (),
    inputs: int = 0,
    by_autograd: bool = False,
    dtype: torch.dtype | None = None,
) -> Program:
    """Trace a step and its vector-Jacobian product.

    Args:
        step: see `Step`.
        states, weights: names.
        zoneout: with zoneout of the states, which no step has to know of.
        inner: the columns that each product inside the step makes.
        inputs: how many gates, the last ones, are inputs.
        by_autograd: differentiate by torch.autograd, which runs an autograd.Function's own backward
            but no operation in place.
        dtype: of a step that is known to depend on no shape, and is one for this dtype: it is
            traced once.

    Raises:
        CannotExpress: the step uses an operation that no kernel has, or depends on a shape or a
            dtype.
    """
    # One shape is enough for the step with zoneout: `fused_lstm.cell` traces it without, too.
    likes = (((2, 3), torch.float64), ((5, 4), torch.float32))[: 1 if zoneout else 2]
    likes = likes if dtype is None else (((2, 3), dtype),)
    follows: dict[str, bool] = {}
    told = step, gates, states, weights, zoneout, inner
    found = [_expressed(*told, *like, follows, by_autograd) for like in likes]
    if len({repr((e.nodes, *rest)) for e, *rest in found}) > 1:  # as text, since NaN is not NaN
        raise CannotExpress(
            "results that depend on a tensor's shape or dtype",
            "the same formula for all; a number that depends on them is a keyword with a default,"
            " which with_(name=value) sets",
        )
    e, h, after, fed, gradients = found[0]
    parts, by_weights = len(gates.columns), len(gates.columns) + len(states)
    by_products = by_weights + len(weights) + zoneout
    # Without a state nothing changes h on its way. What a product multiplies is a factor of its
    # weight's gradient.
    stored = {*after, *fed, *([] if states else [h])}
    saved = cut(e, [h, *after, *fed], gradients, stored)
    return with_crossing(Program(
        e, gates, states, weights, zoneout, h, tuple(after),
        saved=tuple(dict.fromkeys([*fed, *saved])),
        dgates=tuple(gradients[:parts]),
        dstates=tuple(gradients[parts:by_weights]),
        dweights=tuple(gradients[by_weights : by_weights + len(weights)]),
        inner=inner, fed=tuple(fed),
        dproducts=tuple(gradients[by_products : by_products + sum(inner)]), inputs=inputs,
    ))  # fmt: skip


def _expressed(
    step: Step,
    gates: Gates,
    states: tuple[str, ...],
    weights: tuple[str, ...],
    zoneout: bool,
    inner: tuple[int, ...],
    shape: tuple[int, int],
    dtype: torch.dtype,
    follows: dict[str, bool],
    by_autograd: bool = False,
) -> tuple[Expressions, int, list[int], list[int], list[int]]:
    """Return a step, traced with tensors of a shape and dtype: its expressions, and the nodes.

    The nodes are h, the states after it, what products inside it multiply, and the gradients by all
    that goes into it.
    """
    e = Expressions()
    kinds = [*gates.columns, *(("state", k) for k in range(len(states)))]
    kinds += [("weight", k) for k in range(len(weights))] + [("zoneout", 0)] * zoneout
    kinds += [("product", j) for j in range(sum(inner))]
    count, parts = len(kinds), len(gates.columns)
    kinds += [("dh", 0), *(("dstate", k) for k in range(len(states)))]
    kinds += [("dfed", k) for k in range(len(inner))]
    leaves = [e.node("leaf", *kind) for kind in kinds]

    def forward(*inputs: Tensor) -> tuple[Tensor, ...]:
        rest = inputs[parts : count - sum(inner)]
        before, own = rest[: len(states)], rest[len(states) : len(states) + len(weights)]
        columns, fed = iter(inputs[count - sum(inner) : count]), {}

        def product(k: int, value: Tensor) -> list[Tensor]:
            fed[k] = value
            return [next(columns) for _ in range(inner[k])]

        h, after = step(inputs[:parts], before, own, product)
        if zoneout:
            after = [a + rest[-1] * (b - a) for a, b in zip(after, before, strict=True)]
        return h, *after, *(fed[k] for k in range(len(inner)))

    def forward_and_backward(*inputs: Tensor) -> tuple[Tensor, ...]:
        if by_autograd:
            return by_torchs_autograd(forward, inputs[:count], inputs[count:])
        outputs, pullback, *_ = torch.func.vjp(forward, *inputs[:count])
        return *outputs, *pullback(tuple(inputs[count:]))

    numbers = torch.linspace(0.1, 1.0, shape[0] * shape[1], dtype=dtype, device="cpu")
    tensors = [(numbers + 0.01 * n).reshape(shape) for n in range(len(leaves))]
    h, *results = traced(e, forward_and_backward, leaves, tensors, follows, not by_autograd)
    after, results = results[: len(states)], results[len(states) :]
    return e, h, after, results[: len(inner)], results[len(inner) :]


def by_torchs_autograd(
    forward: Callable, inputs: Sequence[Tensor], gradients: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Return a function's results and its gradients by all inputs, by torch.autograd."""
    with torch.enable_grad():
        given = [x.detach().requires_grad_() for x in inputs]
        outputs = forward(*given)
        # An output that depends on nothing that has a gradient is left out.
        pairs = [(o, g) for o, g in zip(outputs, gradients, strict=True) if o.requires_grad]
        found: Sequence[Tensor | None] = [None] * len(given)
        if pairs:
            outs, grads = zip(*pairs, strict=True)
            found = torch.autograd.grad(outs, given, grads, allow_unused=True)
    made = [torch.zeros_like(x) if g is None else g for x, g in zip(given, found, strict=True)]
    return *outputs, *made


def with_crossing(p: Program) -> Program:
    """Return a program that saves, too, what a phase needs of the products of earlier phases."""
    e, phase, saved = p.expressions, p.phases(), list(p.saved)
    for k in range(len(p.inner), 0, -1):  # what a later phase needs, an earlier one saves
        here = [n for n in saved if phase[n] == k]
        stack, seen = [*p.results_of(k), *here], {n for n in saved if phase[n] < k}
        while stack:
            n = stack.pop()
            if n in seen:
                continue
            seen.add(n)
            if 0 <= phase[n] < k and not e.is_mask(n):  # of which there is no vector of numbers
                saved.append(n)
            else:
                stack += e.operands(n)
    return replace(p, saved=tuple(saved))


def cut(e: Expressions, forward: list[int], backward: list[int], stored: set[int]) -> list[int]:
    """Return the fewest results of a step that its backward can be computed from.

    stored: results that are in memory: the states after a step, or h where there is none. So are
    the states before, and weights. What follows from these alone is computed again, and so is
    arithmetic; no function such as exp is, of other values.
    """
    import networkx  # comes with torch; imported where a cell is made, since it takes 0.3 s

    in_step, late, free = set(e.order(forward)), set(), set()
    for n, (op, *rest) in enumerate(e.nodes):
        operands = set(e.operands(n))
        if (op == "leaf" and rest[0] in ("dh", "dstate", "dfed")) or operands & late:
            late.add(n)
        in_memory = op == "leaf" and rest[0] in ("state", "weight", "zoneout")
        if n in stored or op == "const" or in_memory or (operands and operands <= free):
            free.add(n)
    # Node n is an edge from 2 n to 2 n + 1. Numbers, since the order of strings in a set differs
    # from process to process, and with it the cut that is found among equal ones.
    start, end = -1, -2
    network: Any = networkx.DiGraph()
    network.add_nodes_from([start, end])
    wanted = {o for n in e.order(backward) if n in late for o in e.operands(n)}
    wanted = (wanted | set(backward)) - late - free  # a gradient itself may come of no other
    network.add_edges_from((2 * n + 1, end) for n in wanted)  # no capacity: infinite
    seen, stack = set(), sorted(wanted)
    while stack:
        n = stack.pop()
        if n in seen:
            continue
        seen.add(n)
        op = e.nodes[n][0]
        cost = {} if e.is_mask(n) else {"capacity": 1000 if n in in_step else 1001}
        network.add_edge(2 * n, 2 * n + 1, **cost)
        if op == "leaf" or op in HEAVY:
            network.add_edge(start, 2 * n)
            continue
        operands = [o for o in e.operands(n) if o not in free]
        network.add_edges_from((2 * o + 1, 2 * n) for o in operands)
        stack += operands
    _, (near, _) = networkx.minimum_cut(network, start, end)
    return sorted(n for n in seen if 2 * n in near and 2 * n + 1 not in near)
