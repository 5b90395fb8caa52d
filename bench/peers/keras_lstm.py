"""Keras' LSTM layers under tf.function: what became of the post's "TensorFlow's cuDNN wrapper".

On a GPU they are cuDNN's. On a CPU they are a tf.while_loop over time with two products a step, on
x and on h, so that nothing is fused, not even the input products of all steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from .gates import KERAS, PYTORCH, layers, names, reorder
from .tensorflow_program import Program, configure, same


class Stack:
    """Layers upon layers: a call maps x [B, T, I], h, c [L, B, H] to y [B, T, H], h, c."""

    def __init__(self, problem: dict[str, np.ndarray]) -> None:
        self.layers = [_layer(weights) for weights in layers(problem)]

    @property
    def variables(self) -> list[tf.Variable]:
        """Kernel, recurrent kernel and bias of each layer."""
        return [w.value for layer in self.layers for w in layer.trainable_variables]

    @property
    def biases(self) -> list[tf.Variable]:
        return self.variables[2::3]

    def __call__(
        self, x: tf.Tensor, h: tf.Tensor, c: tf.Tensor, between: Callable = same
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        h_n, c_n = [], []
        for l, layer in enumerate(self.layers):
            x = between(x) if l else x
            x, last_h, last_c = layer(x, initial_state=[h[l], c[l]])
            h_n.append(last_h)
            c_n.append(last_c)
        return x, tf.stack(h_n), tf.stack(c_n)

    def named(self, values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Return what belongs to `variables`, under PyTorch's names."""
        found = {}
        for l in range(len(self.layers)):
            w_ih, w_hh, bias = values[3 * l : 3 * l + 3]
            own = [reorder(v, KERAS, PYTORCH) for v in (w_ih.T, w_hh.T, bias, bias)]
            found |= dict(zip(names(l), own, strict=True))
        return found


def _layer(weights: dict[str, np.ndarray]) -> tf.keras.layers.LSTM:
    hidden = weights["weight_hh"].shape[1]
    made = tf.keras.layers.LSTM(hidden, return_sequences=True, return_state=True)
    made.build((None, None, weights["weight_ih"].shape[1]))
    bias = weights["bias_ih"] + weights["bias_hh"]
    own = [reorder(w, PYTORCH, KERAS).T for w in (weights["weight_ih"], weights["weight_hh"], bias)]
    made.set_weights(own)
    return made


class Keras:
    """The LSTM alone; time-major input is turned into Keras' [B, T, I] beforehand."""

    def __init__(self, problem: dict[str, np.ndarray]) -> None:
        self.x = tf.constant(problem["x"].transpose(1, 0, 2).copy())
        self.dy = tf.constant(problem["dy"].transpose(1, 0, 2).copy())
        self.h0, self.c0 = tf.constant(problem["h0"]), tf.constant(problem["c0"])
        self.stack = Stack(problem)
        self._step, self._inference = tf.function(self._both), tf.function(self._forward)

    def _forward(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return self.stack(x, self.h0, self.c0)

    def _both(self, x: tf.Tensor, dy: tf.Tensor) -> tuple:
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = self._forward(x)
        wanted = [x, *self.stack.variables]
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
        named = self.stack.named([gradient.numpy() for gradient in rest])
        return found | {f"{name}.grad": gradient for name, gradient in named.items()}


def build(problem: dict[str, np.ndarray], threads: int) -> Keras:
    configure(problem, threads)
    return Keras(problem)


def build_learner(lesson: dict[str, np.ndarray], threads: int) -> Program:
    configure(lesson, threads)
    batch_first = {name: lesson[name].transpose(0, 2, 1) for name in ("inputs", "targets")}
    return Program(lesson | batch_first, Stack(lesson), jit_compile=False)
