"""A stack of LSTMs, or of GRUs, as an ONNX model, for the runtimes that read one: inference alone.

ONNX (operators LSTM and GRU, opset 14) keeps its gates in the orders i, o, f, c and z, r, h and
weights by direction: W [1, G*H, I], R [1, G*H, H], B [1, 2*G*H], both biases; Y is [T, 1, B, H].
A GRU that is PyTorch's applies the reset gate after R h and its bias.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .gates import GRU, PYTORCH, layers, reorder

ORDERS = {"LSTM": (PYTORCH, "iofg"), "GRU": (GRU, "zrn")}


def operator(problem: dict[str, np.ndarray]) -> str:
    """Return the operator whose weights a problem has."""
    rows, hidden = problem["weight_hh_l0"].shape
    return "GRU" if rows == 3 * hidden else "LSTM"


def states(problem: dict[str, np.ndarray]) -> list[str]:
    """Return the names of the states that the model takes."""
    return ["h0"] if operator(problem) == "GRU" else ["h0", "c0"]


def model(problem: dict[str, np.ndarray]) -> bytes:
    """Make a model of x [T, B, I] and states [L, B, H] with y [T, B, H] and the last states."""
    weights, constants, nodes = layers(problem), [], []
    kind, taken = operator(problem), states(problem)
    options = {"linear_before_reset": 1} if kind == "GRU" else {}

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    first = constant("first", np.array([1], np.int64))
    below = "x"
    for state in taken:
        own = [f"{state}_{l}" for l in range(len(weights))]
        nodes.append(helper.make_node("Split", [state], own, axis=0, num_outputs=len(own)))
    for l, layer in enumerate(weights):
        w, r = (reorder(layer[f"weight_{of}"], *ORDERS[kind])[None] for of in ("ih", "hh"))
        bias = [reorder(layer[f"bias_{of}"], *ORDERS[kind]) for of in ("ih", "hh")]
        named = constant(f"W{l}", w), constant(f"R{l}", r)
        given = [below, *named, constant(f"B{l}", np.concatenate(bias)[None]), ""]
        given += [f"{state}_{l}" for state in taken]
        made = [f"Y{l}", *(f"{state[0]}_n_{l}" for state in taken)]
        nodes.append(helper.make_node(kind, given, made, hidden_size=r.shape[2], **options))
        below = "y" if l + 1 == len(weights) else f"y{l}"
        nodes.append(helper.make_node("Squeeze", [f"Y{l}", first], [below]))
    for state in taken:
        own = [f"{state[0]}_n_{l}" for l in range(len(weights))]
        nodes.append(helper.make_node("Concat", own, [f"{state[0]}_n"], axis=0))

    def value(name: str, like: np.ndarray) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, like.shape)

    inputs = [value(name, problem[name]) for name in ("x", *taken)]
    outputs = [value("y", problem["dy"])]
    outputs += [value(f"{state[0]}_n", problem[state]) for state in taken]
    graph = helper.make_graph(nodes, "layers", inputs, outputs, constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(made)
    return made.SerializeToString()


class Runtime(ABC):
    """Runs the model: `inference()` gives y and last states; `call()` goes on from these."""

    @abstractmethod
    def inference(self) -> tuple[np.ndarray, ...]: ...

    @abstractmethod
    def set_states(self, *states: np.ndarray) -> None: ...

    def call(self) -> np.ndarray:
        y, *states = self.inference()
        self.set_states(*states)
        return y

    def answer(self) -> dict[str, np.ndarray]:
        """Return the outputs, and those of three calls in a row."""
        y, *states = (part.copy() for part in self.inference())
        stream = np.concatenate([self.call().copy() for _ in range(3)])
        self.set_states(*map(np.zeros_like, states))
        last = dict(zip(("h_n", "c_n"), states, strict=False))
        return {"inference": y, "y": y, "stream": stream} | last
