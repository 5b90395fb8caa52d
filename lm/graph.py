"""A training step as one CUDA graph: Python and its launches once, then one launch a step.

A graph replays its kernels on the memory that they had while it was captured. So what differs from
step to step must be in tensors that stay where they are: inputs and the carried state are copied
into buffers, the learning rate is a tensor, and masks are drawn from seeds that the device draws.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lm.command import UserError, reason

WARM_UP = 3  # calls before the capture: engines compile and allocate, and so do cuBLAS and cuDNN


class GraphedStep:
    """`function(*inputs) -> outputs`, tensors, of which later calls are replays of one capture.

    Inputs have one shape and dtype at every call; whatever else `function` reads or writes stays
    in the same memory. Its last `carried` outputs are its last inputs at the next call: this
    object's own buffers, which cost no copy where they are handed back. The other outputs are the
    caller's. `graphs` is what captures, CudaGraphs() if None.

    The first `WARM_UP` calls are calls of `function`: every call counts, and none is made twice.
    Raises UserError where it cannot be captured, such as where it waits for the device.
    """

    def __init__(
        self, function: Callable[..., tuple[Tensor, ...]], carried: int = 0, graphs: Any = None
    ) -> None:
        self._function, self._carried = function, carried
        self._graphs = CudaGraphs() if graphs is None else graphs
        self._calls = 0
        self._replay: Callable[[], object] | None = None
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if not self._inputs:
            self._inputs = [value.detach().clone() for value in inputs]
        for buffer, value in zip(self._inputs, inputs, strict=True):
            if value is not buffer:
                buffer.copy_(value.detach())
        if self._calls < WARM_UP:
            self._calls += 1
            self._graphs.warm_up(self._run)
        else:
            self._replay = self._replay or self._graphs.capture(self._run)
            self._replay()
        return *(output.clone() for output in self._outputs), *self._state

    @property
    def _state(self) -> list[Tensor]:
        return self._inputs[len(self._inputs) - self._carried :]

    def _run(self) -> None:
        """Call the function on the buffers, and put what it returns into buffers."""
        values = [tensor.detach() for tensor in self._function(*self._inputs)]
        if not self._outputs:
            outputs = values[: len(values) - self._carried]
            self._outputs = [torch.empty_like(tensor) for tensor in outputs]
        for buffer, value in zip([*self._outputs, *self._state], values, strict=True):
            buffer.copy_(value)


class CudaGraphs:
    """CUDA graphs on the current device, captured on the stream that warmed up."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()

    def warm_up(self, run: Callable[[], object]) -> None:
        """Call `run` as it will be called in a capture."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            run()
        torch.cuda.current_stream().wait_stream(self._stream)

    def capture(self, run: Callable[[], object]) -> Callable[[], object]:
        """Record what `run` launches, without running it; return what replays that."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                run()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            first: BaseException = error  # ending a capture that has failed is one more error
            while first.__context__ is not None:
                first = first.__context__
            raise UserError(f"a CUDA graph cannot hold this step: {reason(first)}") from None
        return graph.replay


def check_graphs(device: torch.device, world_size: int) -> None:
    """Raise UserError unless training on `device` can go in a CUDA graph."""
    if device.type != "cuda":
        raise UserError(f"--cuda-graph needs an NVIDIA GPU, and this run is on {device.type}")
    if world_size > 1:
        raise UserError(f"--cuda-graph is for one process, and there are {world_size}")
