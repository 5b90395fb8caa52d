"""OpenVINO's LSTM on a CPU: float32 or bfloat16 inside, float32 outside; inference alone."""

from __future__ import annotations

import numpy as np
import openvino
from openvino import properties

from .onnx_model import Runtime, model, states

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
        self.states = states(problem)
        for name in ("x", *self.states):
            self.request.set_tensor(name, openvino.Tensor(problem[name]))

    def set_states(self, *states: np.ndarray) -> None:
        for name, value in zip(self.states, states, strict=True):
            self.request.get_tensor(name).data[:] = value

    def inference(self) -> tuple[np.ndarray, ...]:
        self.request.infer()
        outputs = "y", *(f"{state[0]}_n" for state in self.states)
        return tuple(self.request.get_tensor(name).data for name in outputs)


def build(problem: dict[str, np.ndarray], threads: int) -> OpenVINO:
    return OpenVINO(problem, threads)
