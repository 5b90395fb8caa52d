"""A step of unit vectors as a cell of the engines: which sums are gates, which products inside."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..call.spec import Spec
from ..cells.engine_cell import MOST_COLUMNS, MOST_PRODUCTS, OPTIONS, EngineCell
from ..cells.gates import Gates
from ..cells.program import Program, program
from ..cells.step import Product
from ..cells.sums import MAXIMUM
from ..cells.trace import CannotExpress
from ..cells.widths import Refused, Widths, units_of
from .capture import FUNCTION, STOP, Node, call_function, name_of
from .parts import STEP, ancestors
from .places import NoCell, Places
from .vectors import (
    Block,
    Column,
    Const,
    Linear,
    Op,
    Outer,
    Reader,
    State,
    Sum,
    Total,
    operands_of,
    width_of,
)

MOST_STATES, MOST_GATES = 8, 24


@dataclass
class Gate:
    """A gate: blocks of R, blocks of W, vectors of weights; which of them are there says its kind.

    ready: values of x that are not a product with the engine's x: computed before, an input.
    """

    h: tuple[Block, ...] = ()
    x: tuple[Linear, ...] = ()
    bias: tuple[Outer, ...] = ()
    ready: tuple[Any, ...] = ()  # Linear and Outer
    width: int = 0


@dataclass
class InnerProduct:
    """A product inside the step: its factor, the blocks of each column, and how many units."""

    factor: Any
    columns: list[tuple[Block, ...]]
    width: int
    factor_width: int


@dataclass
class Recipe:
    """The expressions of a step; a cell that engines know for good holds no tensor of a person's.

    order, states: the states that the step reads, and their names. next: state -> its next value.
    h: the state that the engine's h is. extra: expressions that are kept as states.
    value: key of a sum -> what it is a sum of: ("gate", number), ("vector", number),
    ("column", group, number) and ("value", expression). place: group -> (product, column) of each.
    factors: what each product multiplies. columns: how many each makes. masks: keys of values that
    are true or false. functions: whether a torch.autograd.Function is called.
    """

    layout: Gates
    inputs: tuple[str, ...]
    order: list[State]
    states: tuple[str, ...]
    next: dict[State, Any]
    h: State
    extra: list[Any]
    value: dict[Any, list[tuple]]
    place: dict[tuple, list[tuple[int, int]]]
    factors: list[Any]
    columns: list[int]
    vectors: int
    masks: set[Any]
    dtype: torch.dtype
    functions: bool


class FusedCell(EngineCell):
    """A cell whose step evaluates the expressions of a `Recipe`."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self.gates, self.states, self.inputs = recipe.layout, recipe.states, recipe.inputs
        count = recipe.vectors + sum(recipe.columns)
        self.weights = self.vectors = tuple(f"w{k}" for k in range(count))
        self.products = {f"p{k}": columns for k, columns in enumerate(recipe.columns)}
        self._programs[False] = self._traced(False)
        text = f"{self._programs[False].digest()} {self.inputs}"
        self.name = f"fuse_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        self._register()

    def step(
        self,
        parts: Sequence[Tensor],
        states: Sequence[Tensor],
        vectors: Sequence[Tensor],
        product: Product,
    ) -> tuple[Tensor, list[Tensor]]:
        """Evaluate the expressions of a step, as `EngineCell.step`."""
        recipe, run = self._recipe, Evaluation(self._recipe, parts, states, vectors, product)
        for k in range(len(recipe.factors)):
            run.columns_of(k)
        after = [run.value(recipe.next[s]) for s in recipe.order]
        after += [run.value(e) for e in recipe.extra]
        like = states[0] if states else parts[0]
        return full(run.value(recipe.next[recipe.h]), like), [full(a, like) for a in after]

    def refused(self) -> dict[str, str]:
        """Return all options: the step is a person's own."""
        return dict.fromkeys(OPTIONS, "a step of its own")

    def _traced(self, zoneout: bool) -> Program:
        dtype = torch.float64 if self._recipe.dtype == torch.float64 else torch.float32
        try:
            return program(
                self.step, self.gates, self.states, self.vectors, zoneout,
                tuple(self.products.values()), len(self.inputs), self._recipe.functions, dtype,
            )  # fmt: skip
        except CannotExpress as error:
            raise NoCell(str(error)) from error


class Lowered:
    """A step as a cell: which cell, and which of a person's values its tensors are.

    Attributes:
        H: how many units the states have. h: the state that the engine's h is.
        states: all states. order: those that the engine's c has, or h where the step reads it.
        extra: expressions that y reads and that are no state: they are kept as states.
        kept: node -> what of the loop's results it is: [(kind, State or number)], where kind is
            "before", "after" or "extra".
        again: nodes that y reads and that are computed again after the loop.
        gates, products, vectors: what the engine's weights are made of.
        source: the places of x that the engine multiplies. inputs: gates, by number, whose values
            of x are ready.
        layout: the cell's Gates, named g0, ... with rows, i0, ... inputs.
        spec, units: the engine's.
    """

    def __init__(self, places: Places) -> None:
        self.places, self.parts, self.graph = places, places.parts, places.graph
        self.dtype = self.graph.state[0].meta["val"].dtype
        # Operations on x alone are done before the loop, unless gates of x are no more than inputs.
        self._divide(sinks=True)
        sunk = self._values_of_x()
        self._divide(sinks=False)
        if self._values_of_x() >= sunk:
            self._divide(sinks=True)
        self._make_products()
        self._make_cell()

    def _divide(self, sinks: bool) -> None:
        self.reader = Reader(self.places, sinks)
        self._find_states()
        self._find_sums()
        self._choose_h()
        self._make_gates()

    def _values_of_x(self) -> int:
        return sum(bool(g.x) + 2 * bool(g.ready) for g in self.gates)

    # --- states ---

    def _find_states(self) -> None:
        self.states: list[State] = []
        self.next: dict[State, Any] = {}
        # Leaf -> an earlier one: what a module keeps may be a state that it also returns.
        self.same_as: dict[int, int] = {}
        for k, (leaf, after) in enumerate(zip(self.graph.state, self.graph.after, strict=True)):
            if k in self.graph.unread and after in self.graph.after[:k]:
                self.same_as[k] = self.graph.after.index(after)
                continue
            flat = self.places.of[leaf].reshape(-1)
            to = self.places.of[after].reshape(-1)
            for lo, hi in self.places.stretches(flat):
                state = self.reader.at(flat[lo:hi])
                self.states.append(state)
                self.next[state] = self.reader.at(to[lo:hi])
        *narrow, self.H = sorted({s.hi - s.lo for s in self.states})
        self.narrow = set(narrow)
        if len(self.states) > MOST_STATES:
            raise NoCell(f"{len(self.states)} states")
        self._find_kept()

    def _find_kept(self) -> None:
        """Find what y reads of the loop: states, more states, and what is computed again."""
        results = self.parts.loop_results
        self.again = [n for n in results if not self._is_kept(n)]
        needed = ancestors(self.again)
        for n in self.parts.part(STEP):
            if n in needed and not self.parts.is_by_row(n):
                raise NoCell("a result that spans rows")
        reads = [n for n in results if n not in self.again]
        reads += [n for n in self.graph.state if n in needed and n not in reads]
        if not all(map(self.parts.is_by_row, reads)):
            raise NoCell("a result whose batch is not its first dimension")
        self.extra: list[Any] = []
        self.kept = {n: [self._kept_as(lo, hi, e) for lo, hi, e in self.reader.vectors(n)]
                     for n in reads}  # fmt: skip

    def _kept_as(self, lo: int, hi: int, e: Any) -> tuple[str, Any]:
        if isinstance(e, State):
            return "before", e
        if (state := self._state_after(e)) is not None:
            return "after", state
        if hi - lo not in (self.H, *self.narrow):
            raise NoCell(f"a result of {hi - lo} units beside states of {self.H}")
        self.extra.append(e)
        return "extra", len(self.extra) - 1

    def _is_kept(self, n: Node) -> bool:
        return all(
            hi - lo in (self.H, *self.narrow)
            or isinstance(e, State)
            or self._state_after(e) is not None
            for lo, hi, e in self.reader.vectors(n)
        )

    def _state_after(self, e: Any) -> State | None:
        """Return the state whose next value an expression is."""
        return next((s for s, value in self.next.items() if value is e or value == e), None)

    # --- sums ---

    def _find_sums(self) -> None:
        """Find all expressions that results need, and sums with products in them."""
        self.uses: Counter = Counter()
        seen: set = set()

        def visit(e: Any) -> None:
            self.uses[key_of(e)] += 1
            if key_of(e) not in seen:
                seen.add(key_of(e))
                for o in operands_of(e):
                    visit(o)

        self.roots = [*self.next.values(), *self.extra]
        for e in self.roots:
            visit(e)
        self.sums: dict[Any, list[Any]] = {}  # key of a root -> terms
        walked: set = set()

        def walk(e: Any) -> None:
            key = key_of(e)
            if key in walked:
                return
            walked.add(key)
            if not self._is_sum(e):
                for o in operands_of(e):
                    walk(o)
                return
            self.sums[key] = self._terms(e, True)
            for t in self.sums[key]:
                if not isinstance(t, Outer | Linear):
                    walk(t.factor if isinstance(t, Column) else t)

        for e in self.roots:
            walk(e)

    def _is_sum(self, e: Any) -> bool:
        """Return whether an expression is a sum that products, or values of x, are terms of."""
        return isinstance(e, Sum | Outer) or (
            is_add(e) and any(not isinstance(t, Op | State | Total) for t in self._terms(e, True))
        )

    def _terms(self, e: Any, is_root: bool) -> list[Any]:
        is_alone = is_root or self.uses[key_of(e)] == 1
        if isinstance(e, Sum) and is_alone:
            terms = []
            for t in e.terms:
                terms += [t] if isinstance(t, Column | Linear) else self._terms(t, False)
            return terms
        if is_add(e) and is_alone:
            return [t for a in e.args for t in self._terms(a, False)]
        if isinstance(e, Outer):
            return self.reader.linear_of(e) or [e]
        return [e]

    # --- which state is h ---

    def _choose_h(self) -> None:
        columns: Counter = Counter()  # (state, width) -> columns that are products of it
        for terms in self.sums.values():
            products = {(t.factor, width_of(t)) for t in terms if isinstance(t, Column)
                        and isinstance(t.factor, State)}  # fmt: skip
            for key in products:
                columns[key] += 1
        # A product of another state is computed beside gates: they are as wide as h then.
        best = sorted(columns, key=lambda c: (c[1] == self.H, columns[c], c[1]), reverse=True)
        wide = [s for s in self.states if s.hi - s.lo == self.H]
        best = [c for c in best if c[0] in wide and (c[1] == self.H or not self.narrow)]
        self.h, self.gate_width = best[0] if best else (wide[0], self.H)
        self.has_r = bool(best)

    def _is_h(self, t: Any) -> bool:
        return isinstance(t, Column) and t.factor == self.h and width_of(t) == self.gate_width

    # --- gates and products ---

    def _make_gates(self) -> None:
        self.gates: list[Gate] = []
        # Key of a sum -> what its value is a sum of: ("gate", number), ("vector", number),
        # ("column", group, number) and ("value", expression).
        self.value: dict[Any, list[tuple]] = {}
        # (key of a factor, width) -> the factor, and blocks of each column that is a product of it
        self.groups: dict[tuple, tuple[Any, list[tuple[Block, ...]]]] = {}
        self.vectors: list[tuple[Outer, ...]] = []
        self.source = self._common_source()
        uses = Counter(filter(None, map(self._blocks_of_h, self.sums.values())))
        alone: dict[Any, int] = {}  # blocks of R that several sums read -> a gate of h alone
        for key, terms in self.sums.items():
            width = max(map(width_of, terms))
            blocks, parts = self._blocks_of_h(terms), []
            gate = Gate(width=width, **self._outside(terms, width))
            if blocks and uses[blocks] > 1:
                if blocks not in alone:
                    alone[blocks] = len(self.gates)
                    self.gates.append(Gate(h=blocks, width=self.gate_width))
                parts.append(("gate", alone[blocks]))
            elif blocks:
                gate.h = blocks
            bias = tuple(t for t in terms if isinstance(t, Outer) and not t.of_x)
            if gate.x or gate.h:
                gate.bias = bias
            elif gate.ready:
                gate.ready = (*gate.ready, *bias)
            elif bias:
                if bias not in self.vectors:
                    self.vectors.append(bias)
                parts.append(("vector", self.vectors.index(bias)))
            if gate.x or gate.h or gate.ready:
                parts.append(("gate", len(self.gates)))
                self.gates.append(gate)
            parts += self._columns(terms, width)
            parts += [
                ("value", t) for t in terms if isinstance(t, Op | State | Sum | Const | Total)
            ]
            self.value[key] = parts

    def _outside(self, terms: list[Any], width: int) -> dict[str, tuple]:
        """Return a gate's part by x: products with the engine's x, or values ready before."""
        linear = tuple(t for t in terms if isinstance(t, Linear))
        of_x = tuple(t for t in terms if isinstance(t, Outer) and t.of_x)
        is_engines = linear and not of_x and width == self.gate_width
        if is_engines and all(t.source == self.source for t in linear):
            return {"x": linear}
        return {"ready": (*linear, *of_x)}

    def _columns(self, terms: list[Any], width: int) -> list[tuple]:
        """Return a sum's columns of products inside the step."""
        factors: dict[Any, list[Column]] = {}
        for t in terms:
            if isinstance(t, Column) and not self._is_h(t):
                factors.setdefault(key_of(t.factor), []).append(t)
        parts: list[tuple] = []
        for key, columns in factors.items():
            group = key, width
            _, every = self.groups.setdefault(group, (columns[0].factor, []))
            blocks = tuple(c.block for c in columns)
            if blocks not in every:
                every.append(blocks)
            parts.append(("column", group, every.index(blocks)))
        return parts

    def _blocks_of_h(self, terms: Sequence[Any]) -> tuple[Block, ...]:
        return tuple(t.block for t in terms if self._is_h(t))

    def _common_source(self) -> Any:
        """Return the places of x that most gates are products of; () where there are none."""
        sources: Counter = Counter()
        for terms in self.sums.values():
            several = {t.source for t in terms if isinstance(t, Linear)}
            is_ready = any(isinstance(t, Outer) and t.of_x for t in terms)
            width = max(map(width_of, terms))
            if len(several) == 1 and not is_ready and width == self.gate_width:
                sources[several.pop()] += 1
        return sources.most_common(1)[0][0] if sources else ()

    def _make_products(self) -> None:
        """Order the products: what one multiplies is known after the products before it."""
        depths: dict[Any, int] = {}

        def depth(e: Any) -> int:
            key = key_of(e)
            if key not in depths:
                depths[key] = 0
                if key in self.value:
                    below = [depth(p[1]) for p in self.value[key] if p[0] == "value"]
                    below += [1 + depth(self.groups[p[1]][0]) for p in self.value[key]
                              if p[0] == "column"]  # fmt: skip
                else:
                    below = [depth(o) for o in operands_of(e)]
                depths[key] = max(below, default=0)
            return depths[key]

        self.products: list[InnerProduct] = []
        self.place: dict[tuple, list[tuple[int, int]]] = {}  # group -> (product, column) of each
        for group in sorted(self.groups, key=lambda g: depth(self.groups[g][0])):
            factor, blocks = self.groups[group]
            columns = sorted(blocks, key=lambda b: (b[0].node.name, b[0].c0))
            where = {}
            for k in range(0, len(columns), MOST_COLUMNS):
                some = columns[k : k + MOST_COLUMNS]
                for j, column in enumerate(some):
                    where[column] = len(self.products), j
                units = some[0][0].r1 - some[0][0].r0
                self.products.append(InnerProduct(factor, some, group[1], units))
            self.place[group] = [where[c] for c in blocks]
        if len(self.products) > MOST_PRODUCTS:
            raise NoCell(f"{len(self.products)} products inside the step")
        self._find_biases()

    def _find_biases(self) -> None:
        """Make a vector of weights the bias of a product's column where both are of one sum.

        A column of the engines has a bias, whose gradient is the column's: here of zeros if none is
        there.
        """
        uses: Counter = Counter()
        vectors: Counter = Counter()
        for parts in self.value.values():
            uses.update(p[1:] for p in parts if p[0] == "column")
            vectors.update(p[1] for p in parts if p[0] == "vector")
        biases: dict[tuple[int, int], tuple[Outer, ...]] = {}
        for parts in self.value.values():
            alone = [p for p in parts if p[0] == "column" and uses[p[1:]] == 1]
            for part in [p for p in parts if p[0] == "vector" and vectors[p[1]] == 1][: len(alone)]:
                _, group, number = alone.pop()
                biases[self.place[group][number]] = self.vectors[part[1]]
                parts.remove(part)
        left = sorted({p[1] for parts in self.value.values() for p in parts if p[0] == "vector"})
        for parts in self.value.values():
            parts[:] = [("vector", left.index(p[1])) if p[0] == "vector" else p for p in parts]
        self.vectors = [self.vectors[k] for k in left]
        self.biases = [
            [biases.get((k, j), ()) for j in range(len(p.columns))]
            for k, p in enumerate(self.products)
        ]

    # --- the cell ---

    def _make_cell(self) -> None:
        self.order = [s for s in self.states if s != self.h]
        names = [f"s{k}" for k in range(len(self.order))]
        if self.h in self._read() or not self.has_r:
            self.order.insert(0, self.h)
            names.insert(0, "h")
        names += [f"e{k}" for k in range(len(self.extra))]
        every = sorted(range(len(self.gates)), key=lambda k: natural(self.gates[k]))
        with_rows = [k for k in every if self.gates[k].x or self.gates[k].h]
        self.inputs = [k for k in every if self.gates[k].ready]
        inputs = tuple(f"i{k}" for k in self.inputs)
        gate_names = tuple(f"g{k}" for k in with_rows)
        if not gate_names and not inputs:
            raise NoCell("a step that x has no part in")
        if len(gate_names) + len(inputs) > MOST_GATES:
            raise NoCell(f"{len(gate_names) + len(inputs)} gates")
        x_only = {*(f"g{k}" for k in with_rows if not self.gates[k].h), *inputs}
        h_only = {f"g{k}" for k in with_rows if not self.gates[k].x}
        self.layout = Gates((*gate_names, *inputs), frozenset(x_only), frozenset(h_only))
        self.cell = FusedCell(Recipe(
            self.layout, inputs, self.order, tuple(names), self.next, self.h, self.extra,
            self.value, self.place, [p.factor for p in self.products],
            [len(p.columns) for p in self.products], len(self.vectors), self._masks(), self.dtype,
            any(n.target is FUNCTION for n in self.parts.part(STEP)),
        ))  # fmt: skip
        self._find_units()
        self.bias = any(g.bias for g in self.gates)
        self.spec = Spec(self.cell.name, units=self.units, bias=self.bias)

    def _find_units(self) -> None:
        """Find the engine's number of units of each value; None: all have H.

        A state that no product is made of, nor makes, has H units there: it and the inputs that it
        meets have zeros behind them.
        """
        H, p = self.H, self.cell.program()
        self.input_units = [H] * len(self.inputs)
        self.units = None
        widths = [self.gate_width, *(q.width for q in self.products)]
        factors = [q.factor_width for q in self.products]
        inputs = [self.gates[k].width for k in self.inputs]
        states = [width_of(s) for s in (*self.order, *self.extra)]
        if all(w == H for w in (*widths, *factors, *inputs, *states)):
            return
        of, numbers = p.widths, [Widths.gates, *(2 + k for k in p.matrices)]
        names = {f"values {n}": (n, w) for n, w in zip(numbers, widths, strict=True)}
        names |= {f"a state, {n}": (n, w) for n, w in zip(of.of_states, states, strict=True)}
        of_factors = zip((of.of_factors[k] for k in p.matrices), factors, strict=True)
        names |= {f"factor {k}": pair for k, pair in enumerate(of_factors)}
        untold = {w for n, w in zip(of.of_states, states, strict=True) if of.root(n) == of.h}
        narrow = untold - {H}
        self._check_no_sums_of(narrow)
        others = {name: w for name, (n, w) in names.items() if w != H and of.root(n) != of.h}
        if not others and all(w == H for w in (*widths, *factors)):
            return
        try:
            self.units = units_of(p, {name: n for name, (n, _) in names.items()}, others, H)
        except Refused as refused:
            raise NoCell(f"widths: {refused.got}; expected {refused.expected}") from None
        self.input_units = [*self.units.inputs]
        fits = [w in (1, units) or (w in narrow and units == H)
                for w, units in zip(inputs, self.input_units, strict=True)]  # fmt: skip
        if self.units[:3] != (self.gate_width, tuple(widths[1:]), tuple(factors)) or not all(fits):
            raise NoCell("widths of products and inputs")

    def _check_no_sums_of(self, narrow: set[int]) -> None:
        """Refuse sums and maxima of states with zeros behind them; narrow: how many units."""
        for e in self._read():
            if isinstance(e, Total) and (units := width_of(e.value)) in narrow:
                raise NoCell(f"{units} units beside {self.H}: a {e.kind}")

    def _read(self) -> list[Any]:
        """Return the expressions that the step reads, each once, beside R's product of h."""
        read: dict[Any, Any] = {}

        def visit(e: Any) -> None:
            key = key_of(e)
            if key in read:
                return
            read[key] = e
            if key not in self.value:
                for o in operands_of(e):
                    visit(o)
            for part in self.value.get(key, ()):
                if part[0] == "value":
                    visit(part[1])
                elif part[0] == "column":
                    visit(self.groups[part[1]][0])

        for e in self.roots:
            visit(e)
        return [*read.values()]

    def _masks(self) -> set[Any]:
        """Return the values of x, or of weights, that are true or false: kernels have 1 or 0."""
        masks = set()
        for e in self.value:
            if isinstance(e, Outer):
                dtype = self.places.node_at(e.places[0]).meta["val"].dtype
                if dtype == torch.bool:
                    masks.add(e)
                elif not dtype.is_floating_point:
                    raise NoCell(f"numbers of {dtype} in a step")
        return masks

    def is_one_weight(self) -> bool:
        """Return whether the gates are rows of one weight, in their order."""
        return len({b.node for g in self.gates for b in g.h}) == 1 < len(self.gates)


class Evaluation:
    """One evaluation of a step's expressions."""

    def __init__(self, recipe: Recipe, parts: Any, states: Any, vectors: Any, product: Any) -> None:
        self._recipe, self._vectors, self._product = recipe, vectors, product
        self._like, names = parts[0], recipe.layout.names
        self._parts = {
            (names[k][0], int(names[k][1:])): part
            for (_, k), part in zip(recipe.layout.columns, parts, strict=True)
        }
        self._known: dict[Any, Any] = dict(zip(recipe.order, states, strict=False))
        self._columns: dict[int, list[Tensor]] = {}

    def value(self, e: Any) -> Any:
        """Return the value of an expression, a constant or an operator's argument."""
        if isinstance(e, Const):
            return e.value
        if isinstance(e, tuple):
            return [self.value(a) for a in e]
        key = key_of(e)
        if key not in self._known:
            if key in self._recipe.value:
                terms = [self._term(*part) for part in self._recipe.value[key]]
                total = sum(terms[1:], terms[0])
                self._known[key] = total > 0.5 if key in self._recipe.masks else total
            elif isinstance(e, Total):
                units = full(self.value(e.value), self._like)
                make = torch.amax if e.kind == MAXIMUM else torch.sum
                self._known[key] = make(units, -1, keepdim=True)
            else:
                self._known[key] = run_op(e.node, [self.value(a) for a in e.args], self._like)
        return self._known[key]

    def _term(self, kind: str, what: Any, number: int = 0) -> Any:
        if kind == "gate":
            parts = [self._parts[name, what] for name in "gi" if (name, what) in self._parts]
            return sum(parts[1:], parts[0])
        if kind == "vector":
            return self._vectors[what]
        if kind == "column":
            k, j = self._recipe.place[what][number]
            return self.columns_of(k)[j]
        return self.value(what)

    def columns_of(self, k: int) -> list[Tensor]:
        """Return the columns that product k makes; products are called in their order."""
        for j in range(k + 1):
            if j not in self._columns:
                factor = self.value(self._recipe.factors[j])
                if not isinstance(factor, Tensor):
                    factor = self._like * 0 + factor
                rows = self._like.shape[:-1]
                columns = self._product(j, factor.expand(*rows, -1))
                first = self._recipe.vectors + sum(self._recipe.columns[:j])
                biases = self._vectors[first : first + len(columns)]
                self._columns[j] = [a + b for a, b in zip(columns, biases, strict=True)]
        return self._columns[k]


def run_op(node: Node, args: list[Any], like: Tensor) -> Any:
    """Run an elementwise operation on unit vectors."""
    kwargs = dict(node.kwargs)
    if node.target is STOP:
        return args[0].detach() if isinstance(args[0], Tensor) else args[0]
    if node.target is FUNCTION:
        results = call_function(args[0], list(args[1]))
        if len(results) != 1:
            raise NoCell("an autograd.Function of several results")
        return results[0]
    floats = kwargs.get("dtype") in (torch.float32, torch.float64)
    if floats and name_of(node) == "_to_copy" and isinstance(args[0], Tensor):
        return args[0].to(like.dtype)
    if not any(isinstance(a, Tensor) for a in args):
        args = [like * 0 + args[0], *args[1:]]
    if name_of(node) == "where":
        return torch.where(*args)
    result = node.target(*args, **kwargs)
    return result[0] if isinstance(result, tuple | list) else result


def full(value: Any, like: Tensor) -> Tensor:
    """Return a value as a tensor of as many rows as another."""
    if not isinstance(value, Tensor):
        return torch.zeros_like(like) + value
    rows = like.shape[:-1]
    return value if value.shape[:-1] == rows else value.expand(*rows, -1)


def key_of(e: Any) -> Any:
    """Return what an expression is known by: a reader makes each Op, Sum and Total once."""
    return id(e) if isinstance(e, Op | Sum | Total) else e


def is_add(e: Any) -> bool:
    """Return whether an expression adds two others."""
    return (
        isinstance(e, Op) and e.node.target is torch.ops.aten.add.Tensor and len(e.args) == 2
        and not e.node.kwargs and not any(isinstance(a, Const) for a in e.args)
    )  # fmt: skip


def natural(g: Gate) -> tuple:
    """Return a key that sorts gates as their rows lie in a weight."""
    first = (g.x or g.h or g.ready)[0]
    if isinstance(first, Linear):
        return 0, first.node.name, first.c0
    if isinstance(first, Block):
        return 1, first.node.name, first.c0
    return 2, "", first.places[0]
