"""Cells: what a sweep computes between the products of a step. One file each.

A cell has four gates (rows of [4H, .], H each) and one state beside h. Its functions are helpers
for kernels to call, element by element, in the accumulator's dtype:

    forward(gates, c, added, HAS) -> (activated gates, h, c_next)
    backward(activated gates, c, c_next, dh, dc_next, added, HAS)
        -> (gradients by the gates before, dc)

HAS (launch.Has) says what a cell has beside nn.LSTM's, `added` (added.py) brings it. What is off is
not compiled, so that one kernel serves all cells.
"""

from __future__ import annotations

from collections.abc import Callable


class Cell:
    """A cell as a kernel's constant."""

    def __init__(self, name: str, forward: Callable, backward: Callable) -> None:
        self.name, self.forward, self.backward = name, forward, backward

    def __repr__(self) -> str:
        return self.name

    @property
    def cache_key(self) -> str:
        """For Triton's cache: what is compiled changes with the functions' source."""
        return f"{self.forward.cache_key} {self.backward.cache_key}"
