"""The TensorFlow tutorial's LSTM: BasicLSTMCell, statically unrolled in a tf.function.

One product on [x, h] a step, a bias, a split and pointwise operations, as tf.nn's cell had them,
in the tutorial's order: all layers of a step, then the next step. The tutorial's cell adds a
forget bias of 1 to f; here it is 0, for PyTorch has none and all compute the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from .gates import TENSORFLOW, from_joint, joint_kernel, layers
from .tensorflow_program import Program, configure, same

FORGET_BIAS = 0.0


def cell(
    x: tf.Tensor, c: tf.Tensor, h: tf.Tensor, kernel: tf.Variable, bias: tf.Variable
) -> tuple[tf.Tensor, tf.Tensor]:
    """Map x [B, I], c, h [B, H] by a kernel [I + H, 4H] to the next c and h."""
    gates = tf.nn.bias_add(tf.matmul(tf.concat([x, h], 1), kernel), bias)
    i, j, f, o = tf.split(gates, 4, axis=1)
    c = c * tf.sigmoid(f + FORGET_BIAS) + tf.sigmoid(i) * tf.tanh(j)
    return c, tf.tanh(c) * tf.sigmoid(o)


class Stack:
    """Cells upon cells, unrolled: a call maps x [T, B, I], h, c [L, B, H] to y [T, B, H], h, c."""

    cell = staticmethod(cell)

    def __init__(self, problem: dict[str, np.ndarray]) -> None:
        pairs = [joint_kernel(layer, TENSORFLOW) for layer in layers(problem)]
        self.kernels = [tf.Variable(kernel) for kernel, _ in pairs]
        self.biases = [tf.Variable(bias) for _, bias in pairs]

    @property
    def variables(self) -> list[tf.Variable]:
        return self.kernels + self.biases

    def __call__(
        self, x: tf.Tensor, h: tf.Tensor, c: tf.Tensor, between: Callable = same
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        c, h = tf.unstack(c), tf.unstack(h)
        outputs = []
        for below in tf.unstack(x):
            for l, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
                below = between(below) if l else below
                c[l], h[l] = self.cell(below, c[l], h[l], kernel, bias)
                below = h[l]
            outputs.append(below)
        return tf.stack(outputs), tf.stack(h), tf.stack(c)

    def named(self, values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Return what belongs to `variables`, under PyTorch's names."""
        found, count = {}, len(self.kernels)
        for l in range(count):
            found |= from_joint(l, values[l], values[count + l], TENSORFLOW)
        return found


class Unrolled:
    """A stack as a layer is timed alone.

    `jit_compile` is the one difference between TensorFlow and TensorFlow with XLA.
    """

    def __init__(
        self, problem: dict[str, np.ndarray], jit_compile: bool, stack: type[Stack]
    ) -> None:
        self.x, self.h0, self.c0, self.dy = map(
            tf.constant, (problem[name] for name in ("x", "h0", "c0", "dy"))
        )
        self.stack = stack(problem)
        self._inference = tf.function(self._forward, jit_compile=jit_compile)
        self._step = tf.function(self._forward_backward, jit_compile=jit_compile)

    def _forward(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return self.stack(x, self.h0, self.c0)

    def _forward_backward(self, x: tf.Tensor, dy: tf.Tensor) -> tuple[Sequence, Sequence]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = self._forward(x)
        wanted = [x, *self.stack.variables]
        return outputs, tape.gradient(outputs[0], wanted, output_gradients=dy)

    def step(self) -> tuple[Sequence, Sequence]:
        outputs, gradients = self._step(self.x, self.dy)
        _ = [t.numpy() for t in gradients[-1:]], outputs[0][-1, -1, -1].numpy()
        return outputs, gradients

    def inference(self) -> tf.Tensor:
        y, _, _ = self._inference(self.x)
        y[-1, -1, -1].numpy()
        return y

    def answer(self) -> dict[str, np.ndarray]:
        (y, h_n, c_n), (dx, *rest) = self.step()
        found = {"y": y, "h_n": h_n, "c_n": c_n, "x.grad": dx, "inference": self.inference()}
        named = self.stack.named([gradient.numpy() for gradient in rest])
        return found | {f"{name}.grad": gradient for name, gradient in named.items()}


def builders(stack: type[Stack], *, jit_compile: bool = False) -> tuple[Callable, Callable]:
    """Return a peer's `build` and `build_learner`, of a stack of cells."""

    def build(problem: dict[str, np.ndarray], threads: int) -> Unrolled:
        configure(problem, threads)
        return Unrolled(problem, jit_compile, stack)

    def build_learner(lesson: dict[str, np.ndarray], threads: int) -> Program:
        configure(lesson, threads)
        return Program(lesson, stack(lesson), jit_compile)

    return build, build_learner


build, build_learner = builders(Stack)
