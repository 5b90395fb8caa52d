"""Keras' LSTM layers under tf.function: on a GPU they are cuDNN's, on a CPU a while loop.

The successor of the post's "TensorFlow with cuDNN's wrapper".
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from .gates import KERAS, PYTORCH, layers, reorder
from .tensorflow_cell import configure


class Keras:
    """One LSTM layer a layer, time-major input turned into Keras' [B, T, I] beforehand."""

    def __init__(self, problem: dict[str, np.ndarray]) -> None:
        self.x = tf.constant(problem["x"].transpose(1, 0, 2).copy())
        self.dy = tf.constant(problem["dy"].transpose(1, 0, 2).copy())
        self.h0, self.c0 = tf.constant(problem["h0"]), tf.constant(problem["c0"])
        self.stack = []
        for layer in layers(problem):
            hidden = problem["h0"].shape[2]
            made = tf.keras.layers.LSTM(hidden, return_sequences=True, return_state=True)
            made.build((None, None, layer["weight_ih"].shape[1]))
            bias = layer["bias_ih"] + layer["bias_hh"]
            made.set_weights(
                [
                    reorder(layer["weight_ih"], PYTORCH, KERAS).T,
                    reorder(layer["weight_hh"], PYTORCH, KERAS).T,
                    reorder(bias, PYTORCH, KERAS),
                ]
            )
            self.stack.append(made)
        self._step, self._inference = tf.function(self._both), tf.function(self._forward)

    def _forward(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        h_n, c_n = [], []
        for l, layer in enumerate(self.stack):
            x, h, c = layer(x, initial_state=[self.h0[l], self.c0[l]])
            h_n.append(h)
            c_n.append(c)
        return x, tf.stack(h_n), tf.stack(c_n)

    def _both(self, x: tf.Tensor, dy: tf.Tensor) -> tuple:
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = self._forward(x)
        weights = [w for layer in self.stack for w in layer.trainable_variables]
        wanted = [x, *(getattr(w, "value", w) for w in weights)]
        return outputs, tape.gradient(outputs[0], wanted, output_gradients=dy)

    def step(self) -> tuple:
        outputs, gradients = self._step(self.x, self.dy)
        _ = outputs[0][-1, -1, -1].numpy(), gradients[-1].numpy()
        return outputs, gradients

    def inference(self) -> tf.Tensor:
        y, _, _ = self._inference(self.x)
        y[-1, -1, -1].numpy()
        return y

    def answer(self) -> dict[str, np.ndarray]:
        (y, h_n, c_n), (dx, *rest) = self.step()
        found = {"h_n": h_n, "c_n": c_n}
        for name, t in {"y": y, "x.grad": dx, "inference": self.inference()}.items():
            found[name] = t.numpy().transpose(1, 0, 2).copy()
        for l in range(len(self.stack)):
            w_ih, w_hh, bias = (g.numpy() for g in rest[3 * l : 3 * l + 3])
            found[f"weight_ih_l{l}.grad"] = reorder(w_ih.T, KERAS, PYTORCH)
            found[f"weight_hh_l{l}.grad"] = reorder(w_hh.T, KERAS, PYTORCH)
            for name in ("bias_ih", "bias_hh"):
                found[f"{name}_l{l}.grad"] = reorder(bias, KERAS, PYTORCH)
        return found


def build(problem: dict[str, np.ndarray], threads: int) -> Keras:
    configure(problem, threads)
    return Keras(problem)
