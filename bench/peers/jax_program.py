"""The language model and its training step in JAX, under one jit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .gates import layers, names


class Program:
    """`forward` is jax_scan's: (x, (w_ih, w_hh, bias) a layer, h, c, between) -> y, (h, c)."""

    def __init__(self, lesson: dict[str, np.ndarray], forward: Callable) -> None:
        self.scale, self.clip, self.rate, self.keep = (
            float(lesson[name]) for name in ("scale", "clip", "rate", "keep_prob")
        )
        self.parameters = {
            "layers": [tuple(map(jnp.asarray, layer.values())) for layer in layers(lesson)],
            "embedding": jnp.asarray(lesson["word_embeddings.weight"]),
            "softmax": jnp.asarray(lesson["sm_fc.weight"].T),  # [H, V]
            "bias": jnp.asarray(lesson["sm_fc.bias"]),
        }
        pairs = zip(lesson["inputs"], lesson["targets"], strict=True)
        self.batches = [(jnp.asarray(i), jnp.asarray(t)) for i, t in pairs]
        self.checked = int(lesson["checked"])
        self.count, self.key = 0, jax.random.key(0)
        self.state = jnp.asarray(lesson["h0"]), jnp.asarray(lesson["c0"])
        self.zeros = jax.tree.map(jnp.zeros_like, self.parameters["layers"])
        self._train = jax.jit(partial(self._step, forward), donate_argnums=0)
        self._rest = jax.jit(partial(self._step, None), donate_argnums=0)

    def _loss(self, parameters, forward, inputs, targets, state, key, keep):
        """Return the mean loss over words, and the next state."""
        h, c = state
        keys = iter(jax.random.split(key, 2 + len(h)))

        def drop(x):
            if self.keep == 1:
                return x
            return jnp.where(jax.random.bernoulli(next(keys), keep, x.shape), x / keep, 0)

        y = drop(parameters["embedding"][inputs])
        if forward is not None:
            weights = [(w_ih, w_hh, a + b) for w_ih, w_hh, a, b in parameters["layers"]]
            y, (h, c) = forward(y, weights, h, c, drop)
        logits = drop(y) @ parameters["softmax"] + parameters["bias"]
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        nll = jnp.mean(jax.nn.logsumexp(logits, axis=-1) - chosen)
        return self.scale * nll, (nll, (h, c))

    def _step(self, forward, parameters, zeros, inputs, targets, state, key, keep):
        key, now = jax.random.split(key)
        loss = jax.grad(self._loss, has_aux=True)
        gradients, (nll, state) = loss(parameters, forward, inputs, targets, state, now, keep)
        if forward is None:  # for the clip and the update
            gradients["layers"] = zeros
        norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradients)))
        rate = self.rate * jnp.minimum(1, self.clip / norm)
        updated = jax.tree.map(lambda p, g: p - rate * g, parameters, gradients)
        return updated, nll, state, key

    def _run(self, step: Callable, keep: float) -> float:
        """Take one step on the next batch; return when all of it is done."""
        inputs, targets = self.batches[self.count % len(self.batches)]
        self.count += 1
        self.parameters, nll, self.state, self.key = jax.block_until_ready(
            step(self.parameters, self.zeros, inputs, targets, self.state, self.key, keep)
        )
        return float(nll)

    def train(self) -> float:
        return self._run(self._train, self.keep)

    def rest(self) -> float:
        return self._run(self._rest, self.keep)

    def answer(self) -> dict[str, np.ndarray]:
        """Return losses of the first steps without dropout, and what they changed."""
        before = self._weights()
        losses = np.array([self._run(self._train, 1.0) for _ in range(self.checked)])
        after = self._weights()
        return {"losses": losses} | {f"update of {n}": after[n] - before[n] for n in before}

    def _weights(self) -> dict[str, np.ndarray]:
        p = self.parameters
        found = {
            "word_embeddings.weight": p["embedding"],
            "sm_fc.weight": p["softmax"].T,
            "sm_fc.bias": p["bias"],
        }
        for l, layer in enumerate(p["layers"]):
            found |= dict(zip(names(l), layer, strict=True))
        return {name: np.array(weight) for name, weight in found.items()}
