"""A cell's gates: which of a step's two products each is a sum of, and in which order they lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

Column = tuple[str, int]  # "gate", "x" or "h", and the gate's number


class Gates(NamedTuple):
    """Gates in the order of a cell's arguments.

    A gate's sum has a part by x, W x + b_ih, and one by h, R h + b_hh. Three kinds are no sum of
    both: a gate of x alone, one of h alone, and a pair, whose parts the function takes apart.

    The engines have the sums first, then what is of one product alone: rows of w_ih are `by_x`,
    rows of w_hh `by_h`, and gradients are in the order of `columns`.
    """

    names: tuple[str, ...]
    x_only: frozenset[str] = frozenset()
    h_only: frozenset[str] = frozenset()
    apart: frozenset[str] = frozenset()

    def _with(self, *kinds: frozenset[str]) -> tuple[int, ...]:
        told = frozenset().union(*kinds)
        return tuple(k for k, name in enumerate(self.names) if name in told)

    @property
    def summed(self) -> tuple[int, ...]:
        """Return the gates that are a sum of both parts."""
        others = self.x_only | self.h_only | self.apart
        return self._with(frozenset(self.names) - others)

    @property
    def of_x(self) -> tuple[int, ...]:
        """Return the gates whose part by x stays alone."""
        return self._with(self.x_only, self.apart)

    @property
    def of_h(self) -> tuple[int, ...]:
        """Return the gates whose part by h stays alone."""
        return self._with(self.h_only, self.apart)

    @property
    def by_x(self) -> tuple[int, ...]:
        """Return the gates that x has a part in, as the engines have them."""
        return *self.summed, *self.of_x

    @property
    def by_h(self) -> tuple[int, ...]:
        """Return the gates that h has a part in, as the engines have them."""
        return *self.summed, *self.of_h

    @property
    def columns(self) -> tuple[Column, ...]:
        """Return all parts of a step, as `fused_lstm.reference.sums` and gradients have them."""
        alone_h = tuple(("h", k) for k in self.of_h)
        sums = tuple(("gate", k) for k in self.summed)
        return *alone_h, *sums, *(("x", k) for k in self.of_x)

    def arguments(self, parts: Sequence[Any]) -> list[Any]:
        """Return a function's gates, given all parts in the order of `columns`."""
        of = dict(zip(self.columns, parts, strict=True))
        return [
            (of["x", k], of["h", k])
            if name in self.apart
            else of["x" if name in self.x_only else "h" if name in self.h_only else "gate", k]
            for k, name in enumerate(self.names)
        ]

    def column_name(self, column: Column) -> str:
        """Return a part's name: the gate's, with _by_x or _by_h where its parts are apart."""
        kind, k = column
        name = self.names[k]
        return f"{name}_by_{kind}" if name in self.apart else name


def order_of_rows(gates: Sequence[int]) -> list[int] | None:
    """Return a weight's rows, counted in the order of arguments, in the order of the engines.

    None where the order is the same.
    """
    rows = [sorted(gates).index(k) for k in gates]
    return None if rows == sorted(rows) else rows
