"""Cells that cuDNN does not have, forward and backward, beside nn.LSTM's: what each costs.

Each is timed beside the plain LSTM and the step loop of the same cell, in the same rounds, and
where Keras leaves its own fast path, beside Keras's loop; the GRU beside nn.GRU. Two layers.
All answers are compared, mask by mask, before anything is timed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

import fused_lstm
from fused_lstm import reference
from fused_lstm.autograd import draw_seed

from . import core, peers
from .cases import Shape
from .contenders import Contender
from .core import Group, Record, Timed, take_turns, timed
from .machine import ForeignTime
from .peers.remote import Remote
from .suites import Options, Suite, absent

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
KERAS = ("recurrent_dropout", "layer_norm")  # what its LSTM does step by step
PEER = Contender("keras", "keras-cells", peer=True)
ENGINES = {"cpu": "native", "cuda": "triton"}


class Stack:
    """A module of one cell on one engine, and its training step; Work and Runner at once."""

    def __init__(self, cell: str, engine: str, shape: Shape, device: torch.device) -> None:
        T, B, I, H, L = self.shape = shape
        torch.manual_seed(0)
        self.device, self.dtype = device, torch.float32
        self.zero = torch.zeros(L, B, H, device=device)
        self.cell, self.engine = cell, engine
        self.module: Any
        if engine == "torch":
            self.module = torch.nn.GRU(I, H, L, device=device)
        elif cell == "gru":
            self.module = fused_lstm.GRU(I, H, L, engine=engine, device=device)
        else:
            self.module = fused_lstm.LSTM(I, H, L, engine=engine, device=device, **CELLS[cell])
        self.x = torch.randn(T, B, I, device=device, requires_grad=True)
        self.dy = torch.randn(T, B, H, device=device)

    modes = ("step",)

    def loop(self) -> Tensor:
        """Run the reference's loop, which multiplies x by W before it begins.

        It is the same for all cells. (For nn.LSTM's, engine `loop` has TensorFlow's, which
        multiplies [x, h] at each step.)
        """
        cell = self.module.spec
        seed = draw_seed(self.device) if cell.draws else None
        arguments = self.x, self.zero, self.zero, self.module.weights()
        return reference.lstm(*arguments, seed=seed, cell=cell)[0]

    def step(self) -> tuple[Tensor, ...]:
        """Run forward and backward."""
        y = self.loop() if self.engine == "loop" else self.module(self.x)[0]
        return y, *torch.autograd.grad(y, [self.x, *self.module.parameters()], self.dy)

    def named(self) -> dict[str, Tensor]:
        """Return what the peer is handed: weights by name, and the masks of `answer`."""
        tensors = {"x": self.x, "dy": self.dy} | dict(self.module.named_parameters())
        T, B, _, H, L = self.shape
        torch.manual_seed(1)
        drawn = draw_seed(self.device)
        draws = [reference.draw(self.module.spec, drawn, lane, L, T, B, H, H) for lane in range(L)]
        masks = [torch.ones(B, H) if d.recurrent is None else d.recurrent for d in draws]
        rate = torch.tensor(self.module.spec.recurrent_dropout)
        return tensors | {"masks": torch.stack(masks), "recurrent_dropout": rate}

    def answer(self) -> dict[str, Tensor]:
        """Return y and all gradients, under one seed of the masks."""
        torch.manual_seed(1)
        names = ["y", "x.grad", *(f"{name}.grad" for name, _ in self.module.named_parameters())]
        return dict(zip(names, (t.detach() for t in self.step()), strict=True))

    expected = answer

    def fresh(self) -> None:
        """Return None: one input is checked."""

    def timed(self, mode: str) -> Timed:
        """Return what takes a step and returns its seconds."""
        return timed(self.step, self.device)

    def close(self) -> None:
        """Do nothing: it holds no process."""


def run(name: str, suite: Suite, options: Options) -> Iterator[Record]:
    """Yield a record for each cell and engine; all of a size take turns."""
    device: torch.device = options.device
    ours = ENGINES.get(device.type, "loop")
    if why := fused_lstm.available_engines(device)[ours]:
        raise ValueError(f"device: got {device}; the {ours} engine cannot run here: {why}")
    for case in suite.cases:
        groups = {}
        for cell in CELLS:
            right = Stack(cell, "loop", case.shape, device)
            build: dict[str, Any] = {"loop": lambda right=right: right}
            build["ours"] = partial(Stack, cell, ours, case.shape, device)
            if cell == "gru":
                build["torch"] = partial(Stack, cell, "torch", case.shape, device)
            if cell in KERAS:
                if why := peers.missing(PEER.engine, device):
                    yield from absent(name, case.name, cell, {"keras": why}, device)
                else:
                    build["keras"] = partial(Remote, PEER, right)
            groups[cell] = Group(right, build)
        cases = {
            (cell, label): runner.timed("step")
            for cell, group in groups.items()
            for label, runner in group.runners.items()
        }
        clock = ForeignTime()
        samples = take_turns(cases, suite.pace)
        common = core.surroundings(device) | {"foreign": round(clock.share(), 4)}
        common |= {"threads": torch.get_num_threads(), "group": f"{name}, {case}, {common['date']}"}
        for (cell, label), seconds in samples.items():
            error, extra = groups[cell].errors[label], {"shape": case.shape._asdict()}
            yield Record(
                name, case.name, label, cell, tuple(seconds), error=error, extra=extra, **common
            )
        for cell, group in groups.items():
            for label, error in group.failed.items():
                yield Record(name, case.name, label, cell, why=core.reason(error), **common)
            group.close()
