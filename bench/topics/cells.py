"""Cells that cuDNN does not have, forward and backward: what each costs beside nn.LSTM's cell.

Each is timed beside the plain LSTM and beside the step loop of the same cell in the same rounds,
and where Keras leaves its own fast path, beside Keras's loop, which is in a process of its own; the
GRU beside nn.GRU. Two layers, B = 20. All answers are compared, mask by mask, before anything is
timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import torch

import fused_lstm
from fused_lstm import reference
from fused_lstm.autograd import draw_seed

from .. import peers
from ..alone import SIZES as PRESETS
from ..contenders import Contender
from ..measure.check import require_right
from ..measure.timing import interleave, quartiles, speedup, timed
from ..peers.remote import PeerFailed, Remote

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
KERAS = ("recurrent_dropout", "layer_norm")  # what its LSTM does step by step
PEER = Contender("keras", "keras-cells", peer=True)
ENGINES = {"cpu": "native", "cuda": "triton"}

# At most this of the plain LSTM's time; at least this of the factor that it has over its own loop;
# at least this of Keras's speed.
MOST, LEAST, KERAS_LEAST = {"layer_norm": 1.6}, {"layer_norm": 0.7}, 3.0


def why_not(device: torch.device) -> str | None:
    """Why our engine cannot be timed on a device."""
    if device.type not in ENGINES:
        return f"--device {device}: our engines run on {' and '.join(ENGINES)}"
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
        T, B, I, H, L = self.shape = PRESETS[size]
        torch.manual_seed(0)
        self.device, self.dtype = device, torch.float32
        self.zero = torch.zeros(L, B, H, device=device)
        self.engine = engine
        self.module: Any
        if engine == "torch":
            self.module = THEIRS[name](I, H, L, device=device)
        elif name == "gru":
            self.module = fused_lstm.GRU(I, H, L, engine=engine, device=device)
        else:
            self.module = fused_lstm.LSTM(I, H, L, engine=engine, device=device, **CELLS[name])
        self.x = torch.randn(T, B, I, device=device, requires_grad=True)
        self.dy = torch.randn(T, B, H, device=device)

    def loop(self) -> torch.Tensor:
        """The same loop for all cells, which multiplies x by W before it begins. (For nn.LSTM's,
        engine `loop` has TensorFlow's, which multiplies [x, h] at each step.)"""
        cell = self.module.spec
        seed = draw_seed(self.device) if cell.draws else None
        given = self.x, self.zero, self.zero, self.module.weights()
        return reference.lstm(*given, seed=seed, cell=cell)[0]

    def step(self) -> tuple[torch.Tensor, ...]:
        y = self.loop() if self.engine == "loop" else self.module(self.x)[0]
        return y, *torch.autograd.grad(y, [self.x, *self.module.parameters()], self.dy)

    def named(self) -> dict[str, torch.Tensor]:
        """What the peer is handed over: weights by name, and the masks of `answer`."""
        given = {"x": self.x, "dy": self.dy} | dict(self.module.named_parameters())
        T, B, _, H, L = self.shape
        torch.manual_seed(1)
        drawn = draw_seed(self.device)
        draws = [reference.draw(self.module.spec, drawn, lane, L, T, B, H, H) for lane in range(L)]
        masks = [torch.ones(B, H) if d.recurrent is None else d.recurrent for d in draws]
        rate = torch.tensor(self.module.spec.recurrent_dropout)
        return given | {"masks": torch.stack(masks), "recurrent_dropout": rate}

    def answer(self) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        names = ["y", "x.grad", *(f"{name}.grad" for name, _ in self.module.named_parameters())]
        return dict(zip(names, (t.detach() for t in self.step()), strict=True))


def in_keras(stack: Stack) -> Remote:
    """Its process, doing what a stack does.

    Raises:
        PeerFailed: it cannot run.
        WrongAnswer: it does not give what the stack gives.
    """
    if why := peers.missing(PEER.engine, stack.device):
        raise PeerFailed(PEER.label, why)
    remote = Remote(PEER, stack)
    try:
        require_right(PEER.label, remote.answer(), stack.answer())
    except BaseException:
        remote.close()
        raise
    return remote


def costs(
    size: str, device: torch.device, seconds: float, names: Sequence[str] = tuple(CELLS)
) -> tuple[dict[str, Cost], dict[tuple[str, str], list[float]]]:
    """Each cell's `Cost`, and the samples by (cell, engine), all of a size taking turns.

    Raises:
        WrongAnswer: a cell does not give what its step loop gives.
    """
    ours = ENGINES[device.type]
    stacks = {
        (name, engine): Stack(name, engine, size, device)
        for name in names
        for engine in (ours, "loop", *(["torch"] if name in THEIRS else []))
    }
    for (name, engine), stack in stacks.items():
        if engine != ours:
            require_right(name, stacks[name, ours].answer(), stack.answer())
    cases = {key: timed(stack.step, device) for key, stack in stacks.items()}
    with ExitStack() as processes:
        for name in sorted(set(KERAS).intersection(names)):
            try:
                keras = in_keras(stacks[name, ours])
            except PeerFailed as failed:
                print(f"{name}: {failed}")
                continue
            processes.enter_context(closing(keras))
            cases[name, "keras"] = keras.timed("step")
        samples = interleave(cases, seconds)
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
