"""ONNX Runtime's LSTM with weights of int8 (DynamicQuantizeLSTM): inference alone.

Its tool makes the model of the float32 one, with a scale for each matrix; x and h are rounded to
bytes at each step. It has no such GRU.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from .onnx_model import model, operator
from .onnx_runtime import ONNXRuntime


def build(problem: dict[str, np.ndarray], threads: int) -> ONNXRuntime:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "int8.onnx")
        quantize_dynamic(
            onnx.load_from_string(model(problem)), made, weight_type=QuantType.QInt8,
            op_types_to_quantize=[operator(problem)],
        )  # fmt: skip
        if not any(node.op_type == "DynamicQuantizeLSTM" for node in onnx.load(made).graph.node):
            raise ValueError("onnxruntime: made no DynamicQuantizeLSTM of the model")
        return ONNXRuntime(problem, threads, made.read_bytes())
