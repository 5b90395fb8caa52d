"""Cells that cuDNN does not have, forward and backward, beside nn.LSTM's: what each costs.

A mode is a cell. Each is timed beside the plain LSTM and the step loop of the same cell, in the
same rounds, and where Keras leaves its own fast path, beside Keras's loop; the GRU beside nn.GRU.
Two layers. All answers are compared, mask by mask, before anything is timed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

import fused_lstm
from fused_lstm import reference
from fused_lstm.autograd import draw_seed

from .cases import Shape
from .contenders import Contender, why_not
from .core import Runner, Task, Turn
from .peers.remote import Remote

CELLS: dict[str, dict[str, Any]] = {
    "plain": {},
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


class Stack(Runner):
    """A module of one cell on one engine, and its training step."""

    def __init__(self, cell: str, engine: str, shape: Shape, device: torch.device) -> None:
        T, B, I, H, L = self.shape = shape
        torch.manual_seed(0)
        self.device, self.dtype = device, torch.float32
        self.zero = torch.zeros(L, B, H, device=device)
        self.engine = engine
        self.module: Any
        if engine == "torch":
            self.module = torch.nn.GRU(I, H, L, device=device)
        elif cell == "gru":
            self.module = fused_lstm.GRU(I, H, L, engine=engine, device=device)
        else:
            self.module = fused_lstm.LSTM(I, H, L, engine=engine, device=device, **CELLS[cell])
        self.x = torch.randn(T, B, I, device=device, requires_grad=True)
        self.dy = torch.randn(T, B, H, device=device)

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


class Cells(Runner):
    """The stacks of one contender, by their cells. The loop's are the work, whose answer is right.

    Names of tensors begin with their cell's.
    """

    def __init__(self, stacks: Mapping[str, Any]) -> None:
        self.stacks, self.modes = stacks, tuple(stacks)

    def answer(self) -> dict[str, Tensor]:
        """Return the answers of all."""
        each = {cell: stack.answer() for cell, stack in self.stacks.items()}
        return {f"{cell} {name}": t for cell, of in each.items() for name, t in of.items()}

    expected = answer

    def asks(self, right: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the right answers of its cells."""
        return {name: t for name, t in right.items() if name.partition(" ")[0] in self.modes}

    def timed(self, mode: str) -> Turn:
        """Return what takes a turn of a cell's step."""
        return self.stacks[mode].timed("step")

    def facts(self, mode: str, rounds: int = 0) -> dict[str, Any]:
        """Return the shape, of the work alone."""
        return {"shape": self.stacks[mode].shape._asdict()} if not rounds else {}

    def close(self) -> None:
        """End the processes of peers."""
        for stack in self.stacks.values():
            stack.close()


def tasks(suite: Any, options: Any) -> Iterator[Task]:
    """Yield the cells of each case."""
    device: torch.device = options.device
    ours = ENGINES.get(device.type, "loop")
    if why := fused_lstm.available_engines(device)[ours]:
        raise ValueError(f"device: got {device}; the {ours} engine cannot run here: {why}")
    for case in suite.cases:

        def stacks(engine: str, *cells: str, shape: Shape = case.shape) -> Cells:
            return Cells({cell: Stack(cell, engine, shape, device) for cell in cells or CELLS})

        loop = stacks("loop")

        def keras(loop: Cells = loop) -> Cells:
            return Cells({cell: Remote(PEER, loop.stacks[cell]) for cell in KERAS})

        build: dict[str, Any] = {"loop": lambda loop=loop: loop, "ours": partial(stacks, ours),
            "torch": partial(stacks, "torch", "gru")}  # fmt: skip
        absent = why_not(PEER, device)
        whys = {"keras": absent} if absent else {}
        yield Task(case.name, loop, build if absent else build | {"keras": keras}, whys)
