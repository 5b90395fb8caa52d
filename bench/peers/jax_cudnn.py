"""JAX's cuDNN LSTM, jax.experimental.rnn: on an NVIDIA GPU only."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import rnn

from .gates import layers
from .jax_scan import configure

KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # the packed order: weights, then biases


class CuDNN:
    """Batch-first, with all weights in one array, as cuDNN's packed format has them."""

    def __init__(self, problem: dict[str, np.ndarray]) -> None:
        self.x, self.dy = (jnp.asarray(problem[n]).swapaxes(0, 1) for n in ("x", "dy"))
        self.h0, self.c0 = jnp.asarray(problem["h0"]), jnp.asarray(problem["c0"])
        named = layers(problem)
        self.places = [(l, kind) for half in (KINDS[:2], KINDS[2:])
                       for l in range(len(named)) for kind in half]  # fmt: skip
        self.shapes = [named[l][kind].shape for l, kind in self.places]
        self.packed = jnp.concatenate([jnp.ravel(named[l][kind]) for l, kind in self.places])
        (B, T, I), (L, _, H) = self.x.shape, self.h0.shape
        lengths = jnp.full((B,), T, dtype=jnp.int32)

        def forward(x, packed):
            # dropout 0, one direction
            y, h_n, c_n = rnn.lstm(x, self.h0, self.c0, packed, lengths, I, H, L, 0.0, False)
            return y, (h_n, c_n)

        def both(x, packed, dy):
            y, back, state = jax.vjp(forward, x, packed, has_aux=True)
            return y, state, back(dy)

        self._inference, self._step = jax.jit(forward), jax.jit(both)

    def step(self):
        return jax.block_until_ready(self._step(self.x, self.packed, self.dy))

    def inference(self):
        return jax.block_until_ready(self._inference(self.x, self.packed))

    def answer(self) -> dict[str, np.ndarray]:
        y, (h_n, c_n), (dx, dpacked) = self.step()
        found = {"h_n": h_n, "c_n": c_n}
        batch_first = {"y": y, "x.grad": dx, "inference": self.inference()[0]}
        found |= {name: value.swapaxes(0, 1) for name, value in batch_first.items()}
        ends = np.cumsum([np.prod(shape) for shape in self.shapes])[:-1]
        pieces = jnp.split(dpacked, ends)
        for (l, kind), piece, shape in zip(self.places, pieces, self.shapes, strict=True):
            found[f"{kind}_l{l}.grad"] = piece.reshape(shape)
        return found


def build(problem: dict[str, np.ndarray], threads: int) -> CuDNN:
    configure(problem)
    return CuDNN(problem)
