"""A step for engines that meet seldom: products, sums and maxima that are ready share a phase.

A phase of native begins with one product or sum. On a GPU every phase costs a grid barrier, so a
phase begins with all of those whose factors earlier phases compute, forwards and backwards.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from itertools import accumulate, pairwise

from .program import Program, first_phases, saving
from .sums import MAXIMUM, PRODUCT


@dataclass(frozen=True)
class InFewPhases(Program):
    """A program whose phases may begin with several products, sums and maxima.

    `in_few_phases` makes it. All values have hidden_size units.
    """

    begun: tuple[int, ...] = ()  # by each product, sum and maximum: a phase

    @property
    def begun_by(self) -> tuple[int, ...]:
        """Return the phase that begins with each product, sum or maximum."""
        return self.begun

    @cached_property
    def stored_in(self) -> dict[int, int]:
        """Return the phase of a step that stores each saved node: the first that can compute it."""
        first = self.phases()
        return {n: max(first[n], 0) for n in self.saved}

    @cached_property
    def fed_in(self) -> dict[int, int]:
        """Return the phase that hands on what each product, sum or maximum is of.

        It is the one before the phase that begins with it.
        """
        return {k: phase - 1 for k, phase in enumerate(self.begun)}

    def results_of(self, phase: int) -> list[int]:
        """Return what a phase computes for products and sums, or in the end."""
        results = [self.fed[k] for k, at in self.fed_in.items() if at == phase]
        return [self.h, *self.after, *results] if phase == self.last else results

    @cached_property
    def numbers_of(self) -> list[list[int]]:
        """Return the numbers of a row that each phase makes, which are kept in this order."""
        first, by_phase = self.phases(), [[] for _ in range(1 + self.last)]
        for n in self.numbers:
            by_phase[first[n]].append(n)
        return by_phase

    @cached_property
    def fed_back_in(self) -> list[int]:
        """Return the phase of the backward that hands back the gradient by each product or sum.

        -1: there is none, of a maximum or where nothing needs it. Phases count in the order of the
        backward; the one behind it reads what the gradient by the product's factor is.
        """
        e, found = self.expressions, [-1] * len(self.inner)
        ends = list(accumulate(self.inner, initial=0))
        columns = [self.dproducts[a:b] for a, b in pairwise(ends)]
        known = [0] * len(e.nodes)
        for k in reversed(range(len(self.inner))):
            for n in e.order([*columns[k]]):
                op, *rest = e.nodes[n]
                if op == "leaf" and rest[0] == "dfed":
                    known[n] = found[rest[1]] + 1
                else:
                    known[n] = max((known[o] for o in e.operands(n)), default=0)
            is_zero = set(columns[k]) == {e.absent} and self.kinds[k] != PRODUCT
            if self.kinds[k] != MAXIMUM and not is_zero:
                found[k] = max(known[n] for n in columns[k])
        return found


def in_few_phases(p: Program) -> InFewPhases:
    """Return a program with as few phases as its products, sums and maxima allow."""
    if isinstance(p, InFewPhases):
        return p
    begun: list[int] = []
    for fed in p.fed:
        begun.append(1 + max(first_phases(p.expressions, p.inner, begun)[fed], 0))
    values = {field.name: getattr(p, field.name) for field in fields(Program)}
    return saving(InFewPhases(**values, begun=tuple(begun)))
