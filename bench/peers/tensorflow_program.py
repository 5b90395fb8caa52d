"""The TensorFlow tutorial's language model around an LSTM, and its training step.

Three things are set so that it computes what PyTorch does. The forget bias is 0. Where a word comes
twice in a batch its rows of the embedding's gradient are added before the norm is taken, as in a
dense gradient; tf.clip_by_global_norm would take the norm of the rows. And PyTorch has two biases
where TensorFlow has one, which therefore counts twice, in the norm and in the update.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


def configure(problem: dict[str, np.ndarray], threads: int) -> None:
    """Set threads and precision, before anything else runs."""
    tf.config.experimental.enable_tensor_float_32_execution(bool(problem["tf32"]))
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


def same(x: tf.Tensor) -> tf.Tensor:
    """Return x: no dropout."""
    return x


def absent(x: tf.Tensor, h: tf.Tensor, c: tf.Tensor, between: Callable) -> tuple:
    """Return x as y, in an LSTM's place."""
    return x, h, c


class Program:
    """Embedding, dropout, `lstm`, dropout, softmax layer; summed loss, clip, gradient descent.

    `lstm` is a Stack of tensorflow_cell or keras_lstm; its `x` is laid out as `inputs` are.
    """

    def __init__(self, lesson: dict[str, np.ndarray], lstm: Any, jit_compile: bool) -> None:
        self.embedding = tf.Variable(lesson["word_embeddings.weight"])
        self.softmax = tf.Variable(lesson["sm_fc.weight"].T.copy())  # [H, V]
        self.softmax_bias = tf.Variable(lesson["sm_fc.bias"])
        self.lstm = lstm
        self.scale, self.clip = float(lesson["scale"]), float(lesson["clip"])
        self.keep = float(lesson["keep_prob"])
        self.optimizer = tf.compat.v1.train.GradientDescentOptimizer(float(lesson["rate"]))
        pairs = zip(lesson["inputs"], lesson["targets"], strict=True)
        self.batches = [(tf.constant(i), tf.constant(t)) for i, t in pairs]
        self.checked, self.count = int(lesson["checked"]), 0
        self.state = tf.constant(lesson["h0"]), tf.constant(lesson["c0"])
        self.zeros = [tf.zeros(v.shape, v.dtype) for v in self._lstm_variables]
        self._train = tf.function(self._step_with(lstm), jit_compile=jit_compile)
        self._rest = tf.function(self._step_with(absent), jit_compile=jit_compile)

    @property
    def _lstm_variables(self) -> list[tf.Variable]:
        return [*self.lstm.variables, *self.lstm.biases]

    def _step_with(self, lstm: Callable) -> Callable:
        """Return a training step: a function of one batch, the state and the rate of dropout."""
        variables = [self.embedding, *self._lstm_variables, self.softmax, self.softmax_bias]

        def step(inputs, targets, h, c, rate):
            drop = same if self.keep == 1 else lambda x: tf.nn.dropout(x, rate)
            with tf.GradientTape() as tape:
                x = drop(tf.nn.embedding_lookup(self.embedding, inputs))
                y, h, c = lstm(x, h, c, drop)
                rows = tf.reshape(drop(y), [-1, self.softmax.shape[0]])
                logits = tf.matmul(rows, self.softmax) + self.softmax_bias
                nll = tf.reduce_mean(
                    tf.nn.sparse_softmax_cross_entropy_with_logits(
                        tf.reshape(targets, [-1]), logits
                    )
                )
                loss = self.scale * nll
            rows, *middle, softmax, bias = tape.gradient(loss, variables)
            if lstm is absent:  # for the clip and the update
                middle = self.zeros
            gradients = [added(rows), *middle, softmax, bias]
            gradients, _ = tf.clip_by_global_norm(gradients, self.clip)
            self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
            return nll, h, c

        return step

    def _run(self, step: Callable, rate: float) -> float:
        """Take one step on the next batch; return when all of it is done."""
        inputs, targets = self.batches[self.count % len(self.batches)]
        self.count += 1
        nll, *self.state = step(inputs, targets, *self.state, tf.constant(rate, tf.float32))
        self.softmax_bias[0].numpy()
        return float(nll)

    def train(self) -> float:
        return self._run(self._train, 1 - self.keep)

    def rest(self) -> float:
        return self._run(self._rest, 1 - self.keep)

    def answer(self) -> dict[str, np.ndarray]:
        """Return losses of the first steps without dropout, and what they changed."""
        before = self._weights()
        losses = np.array([self._run(self._train, 0.0) for _ in range(self.checked)])
        changes = {name: after - before[name] for name, after in self._weights().items()}
        for name in changes:
            if name.startswith("bias"):  # of the sum of two that move alike
                changes[name] = changes[name] / 2
        return {"losses": losses} | {f"update of {n}": change for n, change in changes.items()}

    def _weights(self) -> dict[str, np.ndarray]:
        own = self.lstm.named([v.numpy() for v in self.lstm.variables])
        return own | {
            "word_embeddings.weight": self.embedding.numpy(),
            "sm_fc.weight": self.softmax.numpy().T,
            "sm_fc.bias": self.softmax_bias.numpy(),
        }


def added(rows: tf.IndexedSlices) -> tf.IndexedSlices:
    """Add up the rows of one word at the first of its places, zeros at the others.

    Of a fixed size, which XLA needs, unlike tf.unique's.
    """
    alike = rows.indices[:, None] == rows.indices[None, :]
    first = tf.argmax(tf.cast(alike, tf.int8), axis=1)  # the first place of each word
    count = rows.indices.shape[0]
    sums = tf.math.unsorted_segment_sum(rows.values, first, count)
    return tf.IndexedSlices(sums, rows.indices, rows.dense_shape)
