"""Cells: what a sweep computes between the products of a step. One file each.

A cell has four gates (rows of [4H, .], H each) and one state beside h. Its functions are helpers
for kernels to call, element by element, in the accumulator's dtype:

    forward(gates, c, added, HAS) -> (activated gates, what is made of c, c_next)
    output(activated gates, what h sees of c) -> h
    made(activated gates, c, c_next, added, HAS) -> what was made of c
    output_backward(activated gates, seen, dh) -> (do, the gradient by what h sees of c)
    backward(activated gates, c, dc_next, do, dmade, added, HAS) -> (dgates, dc)

Where h sees c as it is, `seen` is what was made; where c is normalized, that is between the two.
HAS (launch.Has) says what a cell has beside nn.LSTM's, `added` (added.py) brings it. What is off is
not compiled, so that one kernel serves all cells.
"""

from __future__ import annotations

from collections.abc import Callable


class Cell:
    """A cell as a kernel's constant."""

    def __init__(
        self,
        name: str,
        forward: Callable,
        made: Callable,
        output: Callable,
        output_backward: Callable,
        backward: Callable,
    ) -> None:
        self.name, self.forward, self.made, self.output = name, forward, made, output
        self.output_backward, self.backward = output_backward, backward

    def __repr__(self) -> str:
        return self.name

    @property
    def cache_key(self) -> str:
        """For Triton's cache: what is compiled changes with the functions' source."""
        parts = self.forward, self.made, self.output, self.output_backward, self.backward
        return " ".join(part.cache_key for part in parts)
