"""TensorFlow's BlockLSTM: all steps of a layer in one operator, LSTMBlockCell's loop in C++.

RETURNN's benchmark calls it LSTMBlockFused. A step still multiplies [x, h] by the whole kernel, and
its backward adds to the kernel's gradient at each step (tensorflow/core/kernels/rnn/lstm_ops.h).
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from .tensorflow_cell import FORGET_BIAS, Stack, builders
from .tensorflow_program import same


class Blocks(Stack):
    """The tutorial's stack, one layer after another."""

    def __call__(
        self, x: tf.Tensor, h: tf.Tensor, c: tf.Tensor, between: Callable = same
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        c_last, h_last = [], []
        steps, none = tf.constant(x.shape[0], tf.int64), tf.zeros([h.shape[2]])
        for l, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            _, cs, _, _, _, _, x = tf.raw_ops.BlockLSTM(
                seq_len_max=steps, x=between(x) if l else x, cs_prev=c[l], h_prev=h[l], w=kernel,
                wci=none, wcf=none, wco=none, b=bias, forget_bias=FORGET_BIAS, cell_clip=-1.0,
            )  # fmt: skip
            c_last.append(cs[-1])
            h_last.append(x[-1])
        return x, tf.stack(h_last), tf.stack(c_last)


build, build_learner = builders(Blocks)
