"""Cells: what is computed between the products of a step. One file each.

A cell has G gates: rows of its weights, H each. Of S columns, H each, its backward needs what a
step made: they are its activated gates, and a GRU's m. Its functions are helpers for kernels to
call, element by element, in the accumulator's dtype; `gates` are the S columns, a tuple.

    combine(by_x, by_h, h_bias) -> the S columns before activation, of G parts by x and G by h;
        h_bias: of what is apart from x's, whose biases are with x's parts
    forward(gates, c, options, HAS) -> (activated gates, what is made of c, c_next)
    output(activated gates, what h sees of c) -> h
    made(activated gates, c, c_next, options, HAS) -> what was made of c
    output_backward(activated gates, seen, dh) -> (do, the gradient by what h sees of c)
    backward(activated gates, c, dc_next, do, dmade, options, HAS)
        -> (gradients by the G parts by x, by the G parts by h, by c)

Where h sees c as it is, `seen` is what was made; where c is normalized, that is between the two.
HAS (launch.Has) says what a cell has beside torch's own, `options` (options.py) brings it. What is
off is not compiled.
"""

from __future__ import annotations

from collections.abc import Callable


class Cell:
    """A cell as a kernel's constant.

    Args:
        gates: G.
        saved: S. The columns that x has a part in are the last G.
        apart: whether x and h have parts of a gate that are not added up, so that its gradients by
            x and by h differ.
    """

    def __init__(
        self,
        name: str,
        gates: int,
        saved: int,
        apart: bool,
        combine: Callable,
        forward: Callable,
        made: Callable,
        output: Callable,
        output_backward: Callable,
        backward: Callable,
    ) -> None:
        self.name, self.gates, self.saved, self.apart = name, gates, saved, apart
        self.combine, self.forward, self.made, self.output = combine, forward, made, output
        self.output_backward, self.backward = output_backward, backward

    def __repr__(self) -> str:
        return self.name

    @property
    def cache_key(self) -> str:
        """For Triton's cache: what is compiled changes with the functions' source."""
        parts = (
            self.combine, self.forward, self.made, self.output, self.output_backward, self.backward,
        )  # fmt: skip
        return " ".join(part.cache_key for part in parts)
