"""A cell's two small programs, a step and its backward, and what the first saves for the second."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, TypeVar

import torch

from .expressions import HEAVY, Expressions
from .gates import Gates
from .step import Step, Traced, expressed, superfluous
from .sums import MAXIMUM, PRODUCT, SUM
from .trace import CannotExpress
from .widths import Widths

MOST_CALLS = 24  # products, sums and maxima: InnerProducts of native/isa/kernels.h


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

    Values that meet in an operation have as many units. Those of h are hidden_size; gates, states
    and each product may have another number where none of theirs meets h (`widths`). A phase's
    values are as wide as what it begins with. For each other width of a state there is an early
    phase, behind `last` by its number: forwards and backwards it comes before all others, and does
    what needs no product.
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
    kinds: tuple[str, ...] = ()  # of each product: PRODUCT, SUM or MAXIMUM

    @property
    def columns(self) -> int:
        """Return how many columns the engines save: one at least where there are states."""
        return max(len(self.saved), 1 if self.states or self.numbers else 0)

    @property
    def known(self) -> set[int]:
        """Return the nodes that a backward finds in memory."""
        return {*self.saved, *self.after, *([] if self.states else [self.h]), *self.numbers}

    @cached_property
    def sums(self) -> dict[int, int]:
        """Return the products that are sums or maxima: product -> its number among these."""
        calls = [k for k, kind in enumerate(self.kinds) if kind != PRODUCT]
        return {k: j for j, k in enumerate(calls)}

    @property
    def matrices(self) -> list[int]:
        """Return the products that are no sums or maxima."""
        return [k for k, kind in enumerate(self.kinds) if kind == PRODUCT]

    @cached_property
    def numbers(self) -> dict[int, int]:
        """Return the nodes that are a number of a row and are kept: node -> place, sums first.

        Beside sums these are what vectors are computed with, and results.
        """
        if not self.sums:
            return {}
        e, of_row, column, places = self.expressions, of_rows(self.expressions, self), 0, {}
        for k, count in enumerate(self.inner):
            if k in self.sums:
                places[e.node("leaf", "product", column)] = self.sums[k]
            column += count
        results = [self.h, *self.after, *self.fed, *self.dgates, *self.dstates, *self.dweights]
        results += self.dproducts
        used = set(results)
        for n in e.order(results):
            used |= {o for o in e.operands(n) if n not in of_row or e.is_mask(n)}
        for n in sorted(n for n in used - set(places) if n in of_row and not e.is_mask(n)):
            places[n] = len(places)
        return places

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
        if self.sums:
            results = *results, self.kinds
        text = repr((self.expressions.nodes, names, results, self.dweights))
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def compares(self) -> bool:
        """Return whether a step or its backward compares a maximum with what it is of."""
        e, firsts = self.expressions, accumulate(self.inner, initial=0)
        columns = zip(firsts, self.kinds, strict=False)
        maxima = {e.node("leaf", "product", column) for column, kind in columns if kind == MAXIMUM}
        results = [self.h, *self.after, *self.fed, *self.dgates, *self.dstates, *self.dweights]
        nodes = e.order([*results, *self.dproducts])
        return any(e.is_mask(n) and not maxima.isdisjoint(e.operands(n)) for n in nodes)

    @property
    def begun_by(self) -> Sequence[int]:
        """Return the phase that begins with each product: one each."""
        return range(1, 1 + len(self.inner))

    @property
    def last(self) -> int:
        """Return the last phase of a step."""
        return max(self.begun_by, default=0)

    def phases(self) -> list[int]:
        """Return the first phase that each node can be computed in; -1: it needs no product."""
        return first_phases(self.expressions, self.inner, self.begun_by)

    @property
    def early(self) -> range:
        """Return the early phases, one for each width in `Widths.of_early`."""
        last = len(self.inner)
        return range(last + 1, last + 1 + len(self.widths.of_early))

    def results_of(self, phase: int) -> list[int]:
        """Return what a phase computes for products and sums, and of h and the states."""
        results = [self.fed[k] for k, at in self.fed_in.items() if at == phase]
        results += [n for n, at in zip((self.h, *self.after), self.results_in, strict=True)
                    if at == phase]  # fmt: skip
        is_fed = phase < self.last and phase not in self.sums
        return [self.fed[phase], *results] if is_fed else results

    def feeds(self, phase: int) -> list[tuple[int, int]]:
        """Return what a phase adds to sums and maxima: (the product, what it is of)."""
        return [(k, self.fed[k]) for k, at in self.fed_in.items() if at == phase]

    @cached_property
    def fed_in(self) -> dict[int, int]:
        """Return the phase that adds to each sum or maximum: product -> phase."""
        first = self.phases()
        phases = {k: self._first_as_wide(self.fed[k], first, k) for k in self.sums}
        return {k: max(first[self.fed[k]], 0) if at is None else at for k, at in phases.items()}

    def _first_as_wide(self, n: int, first: list[int], until: int) -> int | None:
        """Return the first phase up to `until` that can compute a node and is as wide, or None."""
        width = self.widths
        root = width.of_node.get(n, width.h)
        phases = range(max(first[n], 0), until + 1)
        wide = [k for k in phases if width.of_phase(k) == root] or self._early_as_wide(
            n, root, first
        )
        return wide[0] if wide else None

    def _early_as_wide(self, n: int, root: int, first: list[int]) -> list[int]:
        """Return the early phase of a width, where it can compute a node."""
        of_early = zip(self.early, self.widths.of_early, strict=True)
        return [k for k, width in of_early if width == root and first[n] < 0]

    @cached_property
    def results_in(self) -> list[int]:
        """Return the phase of a step that stores h, and each state: the last one that is as wide.

        None that comes later reads the state before the step.
        """
        first, width, phases = self.phases(), self.widths, []
        for n, of in zip((self.h, *self.after), width.of_results, strict=True):
            root = width.root(of)
            wide = [k for k in range(max(first[n], 0), 1 + len(self.inner))
                    if width.of_phase(k) == root]  # fmt: skip
            wide = wide or self._early_as_wide(n, root, first) or [len(self.inner)]
            phases.append(wide[-1])
        return phases

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
        last, first, stored = len(self.inner), self.phases(), {}
        for n in self.saved:
            until = last
            if n in self.fed and first[n] < 0:  # its product needs it; `units_of` checks the width
                until = self.fed.index(n)
            phase = self._first_as_wide(n, first, until)
            if phase is None:
                phase = first[n] if first[n] >= 0 else 0 if n in self.fed else last
            stored[n] = phase
        return stored

    @cached_property
    def made_in(self) -> list[int]:
        """Return the phase of the backward that makes each gradient by a state, gate and weight.

        It is the last one whose values are as wide: no phase behind it has a part in the gradient.
        """
        width, last = self.widths, len(self.inner)
        phases = width.of_phases_back
        columns = [width.of_gate(k) for k in range(len(self.gates.columns))]
        wide = [*width.of_states, *columns, *width.of_weights]
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
        columns = [self.dproducts[a:b] for a, b in pairwise(ends)]
        found = [min(known[n] for n in made) for made in columns]
        phases = width.of_phases_back
        for k, phase in enumerate(found):
            if phase == last or k in self.sums:
                of = width.of_node.get(columns[k][0], width.h)
                root = of if k in self.sums else width.root(width.of_calls[k])
                several = [*range(k + 1, phase + 1), *(self.early if phase == last else ())]
                wide = [q for q in several if phases[q] == root]
                found[k] = wide[-1] if wide else phase
        return found

    def ready_by(self, phase: int) -> int:
        """Return the phase with which one's results are there: with the first those of an early."""
        return 0 if phase in self.early else phase

    def meetings(self) -> list[tuple[bool, bool]]:
        """Return whether workers have to meet before each product, forwards and backwards.

        They need not where the last meeting was behind the phase that made its factor. A worker has
        the same units of products of as many columns: what another may have saved, or may still
        read of states that the last phase writes over, comes before a meeting too. Behind a sum it
        has whole rows, backwards the same units of all sums. A maximum has no gradient: backwards
        they meet for the units alone that the phase before it works on.
        """
        e, first, met, forwards = self.expressions, self.phases(), -1, []
        divided = [0 if k in self.sums else n for k, n in enumerate(self.inner)]
        reads: list[list[int]] = []  # nodes, by phase
        for phase in range(1 + len(self.inner)):
            known = {*self.numbers, *self.saved_before(phase)}
            reads.append(e.order(self._stored_by(phase), known))
        early = {n for phase in self.early for n in e.order(self._stored_by(phase))}
        for k, fed in enumerate(self.fed):
            before = [self.ready_by(self.stored_in[n]) for n in reads[k + 1] if n in self.stored_in]
            before += [first[n] for n in reads[k + 1] if n in self.numbers]
            written = [("leaf", "state", j) for j, at in enumerate(self.results_in[1:])
                       if at == k + 1]  # fmt: skip
            before += [q for q in range(k + 1) for n in reads[q] if e.nodes[n] in written]
            before += [0 for n in early if e.nodes[n] in written]
            others = [q for q in before if met < q <= k and (not q or divided[q - 1] != divided[k])]
            made = self.ready_by(self.fed_in[k] if k in self.sums else self.stored_in[fed])
            of_own_rows = k in self.sums and made - 1 in self.sums
            forwards.append((made > met and not of_own_rows) or bool(others))
            met = k if forwards[-1] else met  # the last phase that all have finished
        met, backwards, since = len(self.inner) + 1, [], {False}  # whether phases since are sums'
        have = [k for k, kind in enumerate(self.kinds) if kind != MAXIMUM]  # a gradient
        works = {*have, *self.made_in, *(self.products_made_in[k] for k in have)}
        for k in reversed(range(len(self.inner))):
            is_sum = k in self.sums
            made = min(self.products_made_in[k], len(self.inner))
            is_other = (k in have and made < met) or bool(since - {is_sum})
            backwards.insert(0, is_other and k in works)
            if backwards[0]:
                met, since = k + 1, set()
            if k in works:
                since.add(is_sum)
        return list(zip(forwards, backwards, strict=True))

    def saved_before(self, phase: int) -> set[int]:
        """Return the saved nodes that phases before one have stored."""
        if phase in self.early:
            return set()
        at = self.stored_in
        return {n for n in self.saved if at[n] in self.early or at[n] < phase}

    def _stored_by(self, phase: int) -> list[int]:
        """Return what a phase stores, or adds to sums."""
        stored = [n for n in self.saved if self.stored_in[n] == phase]
        stored += [n for _, n in self.feeds(phase)]
        results = zip((self.h, *self.after), self.results_in, strict=True)
        return stored + [n for n, at in results if at == phase]


def program(
    step: Step,
    gates: Gates,
    states: tuple[str, ...],
    weights: tuple[str, ...],
    zoneout: bool = False,
    inner: tuple[int, ...] = (),
    inputs: int = 0,
    functions: bool = False,
    dtype: torch.dtype | None = None,
) -> Program:
    """Trace a step and its vector-Jacobian product.

    Args:
        step: see `Step`.
        states, weights: names.
        zoneout: with zoneout of the states, which no step has to know of.
        inner: the columns that each product inside the step makes, in the order of `Step`.
        inputs: how many gates, the last ones, are inputs.
        functions: whether the step may call a torch.autograd.Function, whose own backward is run.
        dtype: of a step that is known to depend on no shape, and is one for this dtype: it is
            traced once.

    Raises:
        CannotExpress: the step uses an operation that no kernel has, or depends on a shape or a
            dtype.
    """
    # One shape is enough for the step with zoneout: `fused_lstm.cell` traces it without, too.
    likes = (((2, 3), torch.float64), ((5, 4), torch.float32))[: 1 if zoneout else 2]
    likes = likes if dtype is None else (((2, 3), dtype),)
    instead: dict[int, int | None] = {}
    while True:
        told = step, gates, states, weights, zoneout, inner, instead
        follows: dict[str, bool] = {}
        # Derivatives are traced, whatever a caller has switched off.
        with torch.inference_mode(False), torch.enable_grad():
            found = [expressed(*told, *like, follows, functions) for like in likes]
        if len({repr((t.expressions.nodes, t.results)) for t in found}) > 1:  # NaN is not NaN
            raise CannotExpress(
                "results that depend on a tensor's shape or dtype",
                "the same formula for all; x.mean(-1, keepdim=True) for a mean over units; a number"
                " that depends on them is a keyword with a default, which with_(name=value) sets",
            )
        more = superfluous(found[0])
        if not more:
            break
        instead |= more
    return _program(found[0], gates, states, weights, zoneout, inputs)


def _program(
    t: Traced,
    gates: Gates,
    states: tuple[str, ...],
    weights: tuple[str, ...],
    zoneout: bool,
    inputs: int,
) -> Program:
    """Return the program of a traced step."""
    e, kinds, inner = t.expressions, tuple(t.calls.kinds), tuple(t.calls.inner)
    parts, by_weights = len(gates.columns), len(gates.columns) + len(states)
    by_products = by_weights + len(weights) + zoneout
    p = Program(
        e, gates, states, weights, zoneout, t.h, tuple(t.after), saved=(),
        dgates=tuple(t.gradients[:parts]),
        dstates=tuple(t.gradients[parts:by_weights]),
        dweights=tuple(t.gradients[by_weights : by_weights + len(weights)]),
        inner=inner, fed=tuple(t.fed),
        dproducts=tuple(t.gradients[by_products : by_products + sum(inner)]), inputs=inputs,
        kinds=kinds,
    )  # fmt: skip
    if len(kinds) > MOST_CALLS:
        expected = f"at most {MOST_CALLS} products, sums and maxima in a step"
        raise CannotExpress(f"{len(kinds)} of them", expected)
    of_row = of_rows(e, p)
    for k in p.sums:
        if t.fed[k] in of_row:
            raise CannotExpress(
                "a sum of what is one number a row", "a sum of values of units, such as a gate's"
            )
    return saving(p)


Either = TypeVar("Either", bound=Program)  # one of native's phases, or of few


def saving(p: Either) -> Either:
    """Return a program with the columns that its step saves: it has none yet."""
    e, gradients = p.expressions, [*p.dgates, *p.dstates, *p.dweights, *p.dproducts]
    # Keep each product's factor, which is one of its weight's gradient too, and the values of each
    # maximum, among which its units are found by comparing.
    kept = tuple(dict.fromkeys(n for n, kind in zip(p.fed, p.kinds, strict=True) if kind != SUM))
    p = replace(p, saved=kept)
    # Without a state nothing changes h on its way.
    stored = {*p.after, *kept, *([] if p.states else [p.h])}
    # What later phases of a step need is in memory, whatever the backward needs.
    there = {*of_rows(e, p), *with_crossing(p).saved} if p.sums else set()
    saved = cut(e, [p.h, *p.after, *p.fed], gradients, stored, there)
    saved = [*kept, *(n for n in with_crossing(p).saved if p.sums), *saved]
    return with_crossing(replace(p, saved=tuple(dict.fromkeys(saved))))


def first_phases(e: Expressions, inner: Sequence[int], begun_by: Sequence[int]) -> list[int]:
    """Return the first phase that each node can be computed in; -1: it needs no product.

    inner: columns of each product.
    begun_by: the phase that begins with each; of the first ones alone where no other is asked for.
    """
    known = zip(begun_by, inner, strict=False)  # the others' columns are taken to be in phase 0
    of_column = [phase for phase, count in known for _ in range(count)]
    first: list[int] = []
    for n, (op, *rest) in enumerate(e.nodes):
        if op == "leaf" and rest[0] == "product":
            first.append(of_column[rest[1]] if rest[1] < len(of_column) else 0)
        elif op == "leaf":
            first.append(0 if rest[0] in ("gate", "h") else -1)
        else:
            first.append(max((first[o] for o in e.operands(n)), default=-1))
    return first


def of_rows(e: Expressions, p: Program) -> set[int]:
    """Return the nodes that are a number of a row: sums, and what follows from these alone."""
    kind_of = [kind for kind, count in zip(p.kinds, p.inner, strict=True) for _ in range(count)]
    found, everywhere = set(), set()  # everywhere: the same in all rows
    for n, (op, *rest) in enumerate(e.nodes):
        operands = set(e.operands(n))
        if op == "const" or (op == "leaf" and rest[0] == "share"):
            everywhere.add(n)
        elif op == "leaf":
            if rest[0] == "product" and kind_of[rest[1]] != PRODUCT:
                found.add(n)
        elif operands <= everywhere:
            everywhere.add(n)
        elif operands <= found | everywhere:
            found.add(n)
    return found


def with_crossing(p: Either) -> Either:
    """Return a program that saves, too, what a phase needs of the products of earlier phases.

    Beside sums, arithmetic of what is saved already is computed again.
    """
    e, phase, saved, before = p.expressions, p.phases(), list(p.saved), -1
    while before < len(saved):  # what a later phase needs, an earlier one saves
        before = len(saved)
        for k in range(1, p.last + 1):
            here = [n for n in saved if phase[n] == k]
            stack = [*p.results_of(k), *here]
            seen = {*p.numbers, *(n for n in saved if phase[n] < k)}
            while stack:
                n = stack.pop()
                if n in seen:
                    continue
                seen.add(n)
                known = {*saved, *p.numbers} if p.sums else ()
                # No vector of numbers is a mask.
                if 0 <= phase[n] < k and not e.is_mask(n) and not follows(e, n, known, phase):
                    saved.append(n)
                else:
                    stack += e.operands(n)
    return replace(p, saved=tuple(saved))


def follows(e: Expressions, n: int, known: Container[int], phase: list[int]) -> bool:
    """Return whether node n is arithmetic of known nodes and of what needs no product."""
    op = e.nodes[n][0]
    if n in known or op == "const":
        return True
    if op == "leaf":
        return phase[n] < 0
    return op not in HEAVY and all(follows(e, o, known, phase) for o in e.operands(n))


def cut(
    e: Expressions,
    forward: list[int],
    backward: list[int],
    stored: set[int],
    others: Iterable[int] = (),
) -> list[int]:
    """Return the fewest results of a step that its backward can be computed from.

    stored: results that are in memory: the states after a step, or h where there is none. So are
    the states before, and weights. What follows from these alone is computed again, and so is
    arithmetic; no function such as exp is, of other values.
    others: more of what is in memory, a function of which is not computed again.
    """
    import networkx  # comes with torch; imported where a cell is made, since it takes 0.3 s

    in_step, late, free = set(e.order(forward)), set(), set()
    for n, (op, *rest) in enumerate(e.nodes):
        operands = set(e.operands(n))
        if (op == "leaf" and rest[0] in ("dh", "dstate", "dfed")) or operands & late:
            late.add(n)
        in_memory = op == "leaf" and rest[0] in ("state", "weight", "zoneout", "share")
        if n in stored or op == "const" or in_memory or (operands and operands <= free):
            free.add(n)
    there = free.union(others)
    # Node n is an edge from 2 n to 2 n + 1. Numbers, since the order of strings in a set differs
    # from process to process, and with it the cut that is found among equal ones.
    start, end = -1, -2
    network: Any = networkx.DiGraph()
    network.add_nodes_from([start, end])
    wanted = {o for n in e.order(backward) if n in late for o in e.operands(n)}
    wanted = (wanted | set(backward)) - late - there  # a gradient itself may come of no other
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
        operands = [o for o in e.operands(n) if o not in there]
        network.add_edges_from((2 * o + 1, 2 * n) for o in operands)
        stack += operands
    _, (near, _) = networkx.minimum_cut(network, start, end)
    return sorted(n for n in seen if 2 * n in near and 2 * n + 1 not in near)
