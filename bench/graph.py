"""A CUDA graph of a contender's work: replayed, it costs the host one call."""

from __future__ import annotations

from collections.abc import Callable

import torch

GRAPH = " graph"  # at the end of a mode's name: its work is replayed from a graph


def captured(work: Callable[[], object], warmup: int = 3) -> Callable[[], None]:
    """Run `work` on a stream of its own, capture it, and return what replays it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warmup):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = work()

    def replay() -> None:
        graph.replay()

    replay.kept = kept  # its outputs' memory belongs to the graph
    return replay
