"""Cells: the computation between the products of a step. One file each.

A cell has G gates: rows of its weights, H each. Its backward needs S saved columns of a step, H
each: the activated gates, and a GRU's m. Its functions are helpers for kernels to call, element by
element, in the accumulator's dtype; `gates` are the S columns, a tuple.

    combine(by_x, by_h, h_bias) -> the S columns before activation, of G parts by x and G by h;
        h_bias: of h's parts that stay apart; other biases are with x's parts
    forward(gates, c, options, HAS) -> (activated gates, the new c before zoneout, c_next)
    output(activated gates, the c that h sees) -> h
    made(activated gates, c, c_next, options, HAS) -> the new c before zoneout
    output_backward(activated gates, seen, dh) -> (do, the gradient by the c that h sees)
    backward(activated gates, c, dc_next, do, dmade, options, HAS)
        -> (gradients by the G parts by x, by the G parts by h, by c)

`seen` is the c that h sees: the new c before zoneout, normalized where the cell has layer norm. HAS
(launch.Has) names a cell's features beside torch's own, `options` (options.py) has their values. A
feature that is off is not compiled.
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
        """For Triton's cache: the compiled code changes with the functions' source."""
        parts = (
            self.combine, self.forward, self.made, self.output, self.output_backward, self.backward,
        )  # fmt: skip
        return " ".join(part.cache_key for part in parts)
