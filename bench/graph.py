"""A CUDA graph of a contender's work: replayed, it costs the host one call."""

from __future__ import annotations

from collections.abc import Callable

from lm.graph import WARM_UP, CudaGraphs

GRAPH = " graph"  # at the end of a mode's name: its work is replayed from a graph


def captured(work: Callable[[], object]) -> Callable[[], None]:
    """Capture `work`, warmed up on the stream of the capture, and return what replays it.

    Raises lm.errors.UserError where a graph cannot hold it.
    """
    graphs = CudaGraphs()
    for _ in range(WARM_UP):
        graphs.warm_up(work)
    return graphs.capture(work)
