"""An engine of this project, or nn.LSTM, doing a problem in this process."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

import fused_lstm

from .contenders import BASE, Contender
from .graph import GRAPH, captured
from .timing import Timed, timed
from .work import MODES, Problem


class Local:
    """An engine at a fuse level with a problem's weights.

    `answer` gives what is compared, `timed` what is timed: the same calls.
    """

    def __init__(self, contender: Contender, problem: Problem) -> None:
        self.contender, self.problem = contender, problem
        self.modes = MODES
        if problem.device.type == "cuda":
            self.modes += tuple(mode + GRAPH for mode in MODES if mode != "backward")
        self.module = flat_copy(problem.reference) if contender.label == BASE else None
        self.weights = (
            [w.detach().clone().requires_grad_() for w in problem.weights]
            if self.module is None
            else list(self.module.parameters())
        )
        self.x = problem.x.clone().requires_grad_()
        self.state = problem.h0, problem.c0
        self.y: Tensor | None = None

    def forward(self) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Keeps what a backward pass needs."""
        if self.module is not None:
            self.y, state = self.module(self.x, self.state)
            return self.y, state
        engine, fuse = self.contender.engine, self.contender.fuse
        y, state = fused_lstm.lstm(self.x, self.state, self.weights, 0.0, engine, fuse)
        self.y = y
        return y, state

    def backward(self) -> tuple[Tensor, ...]:
        """Gradients of x and of every weight."""
        y, self.y = self.y, None
        return torch.autograd.grad(y, [self.x, *self.weights], self.problem.dy)

    def inference(self) -> Tensor:
        with torch.no_grad():
            y, _ = self.forward()
        return y

    def step(self) -> tuple[Tensor, ...]:
        self.forward()
        return self.backward()

    def answer(self) -> dict[str, Tensor]:
        y, (h_n, c_n) = self.forward()
        found = {"inference": self.inference(), "y": y, "h_n": h_n, "c_n": c_n}
        self.y = y
        dx, *dweights = self.backward()
        grads = dict(zip(self.problem.names, dweights, strict=True))
        return found | {"x.grad": dx} | {f"{name}.grad": g for name, g in grads.items()}

    def work(self, mode: str) -> tuple[Callable[[], object], Callable[[], object] | None]:
        """What is timed in `mode`, and what has to be done before each time (or None)."""
        work = {
            "inference": self.inference,
            "forward": self.forward,
            "backward": self.backward,
            "step": self.step,
        }[mode]
        return work, self.forward if mode == "backward" else None

    def timed(self, mode: str) -> Timed:
        if mode.endswith(GRAPH):
            work, _ = self.work(mode.removesuffix(GRAPH))
            return timed(captured(work), self.problem.device)
        work, setup = self.work(mode)
        return timed(work, self.problem.device, setup)

    def close(self) -> None:
        """Free what it holds."""
        self.y = None


def flat_copy(reference: nn.LSTM) -> nn.LSTM:
    """nn.LSTM at its best: cuDNN gets its weights in one buffer, and copies nothing at a call."""
    module = copy.deepcopy(reference)
    module.flatten_parameters()
    return module


def expected(problem: Problem) -> dict[str, Tensor]:
    """What nn.LSTM itself computes: outputs, final state and all gradients."""
    x = problem.x.clone().requires_grad_()
    y, (h_n, c_n) = problem.reference(x, (problem.h0, problem.c0))
    dx, *dweights = torch.autograd.grad(y, [x, *problem.weights], problem.dy)
    found = {"inference": y, "y": y, "h_n": h_n, "c_n": c_n, "x.grad": dx}
    for name, gradient in zip(problem.names, dweights, strict=True):
        found[f"{name}.grad"] = gradient
    return {name: tensor.detach() for name, tensor in found.items()}
