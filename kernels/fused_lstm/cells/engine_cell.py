"""A cell as the engines know it: its programs, printed and compiled where they are used.

Whoever makes one says its gates, states, vectors, products and inputs, and how a step runs:
`fused_lstm.cell` is told them, `fused_lstm.fuse` finds them in a person's step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from ..call.kind import Kind
from ..call.spec import CELLS, PROJECTED, WITH_ZONEOUT, Spec, Units
from ..errors import meant
from . import compile, print_cpp, print_triton
from .gates import Gates
from .meetings import in_few_phases
from .program import Program
from .step import Product

# InnerProducts of native/isa/kernels.h: products of a step, and the columns that one makes.
MOST_PRODUCTS, MOST_COLUMNS = 8, 4
OPTIONS = "layer_norm", "num_heads", "zoneout", "recurrent_dropout"  # that a cell may have


class EngineCell:
    """A cell as the engines know it.

    Attributes:
        name: unique among all cells; engines know the cell by it.
        gates: see `fused_lstm.cells.gates.Gates`; the inputs are the last ones.
        states, inputs: names.
        weights: names of vectors of a unit. vectors: these, and the biases of products' columns.
        products: name -> the columns of a unit that a product inside the step makes.
    """

    name: str
    gates: Gates
    states: tuple[str, ...]
    weights: tuple[str, ...]
    vectors: tuple[str, ...]
    inputs: tuple[str, ...]
    products: dict[str, int]

    def step(
        self,
        parts: Sequence[Tensor],
        states: Sequence[Tensor],
        vectors: Sequence[Tensor],
        product: Product,
    ) -> tuple[Tensor, list[Tensor]]:
        """Run a step after R h: its pointwise part, and the products inside it.

        Args:
            parts: of gates before activation, [B, H] each, in the order of `gates.columns`.
            states, vectors: [B, H] and [H] each, in the order of `states` and `vectors`.
            product: (k, value [B, H]) -> the columns that product k makes of it, without a bias.

        Returns h [B, H] and the states after the step.
        """
        raise NotImplementedError

    def _traced(self, zoneout: bool) -> Program:
        """Return the program of a step; zoneout: with zoneout of its states."""
        raise NotImplementedError

    def refused(self) -> dict[str, str]:
        """Return the options that a layer of the cell cannot have: name -> why."""
        raise NotImplementedError

    @cached_property
    def is_h(self) -> bool:
        """Return whether h is the only state; beside others the kernels have it as one more."""
        return self.states == ("h",)

    @property
    def has_c(self) -> bool:
        """Return whether there are states that are kept in the engines' c."""
        return bool(self.states) and not self.is_h

    @cached_property
    def _programs(self) -> dict[bool, Program]:  # by whether states are kept in part
        return {}

    @cached_property
    def _few_phases(self) -> dict[bool, Program]:  # by whether states are kept in part
        return {}

    @cached_property
    def _ready(self) -> set[tuple[str, str]]:  # instruction set or "triton", a variant
        return set()

    def widths_of(self, values: str, H: int, units: Units) -> list[int]:
        """Return how many units each of a step's values has.

        values: "weights", "inputs" or "states". H: of h.
        """
        if not self.products:  # and no program: a transform of a caller's may be under way
            return [H] * len(self.vectors if values == "weights" else getattr(self, values))
        width = self.program().widths
        return [*map(width.sizes(H, units), getattr(width, f"of_{values}"))]

    def widths_of_calls(self, H: int, units: Units) -> list[tuple[int, int]]:
        """Return how many units each product, sum or maximum is of, and its gradient is."""
        p = self.program()
        width, columns = p.widths, [*accumulate(p.inner, initial=0)]
        back = [
            width.of_node.get(p.dproducts[columns[k]], width.h) if k in p.sums else 2 + k
            for k in range(len(p.inner))
        ]
        units_of = width.sizes(H, units)
        return [*zip(map(units_of, width.of_factors), map(units_of, back), strict=True)]

    def widths_of_columns(self, total: int, H: int, units: Units) -> list[int]:
        """Return how many units each part of a gate has, the inputs last.

        total: of all of them. H: of h. units: where those of gates are not known.
        """
        if not self.products:
            return [H] * len(self.gates.columns)
        p = self.program()
        width, units_of = p.widths, p.widths.sizes(H, units)
        roots = [width.of_gate(k) for k in range(len(p.gates.columns))]
        like_gates = width.root(width.gates)
        is_known = like_gates in map(width.root, (width.h, *(2 + k for k in p.matrices)))
        others = [units_of(root) for root in roots if is_known or root != like_gates]
        if len(others) == len(roots):
            return others
        gates = (total - sum(others)) // (len(roots) - len(others))
        return [gates if root == like_gates else units_of(root) for root in roots]

    def program(self, zoneout: bool = False) -> Program:
        """Return the cell's programs, with zoneout of its states or without."""
        if zoneout not in self._programs:
            self._programs[zoneout] = self._traced(zoneout)
        return self._programs[zoneout]

    @property
    def has_sums(self) -> bool:
        """Return whether units of a row meet in a sum or a maximum."""
        return bool(self.program().sums)

    def numbers(self, spec: Spec) -> int:
        """Return how many numbers of a row a step saves, behind the states."""
        return len(self.program(any(spec.zones)).numbers)

    def _register(self) -> None:
        """Make the engines know the cell by its name."""
        states = ("h", *self.states) if self.has_c else ("h",)
        gates, refused = self.gates, self.refused()
        options = tuple(name for name in OPTIONS if name not in refused)
        CELLS[self.name] = Kind(
            len(gates.by_x), options, states, of_torch=False, h_gates=len(gates.by_h),
            apart=len(gates.of_h), weights=len(self.vectors), custom=True,
            inner=tuple(self.products.values()), inputs=len(self.inputs),
            projects=self.has_c and "h" not in self.states and bool(gates.by_h),
            cell=self,
        )  # fmt: skip

    def prepare(self, engine: str, spec: Spec) -> str | None:
        """Make the cell ready for an engine; return why that cannot be, or None."""
        if engine == "triton" and (self.products or self.has_sums):
            units = spec.units
            refused = {
                "beside a projected h": spec.projection,
                "of more units than h, or gates of others": units is not None and not units.narrow,
            }
            for where, is_so in refused.items():
                if is_so:
                    return f"engine 'triton' has no products or sums inside a step {where}"
        if engine == "triton":
            self.on_triton(any(spec.zones))
        if engine == "native":
            try:
                self.on_native(spec.is_dropped, spec.projection)
            except compile.CannotCompile as error:
                return str(error)
        return None

    def columns(self, engine: str, spec: Spec) -> int:
        """Return the columns a unit that a step saves on an engine."""
        if engine == "native":
            return self._on_native(spec.is_dropped, spec.projection).columns
        p = self._on_gpu(any(spec.zones))
        saved, by_x = len(p.saved) + spec.projection, len(self.gates.by_x)  # which lie there too
        return saved + by_x if p.inner else max(saved, by_x)

    def is_wide(self, spec: Spec) -> bool:
        """Return whether a step saves more than sigmoids and hyperbolic tangents.

        Other values may be too large for float16. A backward may compare them, and has to decide as
        the step did, above all which unit is the maximum, whatever that is of.
        """
        p = self._on_gpu(any(spec.zones))
        operations = {p.expressions.nodes[n][0] for n in p.saved}
        return p.compares or not operations <= {"sigmoid", "tanh"}

    @property
    def compares(self) -> bool:
        """Return whether a backward finds a maximum among what a step has saved."""
        return self.program().compares

    def _on_gpu(self, zoneout: bool) -> Program:
        """Return the program that `triton` runs."""
        if zoneout not in self._few_phases:
            p = self.program(zoneout)
            self._few_phases[zoneout] = in_few_phases(p) if p.inner else p
        return self._few_phases[zoneout]

    def _variant(self, zoneout: bool, projected: bool = False) -> str:
        """Return an operator's `cell`, without layer_norm."""
        names = [self.name, *[WITH_ZONEOUT] * zoneout, *[PROJECTED] * projected]
        return ",".join(names)

    def _on_native(self, zoneout: bool, projected: bool) -> Program:
        """Return the program that `native` runs.

        projected: a step saves its h last, from which the gradient of weight_hr is made.
        """
        p = self.program(zoneout)
        return replace(p, saved=(*p.saved, p.h)) if projected else p

    def on_native(self, zoneout: bool = False, projected: bool = False) -> None:
        """Compile the cell for the CPU's instruction set in use, where it is not yet.

        Raises:
            compile.CannotCompile: there is no compiler, or nowhere to put what it makes.
        """
        isa, name = torch.ops.fused_lstm_native.isa(), self._variant(zoneout, projected)
        if (isa, name) in self._ready:
            return
        p = self._on_native(zoneout, projected)
        if p.inner and p.inputs > MOST_PRODUCTS:
            raise compile.CannotCompile(
                f"got {p.inputs} inputs of a cell with products inside the step; expected at most"
                f" {MOST_PRODUCTS}"
            )
        tables = compile.compiled(print_cpp.source(p, ", .saves_h = true" * projected), isa)
        try:
            torch.ops.fused_lstm_native.add_cell(name, tables)
        except RuntimeError as error:  # there are a thousand others
            raise compile.CannotCompile(str(meant(error))) from None
        self._ready.add((isa, name))

    def on_triton(self, zoneout: bool = False) -> None:
        """Write the cell's Triton functions, where they are not yet."""
        if ("triton", self._variant(zoneout)) in self._ready:
            return
        from ..triton import launch

        launch.CUSTOM[self.name, zoneout] = print_triton.load(self._on_gpu(zoneout), self.name)
        self._ready.add(("triton", self._variant(zoneout)))
