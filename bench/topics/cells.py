"""Cells that cuDNN does not have, forward and backward: what each costs beside nn.LSTM's cell.

Each is timed beside the plain LSTM and beside the step loop of the same cell in the same rounds,
and where Keras leaves its own fast path, beside Keras's loop; the GRU beside nn.GRU. Two layers,
B = 20. The answers are compared, mask by mask, before anything is timed; Keras draws masks of its
own, so its are not.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

import fused_lstm

from ..alone import SIZES as PRESETS
from ..measure.check import require_right
from ..measure.timing import interleave, quartiles, speedup, timed

SIZES = ("small", "medium")
SECONDS = 20.0
PLAIN = "plain"
CELLS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "peephole": {"peephole": True},
    "coupled": {"coupled": True},
    "zoneout": {"zoneout": (0.15, 0.3)},
    "recurrent_dropout": {"recurrent_dropout": 0.25},
    "candidate_dropout": {"candidate_dropout": 0.25},
    "layer_norm": {"layer_norm": True},
    "gru": {"gru": True},
}
THEIRS = {"gru": torch.nn.GRU}  # what PyTorch has
KERAS = {"recurrent_dropout", "layer_norm"}  # what its LSTM does step by step
ENGINES = {"cpu": "native", "cuda": "triton"}

# At most this of the plain LSTM's time; at least this of the factor that it has over its own loop;
# at least this of Keras's speed.
MOST, LEAST, KERAS_LEAST = {"layer_norm": 1.6}, {"layer_norm": 0.7}, 3.0


def why_not(device: torch.device) -> str | None:
    """Why our engine cannot be timed on a device."""
    engine = ENGINES[device.type]
    why = fused_lstm.available_engines(device)[engine]
    return why and f"the {engine} engine cannot run here: {why}"


class Cost(NamedTuple):
    """What a cell costs: its time to the plain LSTM's, how many times as fast as its own loop."""

    to_plain: float
    to_loop: float
    to_keras: float | None = None
    to_theirs: float | None = None

    def meets(self, name: str, plain: Cost) -> bool:
        """Whether these are the goals above."""
        over_loop = self.to_loop >= LEAST.get(name, 1.0) * plain.to_loop
        keras = self.to_keras is None or name == PLAIN or self.to_keras >= KERAS_LEAST
        return self.to_plain <= MOST.get(name, 1.15) and over_loop and keras


class Stack:
    """A module of one cell on one engine, and its training step."""

    def __init__(self, name: str, engine: str, size: str, device: torch.device) -> None:
        T, B, I, H, L = PRESETS[size]
        torch.manual_seed(0)
        self.device = device
        if engine == "torch":
            self.module = THEIRS[name](I, H, L, device=device)
        elif name == "gru":
            self.module = fused_lstm.GRU(I, H, L, engine=engine, device=device)
        else:
            self.module = fused_lstm.LSTM(I, H, L, engine=engine, device=device, **CELLS[name])
        self.x = torch.randn(T, B, I, device=device, requires_grad=True)
        self.dy = torch.randn(T, B, H, device=device)

    def step(self) -> tuple[torch.Tensor, ...]:
        y, _ = self.module(self.x)
        return y, *torch.autograd.grad(y, [self.x, *self.module.parameters()], self.dy)

    def answer(self) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        names = ["y", "x.grad", *(f"{name}.grad" for name, _ in self.module.named_parameters())]
        return dict(zip(names, (t.detach() for t in self.step()), strict=True))


class KerasStack:
    """The same in Keras, under tf.function as its fit would run it."""

    def __init__(self, name: str, size: str, threads: int) -> None:
        import tensorflow as tf

        if not tf.config.threading.get_intra_op_parallelism_threads():
            tf.config.threading.set_intra_op_parallelism_threads(threads)
        (T, B, I, H, L), layers = PRESETS[size], tf.keras.layers
        made = []
        for _ in range(L):
            if name == "layer_norm":
                made.append(layers.RNN(normalizing_cell(tf, H), return_sequences=True))
            else:
                dropped = CELLS[name]["recurrent_dropout"]
                made.append(layers.LSTM(H, recurrent_dropout=dropped, return_sequences=True))
        model = tf.keras.Sequential(made)
        x, dy = tf.random.normal((B, T, I)), tf.random.normal((B, T, H))
        model(x)

        @tf.function
        def both(x, dy):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = model(x, training=True)
            return tape.gradient(y, [x, *model.trainable_variables], output_gradients=dy)

        def step() -> None:
            both(x, dy)[-1].numpy()

        self.step = step


def normalizing_cell(tf, H: int):
    """Keras has no LSTM with LayerNorm any more: its own cell, with its own LayerNormalization."""
    layers = tf.keras.layers

    class Normalizing(layers.Layer):
        state_size, output_size = (H, H), H

        def build(self, shape):
            self.by_x, self.by_h = (layers.Dense(4 * H, use_bias=False) for _ in range(2))
            self.norms = [layers.LayerNormalization(epsilon=1e-5) for _ in range(3)]

        def call(self, x, states):
            h, c = states
            a = self.norms[0](self.by_x(x)) + self.norms[1](self.by_h(h))
            i, f, g, o = tf.split(a, 4, axis=-1)
            c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
            h = tf.sigmoid(o) * tf.tanh(self.norms[2](c))
            return h, [h, c]

    return Normalizing()


def costs(
    size: str, device: torch.device, seconds: float, names: Sequence[str] = tuple(CELLS)
) -> tuple[dict[str, Cost], dict[tuple[str, str], list[float]]]:
    """Each cell's `Cost`, and the samples by (cell, engine), all of a size taking turns.

    Raises:
        WrongAnswer: a cell does not give what its step loop gives.
    """
    stacks = {
        (name, engine): Stack(name, engine, size, device)
        for name in names
        for engine in (ENGINES[device.type], "loop", *(["torch"] if name in THEIRS else []))
    }
    ours = ENGINES[device.type]
    for name in names:
        for other in ("loop", *(["torch"] if name in THEIRS else [])):
            require_right(name, stacks[name, ours].answer(), stacks[name, other].answer())
    cases = {key: timed(stack.step, device) for key, stack in stacks.items()}
    if device.type == "cpu":
        for name in KERAS.intersection(names):
            try:
                keras = KerasStack(name, size, torch.get_num_threads())
            except ImportError:
                continue
            cases[name, "keras"] = timed(keras.step, device)
    samples = interleave(cases, seconds, warmup=1)
    found = {}
    for name in names:
        own = samples[name, ours]
        others = (samples.get((name, other)) for other in ("keras", "torch"))
        found[name] = Cost(
            1 / speedup(samples[PLAIN, ours], own),
            speedup(samples[name, "loop"], own),
            *(None if other is None else speedup(other, own) for other in others),
        )
    return found, samples


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Everything that was measured, as it goes into the file."""
    measured = []
    for size in given.sizes:
        found, samples = costs(size, given.device, given.seconds)
        print(f"\n{size}: cell, ms, to plain, times its loop's speed, Keras's, PyTorch's")
        for name, cost in found.items():
            ours = samples[name, ENGINES[given.device.type]]
            others = " ".join(f"{to:8.2f}" if to else " " * 8 for to in cost[2:])
            row = f"{1e3 * quartiles(ours).median:9.2f} {cost.to_plain:7.3f} {cost.to_loop:8.2f}"
            says = "" if cost.meets(name, found[PLAIN]) else "  below its goal"
            print(f"{name:18} {row} {others}{says}")
            own = {engine: times for (cell, engine), times in samples.items() if cell == name}
            measured.append({"size": size, "cell": name, **cost._asdict(), "samples": own})
    return {"measured": measured}
