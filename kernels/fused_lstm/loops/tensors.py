"""The engine's tensors of a call, made of a person's: weights, x and states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cells.gates import Gates
from ..operator.pullback import is_transformed
from .capture import Node, aten
from .lower import Gate, Lowered
from .parts import Values
from .vectors import Block, Linear, Outer, Stretch, units_in


@dataclass(frozen=True)
class Slice:
    """Rows row0 to row1 and columns column0 to column1 of a weight as the engine has it, [out, in].

    is_turned: whether the value is the weight's transpose, [in, out], as a product's second factor.
    """

    node: Node
    row0: int
    row1: int
    column0: int
    column1: int
    is_turned: bool

    def of(self, value: Tensor) -> Tensor:
        """Return the rows and columns of a value, as a view."""
        value = value.T if self.is_turned else value
        if (self.row0, self.row1) != (0, value.shape[0]):
            value = value[self.row0 : self.row1]
        if (self.column0, self.column1) != (0, value.shape[1]):
            value = value[:, self.column0 : self.column1]
        return value


def slice_of(b: Block) -> Slice:
    """Return a block of a product's second factor; of a Linear's, the parameter's own rows."""
    if b.node.target is aten.t.default:
        return Slice(b.node.args[0], b.c0, b.c1, b.r0, b.r1, False)  # type: ignore[arg-type]
    return Slice(b.node, b.c0, b.c1, b.r0, b.r1, True)


class Part(NamedTuple):
    """Columns of some rows of a weight: a sum of slices, or zeros."""

    columns: int
    slices: tuple[Slice, ...] = ()


@dataclass
class WeightRows:
    """Rows of a weight: `parts` side by side."""

    rows: int
    parts: list[Part]


class Matrix:
    """A weight of the engine, as rows of slices of a person's."""

    def __init__(self, rows: list[WeightRows], columns: int) -> None:
        self.rows = merged(rows)
        self.columns = columns
        self.single = self._single()

    def _single(self) -> Slice | None:
        """Return the slice that this is, where that is all of a value, as it is or transposed."""
        if len(self.rows) != 1 or len(self.rows[0].parts) != 1:
            return None
        slices = self.rows[0].parts[0].slices
        is_value = len(slices) == 1 and covers(list(slices), slices[0].node.meta["val"].shape)
        return slices[0] if is_value else None

    def value(self, of: dict[Node, Tensor], like: Tensor) -> Tensor:
        """Return the weight; `of` has the values that slices are of."""
        if self.single is not None:
            value = of[self.single.node]
            return value.T if self.single.is_turned else value
        every = [self._of_rows(r, of, like) for r in self.rows]
        if len(every) == 1:
            return every[0]
        return torch.cat(every) if every else like.new_empty(0, self.columns)

    def _of_rows(self, r: WeightRows, of: dict[Node, Tensor], like: Tensor) -> Tensor:
        parts = [self._of_part(r.rows, part, of, like) for part in r.parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    @staticmethod
    def _of_part(rows: int, part: Part, of: dict[Node, Tensor], like: Tensor) -> Tensor:
        if not part.slices:
            return like.new_zeros(rows, part.columns)
        slices = [s.of(of[s.node]) for s in part.slices]
        return slices[0] if len(slices) == 1 else sum(slices[1:], slices[0])

    def add_gradients(self, gradient: Tensor, into: dict[Node, Tensor], written: set) -> None:
        """Write or add the gradients of slices to those of whole values.

        written: slices that `into` has a gradient of already.
        """
        top = 0
        for r in self.rows:
            left = 0
            for part in r.parts:
                for s in part.slices:
                    if s.node in into:
                        g = gradient[top : top + r.rows, left : left + part.columns]
                        place = s.of(into[s.node])
                        place.add_(g) if s in written else place.copy_(g)
                        written.add(s)
                left += part.columns
            top += r.rows


def merged(rows: list[WeightRows]) -> list[WeightRows]:
    """Join rows of slices that lie one above the other in the same values: one slice then."""
    result: list[WeightRows] = []
    for r in rows:
        last = result[-1] if result else WeightRows(0, [])
        alike = bool(result) and len(last.parts) == len(r.parts)
        joins = alike and all(
            len(p.slices) == len(q.slices) == 1
            and replace(p.slices[0], row0=p.slices[0].row1, row1=q.slices[0].row1) == q.slices[0]
            for p, q in zip(last.parts, r.parts, strict=True)
        )
        if not joins:
            result.append(r)
            continue
        parts = [
            p._replace(slices=(replace(p.slices[0], row1=q.slices[0].row1),))
            for p, q in zip(last.parts, r.parts, strict=True)
        ]
        result[-1] = WeightRows(last.rows + r.rows, parts)
    return result


class Weights(torch.autograd.Function):
    """All weight matrices of an engine, as a function of a person's, with one backward.

    The backward of a slice writes zeros of the whole weight, and each weight has several slices.
    """

    @staticmethod
    def forward(ctx: Any, matrices: Any, nodes: Any, like: Tensor, *values: Tensor) -> Any:
        ctx.matrices, ctx.nodes = matrices, nodes
        ctx.shapes = [(v.shape, v.stride(), v.dtype, v.device) for v in values]
        of = dict(zip(nodes, values, strict=True))
        return tuple(matrix.value(of, like) for matrix in matrices)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        into: dict[Node, Tensor] = {}
        slices: dict[Node, list[Slice]] = {}
        written: set = set()
        for matrix, g in zip(ctx.matrices, gradients, strict=True):
            for r in matrix.rows if g is not None else ():
                for part in r.parts:
                    for s in part.slices:
                        slices.setdefault(s.node, []).append(s)
        for n, (shape, stride, dtype, device), needs in zip(
            ctx.nodes, ctx.shapes, ctx.needs_input_grad[3:], strict=True
        ):
            if needs and n in slices:
                into[n] = torch.empty_strided(shape, stride, dtype=dtype, device=device)
                if not covers(slices[n], shape):
                    into[n].zero_()
                    written.update(slices[n])
        for matrix, g in zip(ctx.matrices, gradients, strict=True):
            if g is not None:
                matrix.add_gradients(g, into, written)
        return None, None, None, *(into.get(n) for n in ctx.nodes)


def covers(slices: list[Slice], shape: Sequence[int]) -> bool:
    """Return whether slices are the whole of a value.

    Of those that are turned alike any two are equal or apart.
    """
    if len({s.is_turned for s in slices}) > 1:
        return False
    different = set(slices)
    area = sum((s.row1 - s.row0) * (s.column1 - s.column0) for s in different)
    apart = all(
        a is b or a.row1 <= b.row0 or b.row1 <= a.row0
        or a.column1 <= b.column0 or b.column1 <= a.column0
        for a in different for b in different
    )  # fmt: skip
    return apart and area == shape[0] * shape[1]


class Tensors:
    """Makes the engine's tensors of a lowered step, in each call.

    Args:
        low: the step. layout: its gates in the order of the engine's rows.
    """

    def __init__(self, low: Lowered, layout: Gates) -> None:
        self.low, self.layout = low, layout
        self.places, self.parts = low.places, low.parts
        gates = [low.gates[int(name[1:])] for name in layout.names]
        self.of_x = [gates[k] for k in layout.by_x if layout.names[k][0] == "g"]
        self.of_h = [gates[k] for k in layout.by_h]
        self.reads_x = any(g.x for g in self.of_x)
        self.matrices = [self._weight_ih(), self._weight_hh(), *map(self._inner, low.products)]
        self.nodes = list(dict.fromkeys(
            s.node for m in self.matrices for r in m.rows for p in r.parts for s in p.slices
        ))  # fmt: skip
        self.are_values = all(m.single is not None for m in self.matrices)
        self.has_vectors = bool(low.cell.vectors)
        self.biases = self._biases()
        self.whole_biases = [self._whole(terms) for terms in self.biases]
        self.bias_nodes = [self._node_of(stretches) for stretches in self.whole_biases]
        ready = [t for g in low.gates for t in g.ready]
        bias = [t for g in low.gates for t in g.bias] + [t for v in low.vectors for t in v]
        bias += [t for of_one in low.biases for several in of_one for t in several]
        outer = [t for t in (*bias, *ready) if isinstance(t, Outer)]
        linears = [slices_of(t) for t in ready if isinstance(t, Linear)]
        self.once = [*self.nodes, *(s.node for slices in linears for s in slices)]
        self.once += [self.places.node_at(t.places[0]) for t in outer if not t.of_x]
        self.once = list(dict.fromkeys(self.once))
        stretches = [t.places for t in outer if t.of_x]
        stretches += [s for t in ready if isinstance(t, Linear) for s in t.source]
        stretches += low.source if self.reads_x else ()
        of_x = [
            self.places.node_at(p) for s in stretches for p in (s[:-1] if s[-1] == -1 else s[:1])
        ]
        self.of_values = list(dict.fromkeys(of_x))

    # --- which slices a weight is made of ---

    def _weight_ih(self) -> Matrix:
        low = self.low
        width = sum(units_in(s) for s in low.source) if self.reads_x else 0
        rows = []
        for g in self.of_x:
            parts = []
            for place, stretch in enumerate(low.source if self.reads_x else ()):
                count = units_in(stretch)
                parts.append(Part(count, tuple(slices_of(t)[place] for t in g.x)))
            parts = parts or [Part(width)] * bool(width)
            rows.append(WeightRows(low.gate_width, parts))
        return Matrix(rows, width)

    def _weight_hh(self) -> Matrix:
        H, width = self.low.H, self.low.gate_width
        parts = [Part(H, tuple(map(slice_of, g.h))) for g in self.of_h]
        return Matrix([WeightRows(width, [part]) for part in parts], H)

    def _inner(self, product: Any) -> Matrix:
        rows = []
        for blocks in product.columns:
            b, slices = blocks[0], tuple(map(slice_of, blocks))
            rows.append(WeightRows(b.c1 - b.c0, [Part(b.r1 - b.r0, slices)]))
        return Matrix(rows, product.factor_width)

    def _biases(self) -> list[list[tuple[Outer, ...]]]:
        """Return the terms of bias_ih and of bias_hh, gate by gate.

        The kernels add both biases of a gate that both x and h have a part in. Two terms of such a
        gate go one to each where each bias is then a whole vector, as of two Linears.
        """
        shared = [g for g in self.of_h if g.x]
        if shared and all(len(g.bias) == 2 for g in shared):
            for first in (0, 1):
                apart = [
                    [(g.bias[k],) if g in shared else g.bias for g in gates]
                    for k, gates in ((first, self.of_x), (1 - first, self.of_h))
                ]
                if all(self._whole(terms) is not None for terms in apart):
                    return apart
        return [[g.bias for g in self.of_x], [() if g.x else g.bias for g in self.of_h]]

    def _whole(self, terms: list[tuple[Outer, ...]]) -> list[Stretch] | None:
        """Return whole vectors whose sum is a bias of all gates, or None."""
        width = self.low.gate_width
        if not all(terms) or len(set(map(len, terms))) != 1:
            return None
        columns = [[t[k].places for t in terms] for k in range(len(terms[0]))]
        if not all(lie_in_a_row(column, width) for column in columns):
            return None
        return [(c[0][0], width * len(c)) for c in columns]

    def _node_of(self, stretches: list[Stretch] | None) -> Node | None:
        """Return the node of the vector that a bias is, as it is, or None."""
        if stretches is None or len(stretches) > 1:
            return None
        place, width = stretches[0]
        node = self.places.node_at(place)
        is_all = place == self.places.base[node] and tuple(node.meta["val"].shape) == (width,)
        return node if is_all else None

    # --- a call ---

    def weights(self, values: Values, like: Tensor) -> list[Tensor]:
        """Return the engine's weights; like: a tensor of their dtype and device."""
        of = values.of
        plain = self.are_values or is_transformed() or torch.compiler.is_compiling()
        inputs = () if plain else [of[n] for n in self.nodes]
        if torch.is_grad_enabled() and any(t.requires_grad for t in inputs):
            matrices = list(Weights.apply(self.matrices, self.nodes, like, *inputs))
        else:
            matrices = [m.value(of, like) for m in self.matrices]
        result = matrices[:2]
        if self.low.bias:
            result += [self._bias(k, of, like) for k in range(2)]
        if self.has_vectors:
            longest = self.low.H if self.low.units is None else self.low.units.widest(self.low.H)
            every = [*self.low.vectors, *(bias for of_one in self.low.biases for bias in of_one)]
            zeros = like.new_zeros(longest)
            vectors = [self._sum(v, of).to(like.dtype) if v else zeros for v in every]
            vectors = [F.pad(v, (0, longest - len(v))) if len(v) < longest else v for v in vectors]
            result.append(torch.cat(vectors))
        return [w.contiguous() for w in (*result, *matrices[2:])]

    def _bias(self, k: int, of: dict[Node, Tensor], like: Tensor) -> Tensor:
        """Return bias_ih (k = 0) or bias_hh (1) of all gates."""
        if self.bias_nodes[k] is not None:
            return of[self.bias_nodes[k]]
        terms, whole, width = self.biases[k], self.whole_biases[k], self.low.gate_width
        if not any(terms):
            return like.new_zeros(width * len(terms))
        if whole is not None:
            vectors = [self._outer(stretch, of) for stretch in whole]
            return sum(vectors[1:], vectors[0])
        return torch.cat([self._sum(t, of) if t else like.new_zeros(width) for t in terms])

    def _sum(self, terms: tuple[Outer, ...], of: dict[Node, Tensor]) -> Tensor:
        every = [self._outer(t.places, of) for t in terms]
        return sum(every[1:], every[0])

    def _outer(self, stretch: Stretch, of: dict[Node, Tensor]) -> Tensor:
        """Return numbers of a value of weights, [width]."""
        node = self.places.node_at(stretch[0])
        value = of[node]
        value = value if value.dim() == 1 else value.reshape(-1)
        return taken(value, stretch, self.places.base[node])

    # --- x ---

    def x(self, values: Values) -> Tensor:
        """Return the engine's x [T, B, ..]: what W multiplies, and the inputs behind it."""
        low, T, B = self.low, values.T, values.B
        like = values.of[self.parts.graph.x[0]]
        parts = [self._gathered(low.source, values)] if self.reads_x else []
        if not (self.reads_x or low.inputs):
            parts = [like.new_zeros(T, B, 0, dtype=low.dtype)]
        whole = self._inputs_in_a_row(values) if len(low.inputs) > 1 else None
        if whole is not None:
            parts.append(whole)
        else:
            for k, units in zip(low.inputs, low.input_units, strict=True):
                ready = self._ready(low.gates[k], values)
                parts.append(as_wide(ready.expand(T, B, ready.shape[-1]), units))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _ready(self, g: Gate, values: Values) -> Tensor:
        """Return a value of x that is computed before the loop, [T, B, width]."""
        terms = []
        for t in g.ready:
            if isinstance(t, Linear):
                term = F.linear(self._gathered(t.source, values), self._linear(t, values))
            elif t.of_x:
                term = self._of_steps(t.places, values)
            else:
                term = self._outer(t.places, values.of)
            terms.append(term.to(self.low.dtype))
        return sum(terms[1:], terms[0])

    def _linear(self, t: Linear, values: Values) -> Tensor:
        slices = [s.of(values.of[s.node]) for s in slices_of(t)]
        return slices[0] if len(slices) == 1 else torch.cat(slices, 1)

    def _gathered(self, source: tuple[Stretch, ...], values: Values) -> Tensor:
        parts = [self._of_steps(stretch, values) for stretch in source]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _of_steps(self, stretch: Stretch, values: Values) -> Tensor:
        """Return numbers of a value of all steps, [T, B, width]."""
        node = self.places.node_at(stretch[0])
        value = values.per_step(node)
        value = value if value.dim() == 3 else value.reshape(values.T, values.B, -1)
        return taken(value, stretch, self.places.base[node])

    def _inputs_in_a_row(self, values: Values) -> Tensor | None:
        """Return all inputs side by side where their terms lie so already."""
        ready = [self.low.gates[k].ready for k in self.low.inputs]
        width = self.low.gates[self.low.inputs[0]].width
        of_inputs = [*self.low.input_units, *(self.low.gates[k].width for k in self.low.inputs)]
        if len(set(map(len, ready))) != 1 or set(of_inputs) != {width}:
            return None
        terms = [in_a_row(several, width) for several in zip(*ready, strict=True)]
        return None if None in terms else self._ready(Gate(ready=tuple(terms)), values)


def slices_of(t: Linear) -> list[Slice]:
    """Return the weight's columns of each stretch of x."""
    return [slice_of(Block(t.node, *rows, t.c0, t.c1)) for rows in t.rows]


def in_a_row(terms: Sequence[Any], width: int) -> Any:
    """Return one value, or one product, of which terms of so many units are the parts; or None."""
    first, count = terms[0], len(terms)
    if all(isinstance(t, Outer) and t.of_x == first.of_x for t in terms):
        is_row = lie_in_a_row([t.places for t in terms], width)
        return Outer((first.places[0], width * count), first.of_x) if is_row else None
    if all(
        isinstance(t, Linear) and t.node is first.node and t.source == first.source
        and t.c0 == first.c0 + k * width and t.c1 == t.c0 + width
        for k, t in enumerate(terms)
    ):  # fmt: skip
        return Linear(first.source, first.node, first.rows, first.c0, terms[-1].c1)
    return None


def lie_in_a_row(stretches: list[Stretch], width: int) -> bool:
    """Return whether stretches of so many places each lie one behind the other."""
    first = stretches[0][0]
    return all(s == (first + k * width, width) for k, s in enumerate(stretches))


def taken(value: Tensor, stretch: Stretch, base: int) -> Tensor:
    """Return the numbers of a stretch of places; base: the place of a value's first number."""
    if stretch[-1] == -1:
        return value[..., torch.tensor(stretch[:-1], device=value.device) - base]
    lo, width = stretch[0] - base, stretch[1]
    if len(stretch) == 3:
        return value[..., lo : lo + 1].expand(*value.shape[:-1], width)
    return value if width == value.shape[-1] else value[..., lo : lo + width]


def as_wide(value: Tensor, H: int) -> Tensor:
    """Return a value of x of H units: one number for all of them, or zeros behind it."""
    if value.shape[-1] == 1 and H > 1:
        return value.expand(*value.shape[:-1], H)
    return F.pad(value, (0, H - value.shape[-1])) if value.shape[-1] < H else value
