"""Cells: the computation between the products of a step.

`fused_lstm.cells` prints most of them from a Python function: the library's into `printed`, a
user's into the user's cache. By hand are an LSTM with options (lstm.py) and an sLSTM (slstm.py).
Element by element, in the accumulator's dtype, a kernel calls two functions of a cell:

    step(by_x, by_h, h_bias, states, options, HAS) -> h, the states after, the saved columns
    backward(saved, states, after, dh, dafter, edges, options, HAS)
        -> gradients by x's parts of gates, by h's parts, by the states, by the weights of a unit

All but h, dh and HAS are tuples. by_x: the parts by x, biases included, first of the gates that are
a sum of both parts, then those that stay alone; by_h: in the same order, without biases; h_bias: of
h's parts that stay alone. A cell has one state at least: h itself, not yet rounded, where it has no
other. edges: whether a row ends, and begins, at the step. options (options.py): the weights of a
unit, the multiplier of g, the part of the states that is kept. HAS (launch.Features) names what a
cell has of these; what it has not is not compiled.
"""

from __future__ import annotations

from collections.abc import Callable


class Cell:
    """A cell as a kernel's constant.

    Args:
        sums: how many gates are a sum of a part by x and a part by h.
        of_x, of_h: how many parts by x, and by h, stay alone.
        saved: columns that a step leaves for its backward, beside the states.
        states: how many there are.
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
    ) -> None:
        self.name, self.step, self.backward = name, step, backward
        self.sums, self.of_x, self.of_h = sums, of_x, of_h
        self.saved, self.states = saved, states

    def __repr__(self) -> str:
        return self.name

    @property
    def by_x(self) -> int:
        """Return how many gates x has a part in."""
        return self.sums + self.of_x

    @property
    def by_h(self) -> int:
        """Return how many gates h has a part in."""
        return self.sums + self.of_h

    @property
    def apart(self) -> bool:
        """Return whether gradients by x's parts of the gates are not those by h's."""
        return self.of_x + self.of_h > 0

    @property
    def columns(self) -> int:
        """Return the columns of the buffer that has x's parts first, and then what is saved."""
        return max(self.saved, self.by_x)

    @property
    def cache_key(self) -> str:
        """For Triton's cache: the compiled code changes with the functions' source."""
        return f"{self.step.cache_key} {self.backward.cache_key}"
