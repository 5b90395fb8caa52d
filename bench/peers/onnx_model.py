"""A stack of LSTMs as an ONNX model, for the runtimes that read one: inference alone.

ONNX (operator LSTM, opset 14) keeps its gates in the order i, o, f, c and its weights by direction:
W [1, 4H, I], R [1, 4H, H], B [1, 8H] with both biases; Y is [T, 1, B, H].
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .gates import PYTORCH, layers, reorder

ONNX = "iofg"


def model(problem: dict[str, np.ndarray]) -> bytes:
    """Make a model of x [T, B, I], h0, c0 [L, B, H] with y [T, B, H], h_n, c_n [L, B, H]."""
    weights, constants, nodes = layers(problem), [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    first = constant("first", np.array([1], np.int64))
    below = "x"
    for state in ("h0", "c0"):
        own = [f"{state}_{l}" for l in range(len(weights))]
        nodes.append(helper.make_node("Split", [state], own, axis=0, num_outputs=len(own)))
    for l, layer in enumerate(weights):
        w, r = (reorder(layer[f"weight_{kind}"], PYTORCH, ONNX)[None] for kind in ("ih", "hh"))
        bias = [reorder(layer[f"bias_{kind}"], PYTORCH, ONNX) for kind in ("ih", "hh")]
        named = constant(f"W{l}", w), constant(f"R{l}", r)
        given = [below, *named, constant(f"B{l}", np.concatenate(bias)[None]), "", f"h0_{l}"]
        made = [f"Y{l}", f"h_n_{l}", f"c_n_{l}"]
        nodes.append(helper.make_node("LSTM", [*given, f"c0_{l}"], made, hidden_size=r.shape[2]))
        below = "y" if l + 1 == len(weights) else f"y{l}"
        nodes.append(helper.make_node("Squeeze", [f"Y{l}", first], [below]))
    for state in ("h_n", "c_n"):
        own = [f"{state}_{l}" for l in range(len(weights))]
        nodes.append(helper.make_node("Concat", own, [state], axis=0))

    def value(name: str, like: np.ndarray) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, like.shape)

    inputs = [value(name, problem[name]) for name in ("x", "h0", "c0")]
    outputs = [value("y", problem["dy"])]
    outputs += [value("h_n", problem["h0"]), value("c_n", problem["c0"])]
    graph = helper.make_graph(nodes, "lstm", inputs, outputs, constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(made)
    return made.SerializeToString()


class Runtime(ABC):
    """Runs the model: `inference()` gives y, h_n and c_n; `call()` goes on from its last state."""

    @abstractmethod
    def inference(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...

    @abstractmethod
    def set_state(self, h: np.ndarray, c: np.ndarray) -> None: ...

    def call(self) -> np.ndarray:
        y, h, c = self.inference()
        self.set_state(h, c)
        return y

    def answer(self) -> dict[str, np.ndarray]:
        """Return the outputs, and those of three calls in a row."""
        y, h_n, c_n = (part.copy() for part in self.inference())
        stream = np.concatenate([self.call().copy() for _ in range(3)])
        self.set_state(np.zeros_like(h_n), np.zeros_like(c_n))
        return {"inference": y, "y": y, "h_n": h_n, "c_n": c_n, "stream": stream}
