"""ONNX Runtime's LSTM on a CPU: its own operator, in float32; inference alone."""

from __future__ import annotations

import numpy as np
import onnxruntime

from .onnx_model import Runtime, model


class ONNXRuntime(Runtime):
    def __init__(self, problem: dict[str, np.ndarray], threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self.session = onnxruntime.InferenceSession(
            model(problem), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = {name: problem[name] for name in ("x", "h0", "c0")}

    def set_state(self, h: np.ndarray, c: np.ndarray) -> None:
        self.inputs["h0"], self.inputs["c0"] = h, c

    def inference(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return tuple(self.session.run(["y", "h_n", "c_n"], self.inputs))


def build(problem: dict[str, np.ndarray], threads: int) -> ONNXRuntime:
    return ONNXRuntime(problem, threads)
