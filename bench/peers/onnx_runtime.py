"""ONNX Runtime's LSTM on a CPU: its own operator, in float32; inference alone."""

from __future__ import annotations

import numpy as np
import onnxruntime

from .onnx_model import Runtime, model, states


class ONNXRuntime(Runtime):
    def __init__(
        self, problem: dict[str, np.ndarray], threads: int, made: bytes | None = None
    ) -> None:
        """Run a problem's model, or what was made of it."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self.session = onnxruntime.InferenceSession(
            made or model(problem), options, providers=["CPUExecutionProvider"]
        )
        self.states = states(problem)
        self.inputs = {name: problem[name] for name in ("x", *self.states)}
        self.outputs = ["y", *(f"{state[0]}_n" for state in self.states)]

    def set_states(self, *states: np.ndarray) -> None:
        self.inputs |= zip(self.states, states, strict=True)

    def inference(self) -> tuple[np.ndarray, ...]:
        return tuple(self.session.run(self.outputs, self.inputs))


def build(problem: dict[str, np.ndarray], threads: int) -> ONNXRuntime:
    return ONNXRuntime(problem, threads)
