"""JAX: lax.scan over time for each layer, under jit: XLA compiles the body once, for any T.

The input products of all steps are one product before the scan, as a JAX user would write it.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .gates import layers, names
from .jax_program import Program

Layer = tuple[jax.Array, jax.Array, jax.Array]


def forward(
    x: jax.Array,
    weights: list[Layer],
    h0: jax.Array,
    c0: jax.Array,
    between: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Map x [T, B, I] and (w_ih, w_hh, bias) a layer to y [T, B, H], (h_n, c_n) [L, B, H].

    `between` is what falls on the input of every layer but the first.
    """
    h_n, c_n = [], []
    for (w_ih, w_hh, bias), h, c in zip(weights, h0, c0, strict=True):
        x = between(x) if h_n else x

        def step(state, gx, w_hh=w_hh):
            h, c = state
            i, f, g, o = jnp.split(gx + h @ w_hh.T, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        (h, c), x = jax.lax.scan(step, (h, c), x @ w_ih.T + bias)
        h_n.append(h)
        c_n.append(c)
    return x, (jnp.stack(h_n), jnp.stack(c_n))


class Scan:
    """`answer`, `step` and `inference` on `forward`."""

    def __init__(self, problem: dict[str, np.ndarray]) -> None:
        self.x, self.h0, self.c0, self.dy = (
            jnp.asarray(problem[name]) for name in ("x", "h0", "c0", "dy")
        )
        self.weights = [
            (
                jnp.asarray(layer["weight_ih"]),
                jnp.asarray(layer["weight_hh"]),
                jnp.asarray(layer["bias_ih"] + layer["bias_hh"]),
            )
            for layer in layers(problem)
        ]

        def both(x, weights, h0, c0, dy):
            y, back, state = jax.vjp(lambda x, w: forward(x, w, h0, c0), x, weights, has_aux=True)
            return y, state, back(dy)

        self._inference, self._step = jax.jit(forward), jax.jit(both)

    def step(self):
        return jax.block_until_ready(self._step(self.x, self.weights, self.h0, self.c0, self.dy))

    def inference(self):
        return jax.block_until_ready(self._inference(self.x, self.weights, self.h0, self.c0))

    def answer(self) -> dict[str, np.ndarray]:
        y, (h_n, c_n), (dx, dweights) = self.step()
        found = {"y": y, "h_n": h_n, "c_n": c_n, "x.grad": dx, "inference": self.inference()[0]}
        for l, (w_ih, w_hh, bias) in enumerate(dweights):
            own = zip(names(l), (w_ih, w_hh, bias, bias), strict=True)
            found |= {f"{name}.grad": gradient for name, gradient in own}
        return found


def configure(problem: dict[str, np.ndarray]) -> None:
    """Set the problem's precision: JAX narrows to float32 by itself, and to TF32 on a GPU."""
    jax.config.update("jax_enable_x64", problem["h0"].dtype == np.float64)
    precision = "tensorfloat32" if problem["tf32"] else "float32"
    jax.config.update("jax_default_matmul_precision", precision)


def build(problem: dict[str, np.ndarray], threads: int) -> Scan:
    configure(problem)
    return Scan(problem)


def build_learner(lesson: dict[str, np.ndarray], threads: int) -> Program:
    configure(lesson)
    return Program(lesson, forward)
