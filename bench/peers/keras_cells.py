"""Keras's LSTMs that leave its fast path: recurrent_dropout, and layer normalization.

`problem` has weights as fused_lstm.LSTM names them. With recurrent_dropout it has its rate too, and
`masks` [L, B, H]: the answer is that of Keras's own cell with these, all four gates the same. What
is timed is layers.LSTM as a user has it, which draws its own, one for each gate. Keras has no LSTM
with layer normalization: here its LayerNormalization is in a cell beside its Dense, as Ba et al.
have it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from .tensorflow_program import configure

layers = tf.keras.layers


class Masked(layers.LSTMCell):
    """Keras's cell with a mask [B, H] that is given."""

    def __init__(self, hidden: int, rate: float, mask: np.ndarray) -> None:
        super().__init__(hidden, recurrent_dropout=rate)
        self.mask = tf.constant(mask)

    def get_recurrent_dropout_mask(self, step_input: tf.Tensor) -> list[tf.Tensor]:
        return [self.mask] * 4


class Normalizing(layers.Layer):
    """LN(x W) + LN(h R), each with its gain and bias, and o * tanh(LN(c))."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.state_size, self.output_size = (hidden, hidden), hidden
        self.by_x, self.by_h = (layers.Dense(4 * hidden, use_bias=False) for _ in range(2))
        self.of_x, self.of_h, self.of_c = (
            layers.LayerNormalization(epsilon=1e-5) for _ in range(3)
        )

    def build(self, shape: tuple) -> None:
        hidden = self.output_size
        self.by_x.build(shape)
        self.by_h.build((None, hidden))
        for norm, width in ((self.of_x, 4 * hidden), (self.of_h, 4 * hidden), (self.of_c, hidden)):
            norm.build((None, width))

    def call(self, x: tf.Tensor, states: Sequence[tf.Tensor]) -> tuple:
        h, c = states
        a = self.of_x(self.by_x(x)) + self.of_h(self.by_h(h))
        i, f, g, o = tf.split(a, 4, axis=-1)
        c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
        h = tf.sigmoid(o) * tf.tanh(self.of_c(c))
        return h, [h, c]


class Stack:
    """Layers that write sequences, with their weights by PyTorch's names."""

    def __init__(self, made: Sequence[layers.Layer], problem: dict[str, np.ndarray]) -> None:
        self.layers, self.named = made, {}
        width = problem["x"].shape[-1]
        for index, layer in enumerate(made):
            layer.build((None, None, width))
            for name, variable in variables_of(layer.cell).items():
                self.named[f"{name}_l{index}"] = variable
            width = layer.cell.output_size
        for name, variable in self.named.items():
            own = problem[name]
            if name.startswith("bias") and isinstance(made[0].cell, layers.LSTMCell):
                own = own + problem[name.replace("ih", "hh")]
            variable.assign(own.T)
        self.step = tf.function(self._step)

    def _step(self, x: tf.Tensor, dy: tf.Tensor) -> tuple:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = x
            for layer in self.layers:
                y = layer(y, training=True)
        wanted = [x, *(v.value for v in self.named.values())]
        return y, tape.gradient(y, wanted, output_gradients=dy)


def variables_of(cell: layers.Layer) -> dict:
    """Return a cell's variables by their names in PyTorch; of two biases, the first."""
    if isinstance(cell, layers.LSTMCell):
        names = "weight_ih", "weight_hh", "bias_ih"
        return dict(zip(names, (cell.kernel, cell.recurrent_kernel, cell.bias), strict=True))
    found = {"weight_ih": cell.by_x.kernel, "weight_hh": cell.by_h.kernel}
    for name, norm in {"ih": cell.of_x, "hh": cell.of_h, "c": cell.of_c}.items():
        found |= {f"gain_{name}": norm.gamma, f"bias_{name}": norm.beta}
    return found


class Cells:
    """The LSTM alone; time-major input is turned into Keras' [B, T, I] beforehand."""

    def __init__(self, problem: dict[str, np.ndarray]) -> None:
        self.x, self.dy = (tf.constant(problem[n].transpose(1, 0, 2).copy()) for n in ("x", "dy"))
        hidden, count = problem["dy"].shape[-1], sum(n.startswith("weight_hh") for n in problem)
        whole = {"return_sequences": True}
        if "gain_ih_l0" in problem:
            made = [layers.RNN(Normalizing(hidden), **whole) for _ in range(count)]
            self.checked = self.timed = Stack(made, problem)
            return
        rate = float(problem["recurrent_dropout"])
        made = [layers.RNN(Masked(hidden, rate, mask), **whole) for mask in problem["masks"]]
        self.checked = Stack(made, problem)
        made = [layers.LSTM(hidden, recurrent_dropout=rate, **whole) for _ in range(count)]
        self.timed = Stack(made, problem)

    def step(self) -> None:
        _, gradients = self.timed.step(self.x, self.dy)
        gradients[-1].numpy()

    def answer(self) -> dict[str, np.ndarray]:
        y, (dx, *rest) = self.checked.step(self.x, self.dy)
        found = {"y": y, "x.grad": dx}
        found = {name: t.numpy().transpose(1, 0, 2).copy() for name, t in found.items()}
        for name, gradient in zip(self.checked.named, rest, strict=True):
            found[f"{name}.grad"] = gradient.numpy().T.copy()
        for name in [n for n in found if n.startswith("bias_ih")]:
            found.setdefault(name.replace("ih", "hh"), found[name])
        return found


def build(problem: dict[str, np.ndarray], threads: int) -> Cells:
    configure(problem, threads)
    return Cells(problem)
