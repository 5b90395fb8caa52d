"""Cells: the computation between the products of a step.

`fused_lstm.cells` prints most of them from a Python function: the library's into `printed`, a
user's into the user's cache. By hand is an LSTM with options (lstm.py).
Element by element, in the accumulator's dtype, a kernel calls two functions of a cell:

    step(by_x, by_h, h_bias, states, options, HAS) -> h, the states after, the saved columns
    backward(saved, states, after, dh, dafter, options, HAS)
        -> gradients by x's parts of gates, by h's parts, by the states, by the weights of a unit

All but h, dh and HAS are tuples. by_x: the parts by x, biases included, first of the gates that are
a sum of both parts, then those that stay alone; by_h: in the same order, without biases; h_bias: of
h's parts that stay alone. A cell has one state at least: h itself, not yet rounded, where it has no
other. options (options.py): the weights of a unit, the part of the states that
is kept. HAS (launch.Features) names what a cell has of these; what it has not is not compiled.

Products, sums and maxima inside a step divide it into phases (cells/meetings.py). `step` is then
the first, and `backward` the last in the order of the backward; the others are

    steps[k](by_x, made, numbers, saved, states, options, HAS) -> as `step`, and numbers of a row
    backs[k](saved, numbers, states, after, by, dafter, options, HAS) -> gradients by what was made

`made` has an entry for each product, sum and maximum: of those that the phase begins with a tuple
of columns, or one number a row [1, BLOCK_B]. A phase before the last returns, in h's place, what
is multiplied and added up after it, in the same order, and no states. It returns the columns and
the numbers that it saves: counts[k] and KernelCell.numbers[k] of phase k, in their order, of which
`saved` and `numbers` have those of the phases before, in the backward all. In dh's place is `by`:
dh, and the gradients by what is multiplied or added up, of which a phase reads those that are known
before it. `options` has 1 over the number of units too.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any, NamedTuple


class Meeting(NamedTuple):
    """A product, a sum or a maximum inside a step, and the phases that have a part in it."""

    kind: str  # of cells/sums.py
    fed: int  # that hands on what it is of: the next one begins with it
    fed_back: int  # of the backward, that hands back the gradient by it; -1: there is none


class KernelCell:
    """A cell as a kernel's constant.

    Args:
        sums: how many gates are a sum of a part by x and a part by h.
        of_x, of_h: how many parts by x, and by h, stay alone.
        saved: columns that a step leaves for its backward, beside the states.
        states: how many there are.
        inner: columns that each product inside the step makes.
        fed: the saved columns that they multiply.
        meetings: all products, sums and maxima inside the step, in its order.
        counts, numbers: of each phase, columns of a unit and numbers of a row that it saves.
    """

    def __init__(
        self,
        name: str,
        step: Callable,
        backward: Callable,
        *,
        sums: int,
        of_x: int = 0,
        of_h: int = 0,
        saved: int,
        states: int = 1,
        inner: tuple[int, ...] = (),
        fed: tuple[int, ...] = (),
        meetings: tuple[Meeting, ...] = (),
        counts: tuple[int, ...] = (),
        numbers: tuple[int, ...] = (),
        steps: tuple[Callable, ...] = (),
        backs: tuple[Callable, ...] = (),
    ) -> None:
        self.name, self.step, self.backward = name, step, backward
        self.sums, self.of_x, self.of_h = sums, of_x, of_h
        self.saved, self.states = saved, states
        self.inner, self.fed, self.meetings = inner, fed, meetings
        self.steps, self.backs = steps, backs
        self.counts, self.numbers = counts, numbers
        # Columns and numbers that are saved before each phase, and in the end.
        self.known = tuple(accumulate(counts, initial=0))
        self.known_numbers = tuple(accumulate(numbers, initial=0))
        self.by_x, self.by_h = sums + of_x, sums + of_h  # gates that x, and that h, has a part in
        # Whether gradients by x's parts of the gates are not those by h's.
        self.apart = of_x + of_h > 0
        # Of the buffer that has x's parts first, then what is saved: later phases read both.
        self.columns = saved + self.by_x if meetings else max(saved, self.by_x)

    def __repr__(self) -> str:
        return self.name

    @property
    def totals(self) -> int:
        """Return how many of the meetings are sums and maxima."""
        return len(self.meetings) - len(self.inner)

    def inside(self, direction: str) -> int:
        """Return how many times all programs meet inside a step: its phases but one."""
        return len(self.steps) if direction == "forward" else len(self.backs)

    @property
    def cache_key(self) -> str:
        """For Triton's cache: the compiled code changes with the functions' source."""
        functions: tuple[Any, ...] = self.step, self.backward, *self.steps, *self.backs
        return " ".join(function.cache_key for function in functions)
