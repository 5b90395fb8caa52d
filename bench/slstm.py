"""The sLSTM beside xLSTM's own PyTorch cell, eager and under torch.compile, on gates that are made.

What is timed is the recurrence alone, as xLSTM's layers and TiRex's call their cell: its input is
[B, T, 4H], W x without a bias. torch.compile of that cell breaks its graph at each step, where the
cell asks whether all of n is 0; what is compiled is the step around that question.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .cases import Shape
from .core import Runner, Task

HEADS = (1, 4, 8)


class Problem:
    """Gates, a cell of xLSTM's with weights that are not zero, and what it makes of them."""

    def __init__(self, shape: Shape, N: int) -> None:
        from xlstm.blocks.slstm.cell import sLSTMCell, sLSTMCellConfig

        T, B, _, H, _ = shape
        self.shape, self.heads = shape, N
        torch.manual_seed(0)
        self.cell = sLSTMCell(sLSTMCellConfig(hidden_size=H, num_heads=N, backend="vanilla"))
        torch.nn.init.uniform_(self.cell._recurrent_kernel_, -(H**-0.5), H**-0.5)
        self.gates = torch.randn(B, T, 4 * H, requires_grad=True)
        self.dy = torch.randn(B, N, T, H // N)

    def expected(self) -> dict[str, Tensor]:
        """Return y and all gradients, by the cell as it comes."""
        return Caller(self, "eager").answer()

    def facts(self, mode: str) -> dict[str, Any]:
        """Return the shape and the heads."""
        return {"shape": self.shape._asdict(), "heads": self.heads}


class Caller(Runner):
    """A cell, as it is, compiled, or converted to an engine."""

    modes = ("inference", "step")

    def __init__(self, problem: Problem, how: str) -> None:
        self.problem, self.cell = problem, copy.deepcopy(problem.cell)
        self.call: Any = self.cell
        if how == "compiled":
            self.call = torch.compile(self.cell)
        elif how != "eager":
            from fused_lstm.integrations.xlstm import convert

            convert(self.cell, engine=how)

    def step(self) -> tuple[Tensor, ...]:
        """Run forward and backward."""
        y = self.call(self.problem.gates)[0]
        leaves = [self.problem.gates, *self.cell.parameters()]
        return y, *torch.autograd.grad(y, leaves, self.problem.dy)

    @torch.no_grad()
    def inference(self) -> Tensor:
        """Run forward alone."""
        return self.call(self.problem.gates)[0]

    def answer(self) -> dict[str, Tensor]:
        """Return y, without and with gradients, and all gradients."""
        inferred, (y, *grads) = self.inference(), self.step()
        names = ["gates", *(name for name, _ in self.cell.named_parameters())]
        named = {f"{name}.grad": grad for name, grad in zip(names, grads, strict=True)}
        return {"inferred": inferred, "y": y.detach()} | named


def tasks(suite: Any, options: Any) -> Iterator[Task]:
    """Yield a task for each shape and number of heads."""
    if importlib.util.find_spec("xlstm") is None:
        raise ValueError("xlstm: got none; expected the package, pip install --no-deps xlstm")
    for case in suite.cases:
        for N in HEADS:
            problem = Problem(case.shape, N)
            build = {how: partial(Caller, problem, how) for how in ("eager", "compiled", "native")}
            yield Task(f"{case.name}, N={N}", problem, build)
