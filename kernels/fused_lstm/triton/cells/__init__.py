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

Products inside a step divide it into phases (cells/program.py). `step` is then the first, and
`backward` the last in the order of the backward; the others are

    steps[k](by_x, made, saved, states, options, HAS) -> as `step`, after product k made `made`
    backs[k](saved, states, after, by, dafter, options, HAS) -> gradients by what it made

where a phase before the last returns what the next product multiplies in h's place, and no states.
It returns the columns that it saves: counts[0] the first phase, then counts[1 + k], in the order of
the saved columns, of which `saved` has those of the phases before. In dh's place is `by`: dh, and
the gradients by what the products multiply, of which a phase reads those of products after it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any


class KernelCell:
    """A cell as a kernel's constant.

    Args:
        sums: how many gates are a sum of a part by x and a part by h.
        of_x, of_h: how many parts by x, and by h, stay alone.
        saved: columns that a step leaves for its backward, beside the states.
        states: how many there are.
        inner: columns that each product inside the step makes.
        fed: the saved columns that they multiply.
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
        counts: tuple[int, ...] = (),
        steps: tuple[Callable, ...] = (),
        backs: tuple[Callable, ...] = (),
    ) -> None:
        self.name, self.step, self.backward = name, step, backward
        self.sums, self.of_x, self.of_h = sums, of_x, of_h
        self.saved, self.states = saved, states
        self.inner, self.fed, self.counts = inner, fed, counts
        self.steps, self.backs = steps, backs
        self.known = tuple(accumulate(counts))  # columns that are saved before each of `steps`
        self.by_x, self.by_h = sums + of_x, sums + of_h  # gates that x, and that h, has a part in
        # Whether gradients by x's parts of the gates are not those by h's.
        self.apart = of_x + of_h > 0
        # Of the buffer that has x's parts first, then what is saved: later phases read both.
        self.columns = saved + self.by_x if inner else max(saved, self.by_x)

    def __repr__(self) -> str:
        return self.name

    @property
    def cache_key(self) -> str:
        """For Triton's cache: the compiled code changes with the functions' source."""
        functions: tuple[Any, ...] = self.step, self.backward, *self.steps, *self.backs
        return " ".join(function.cache_key for function in functions)
