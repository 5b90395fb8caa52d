"""`Kind`: what is known of a cell by its name: its gates, its states, the options that it has.

fused_lstm.call.kinds has the library's cells; `fused_lstm.cell` and `fuse` add theirs.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Kind(NamedTuple):
    """The properties of a kind of cell. Its name is a label: no rule reads it."""

    gates: int  # rows of weight_ih / H
    options: tuple[str, ...]  # the options of Spec that it has, beside `reverse`
    # The states of a step: h, and those that lie side by side in c. If there are none, c is h in
    # the state dtype.
    states: tuple[str, ...] = ("h",)
    of_torch: bool = True  # a cell of torch.nn's
    apart: int = 0  # how many of h's parts of gates are not added to one of x's
    weights: int = 0  # vectors [H] that a custom cell reads
    inputs: int = 0  # of its gates, the last ones, which lie behind x and are not multiplied
    custom: bool = False  # made by fused_lstm.cell
    projects: bool = False  # h may be projected: no state is h
    h_gates: int | None = None  # rows of weight_hh / H, where these are not as many
    is_lstm: bool = False  # nn.LSTM's cell, which has levels and options that no other cell has
    kept: int = 0  # `columns` of a cell of the library's, before its options
    wide: bool = False  # `is_wide` of a cell of the library's
    inner: tuple[int, ...] = ()  # columns of a unit that each product inside a step makes
    cell: Any = None  # the fused_lstm.cells.Cell that it is told as; cells/library.py sets it

    def columns(self, engine: str, spec: Any) -> int:
        """Return the columns a unit that a step saves; 0 where its backward needs h alone."""
        if self.custom:
            return self.cell.columns(engine, spec)
        if engine == "triton" and not self.kept:  # x's parts of the gates lie there
            return self.gates
        return self.kept - spec.coupled

    def is_wide(self, engine: str, spec: Any) -> bool:
        """Return whether half precision cannot hold what a step saves on an engine."""
        if engine == "native":
            return self.custom and self.cell.compares
        return self.cell.is_wide(spec) if self.custom else self.wide

    def takes(self, option: str) -> bool:
        """Return whether it has an option of Spec: any cell may be reversed."""
        return option in (*self.options, "reverse")

    @property
    def of_h(self) -> int:
        """Return the rows of weight_hh / H."""
        return self.gates if self.h_gates is None else self.h_gates

    @property
    def sums(self) -> int:
        """Return how many gates are a sum of x's part and h's."""
        return self.of_h - self.apart

    @property
    def has_c(self) -> bool:
        """Return whether it has a state c beside h."""
        return len(self.states) > 1

    @property
    def in_layers(self) -> bool:
        """Return whether the operator `lstm` runs it; others run by `recurrence`."""
        return self.of_torch or self.custom
