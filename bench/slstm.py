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

from .core import Group, Record, Timed, measure, timed
from .suites import Options, Suite, absent

HEADS = (1, 4, 8)


class Problem:
    """Gates, a cell of xLSTM's with weights that are not zero, and what it makes of them."""

    def __init__(self, T: int, B: int, H: int, N: int, device: torch.device) -> None:
        from xlstm.blocks.slstm.cell import sLSTMCell, sLSTMCellConfig

        torch.manual_seed(0)
        self.device = device
        self.cell = sLSTMCell(sLSTMCellConfig(hidden_size=H, num_heads=N, backend="vanilla"))
        torch.nn.init.uniform_(self.cell._recurrent_kernel_, -(H**-0.5), H**-0.5)
        self.cell.to(device)
        self.gates = torch.randn(B, T, 4 * H, device=device, requires_grad=True)
        self.dy = torch.randn(B, N, T, H // N, device=device)

    def expected(self) -> dict[str, Tensor]:
        """Return y and all gradients, by the cell as it comes."""
        return Caller(self, "eager").answer()

    def fresh(self) -> None:
        """Return None: one input is checked."""


class Caller:
    """A cell, as it is, compiled, or converted; a contender of `Group`."""

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

    def timed(self, mode: str) -> Timed:
        """Return what makes a call and returns its seconds."""
        return timed(getattr(self, mode), self.problem.device)

    def close(self) -> None:
        """Do nothing: it holds no process."""


def run(name: str, suite: Suite, options: Options) -> Iterator[Record]:
    """Yield a record for each contender, shape and number of heads."""
    if importlib.util.find_spec("xlstm") is None:
        whys = {"eager": "xlstm is not installed; pip install --no-deps xlstm"}
        yield from absent(name, "every case", suite.modes[0], whys, options.device)
        return
    ours = "native" if options.device.type == "cpu" else "triton"
    threads = sorted({n for n in suite.threads if n < options.threads} | {options.threads})
    for case in suite.cases:
        T, B, _, H, _ = case.shape
        for N in HEADS:
            problem = Problem(T, B, H, N, options.device)
            build = {how: partial(Caller, problem, how) for how in ("eager", "compiled", ours)}
            facts = {"shape": case.shape._asdict(), "heads": N}
            for count in threads:
                torch.set_num_threads(count)
                group = Group(problem, build)
                yield from measure(
                    name, f"{case.name}, N={N}", group, suite.modes, suite.pace, options.device,
                    extra=lambda label, mode, seconds, facts=facts: facts,
                )  # fmt: skip
                group.close()
    torch.set_num_threads(options.threads)
