"""OpenVINO's LSTM on a CPU: float32 or bfloat16 inside, float32 outside; inference alone."""

from __future__ import annotations

import numpy as np
import openvino
from openvino import properties

from .onnx_model import Runtime, model

TYPES = {"float32": openvino.Type.f32, "bfloat16": openvino.Type.bf16}


class OpenVINO(Runtime):
    def __init__(self, problem: dict[str, np.ndarray], threads: int) -> None:
        core = openvino.Core()
        settings = {
            properties.inference_num_threads: threads,
            properties.hint.performance_mode: properties.hint.PerformanceMode.LATENCY,
            # It would choose bfloat16 for a float32 model where the CPU has the instructions.
            properties.hint.inference_precision: TYPES[str(problem["dtype"])],
        }
        compiled = core.compile_model(core.read_model(model(problem)), "CPU", settings)
        self.request = compiled.create_infer_request()
        for name in ("x", "h0", "c0"):
            self.request.set_tensor(name, openvino.Tensor(problem[name]))

    def set_state(self, h: np.ndarray, c: np.ndarray) -> None:
        for name, value in {"h0": h, "c0": c}.items():
            self.request.get_tensor(name).data[:] = value

    def inference(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.request.infer()
        return tuple(self.request.get_tensor(name).data for name in ("y", "h_n", "c_n"))


def build(problem: dict[str, np.ndarray], threads: int) -> OpenVINO:
    return OpenVINO(problem, threads)
