"""TensorFlow's LSTMBlockCell: a step's product and its pointwise operations in one operator.

RETURNN's benchmark calls it LSTMBlock. TensorFlow 2 has the operator and the one of its gradient by
the gates, but no gradient is registered, so the rest of it is here: what tf.contrib.rnn had.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from .tensorflow_cell import FORGET_BIAS, Stack, builders


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

    @staticmethod
    def cell(x: tf.Tensor, c: tf.Tensor, h: tf.Tensor, *weights: tf.Variable) -> tuple:
        return cell(x, c, h, *map(tf.convert_to_tensor, weights))


build, build_learner = builders(BlockCells)
