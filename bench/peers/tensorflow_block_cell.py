"""TensorFlow's LSTMBlockCell: a step's product and its pointwise operations in one operator.

RETURNN's benchmark calls it LSTMBlock. TensorFlow 2 has the operator and the one of its gradient by
the gates, but no gradient is registered, so the rest of it is here: what tf.contrib.rnn had.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from .tensorflow_cell import FORGET_BIAS, Stack, Unrolled
from .tensorflow_program import Program, configure, same


@tf.custom_gradient
def cell(
    x: tf.Tensor, c: tf.Tensor, h: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor
) -> tuple[tuple[tf.Tensor, tf.Tensor], Callable]:
    """Map x [B, I], c, h [B, H] by a kernel [I + H, 4H] to the next c and h."""
    none = tf.zeros([bias.shape[0] // 4])  # no peepholes
    i, c_next, f, o, j, of_c, h_next = tf.raw_ops.LSTMBlockCell(
        x=x, cs_prev=c, h_prev=h, w=kernel, wci=none, wcf=none, wco=none, b=bias,
        forget_bias=FORGET_BIAS, cell_clip=-1.0,
    )  # fmt: skip

    def gradients(dc: tf.Tensor, dh: tf.Tensor) -> tuple[tf.Tensor, ...]:
        dc_before, dgates, *_ = tf.raw_ops.LSTMBlockCellGrad(
            x=x, cs_prev=c, h_prev=h, w=kernel, wci=none, wcf=none, wco=none, b=bias, i=i,
            cs=c_next, f=f, o=o, ci=j, co=of_c, cs_grad=dc, h_grad=dh, use_peephole=False,
        )  # fmt: skip
        by_xh = tf.matmul(dgates, kernel, transpose_b=True)
        dkernel = tf.matmul(tf.concat([x, h], 1), dgates, transpose_a=True)
        width = x.shape[1]
        return by_xh[:, :width], dc_before, by_xh[:, width:], dkernel, tf.reduce_sum(dgates, 0)

    return (c_next, h_next), gradients


class BlockCells(Stack):
    """The tutorial's stack with LSTMBlockCell in its cell's place."""

    def __call__(
        self, x: tf.Tensor, h: tf.Tensor, c: tf.Tensor, between: Callable = same
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        c, h, outputs = tf.unstack(c), tf.unstack(h), []
        pairs = [
            (tf.convert_to_tensor(kernel), tf.convert_to_tensor(bias))
            for kernel, bias in zip(self.kernels, self.biases, strict=True)
        ]
        for below in tf.unstack(x):
            for l, (kernel, bias) in enumerate(pairs):
                below = between(below) if l else below
                c[l], h[l] = cell(below, c[l], h[l], kernel, bias)
                below = h[l]
            outputs.append(below)
        return tf.stack(outputs), tf.stack(h), tf.stack(c)


def build(problem: dict[str, np.ndarray], threads: int) -> Unrolled:
    configure(problem, threads)
    return Unrolled(problem, jit_compile=False, stack=BlockCells)


def build_learner(lesson: dict[str, np.ndarray], threads: int) -> Program:
    configure(lesson, threads)
    return Program(lesson, BlockCells(lesson), jit_compile=False)
