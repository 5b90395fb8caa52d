"""Inference by a CUDA graph: a step's launches take the host longer than the GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map


def graphed(module: nn.Module, example: Tensor) -> Callable[..., tuple[Tensor, Any]]:
    """Capture a recurrent module's inference in a CUDA graph, for inputs like `example`.

        step = fused_lstm.graphed(lstm.eval(), x)
        y, state = step(x)
        y, state = step(x, state)

    What it returns is overwritten by the next call: clone what is kept longer. The module's weights
    are read where they lie, so that a later change in place counts; it is not to be moved.

    Args:
        module: on a GPU, with a call module(x, state) -> (y, state).
        example: an input of the shape, dtype and device of all that follow.

    Returns:
        A function of an input and a state, zeros by default.

    Raises:
        ValueError: `example` is not on a GPU, or a later input differs from it.
    """
    if example.device.type != "cuda":
        raise ValueError(f"example: got a tensor on {example.device}; expected one on a CUDA GPU")
    with torch.no_grad():
        zeros = tree_map(torch.zeros_like, module(example)[1])
        # A graph's inputs are written over by every call's.
        own = example.clone(), tree_map(torch.clone, zeros)
        run: Any = torch.cuda.make_graphed_callables(lambda x, s: module(x, s), own)
    wanted = [(t.shape, t.dtype, t.device) for t in (example, *tree_leaves(zeros))]

    def call(x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Run the graph."""
        state = zeros if state is None else state
        found = [(t.shape, t.dtype, t.device) for t in (x, *tree_leaves(state))]
        if found != wanted:
            raise ValueError(f"input, state: got {found}; expected {wanted}, as of the example")
        with torch.no_grad():
            return run(x, state)

    return call
