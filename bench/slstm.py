"""The sLSTM beside xLSTM's and TiRex's own PyTorch cells, eager and under torch.compile.

What is timed is the recurrence alone, as the packages' layers call their cell: its input is
[B, T, 4H], W x without a bias. torch.compile of xLSTM's cell breaks its graph at each step, where
the cell asks whether all of n is 0; what is compiled is the step around that question. TiRex's
cell would be compiled with its T steps unrolled, which takes minutes; what is compiled is its
pointwise step. TiRex's cell rounds its states to bfloat16 at each step, ours computes in float32.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .cases import Shape
from .core import Runner, Task

HEADS = (1, 4, 8)
PACKAGES = {"xlstm": "xlstm", "tirex": "tirex-ts"}  # module -> what pip calls it


def make_cell(package: str, H: int, N: int) -> Any:
    """Return a package's own cell with weights that are not zero."""
    if package == "xlstm":
        from xlstm.blocks.slstm.cell import sLSTMCell, sLSTMCellConfig

        cell = sLSTMCell(sLSTMCellConfig(hidden_size=H, num_heads=N, backend="vanilla"))
        kernel = cell._recurrent_kernel_
    else:
        from tirex.models.slstm.cell import sLSTMBlockConfig, sLSTMCell

        cell = sLSTMCell(sLSTMBlockConfig(H, N), backend="torch")
        kernel = cell._recurrent_kernel_
        torch.nn.init.zeros_(cell._bias_)
    torch.nn.init.uniform_(kernel, -(H**-0.5), H**-0.5)
    return cell


class Problem:
    """Gates, a package's cell, and what it makes of them."""

    def __init__(self, shape: Shape, N: int, package: str) -> None:
        T, B, _, H, _ = shape
        self.shape, self.heads, self.package = shape, N, package
        # The packages' backward writes a gradient of all T gates at each step, and xLSTM's one of
        # R for each row: in these cases it takes minutes, and the forward is timed alone.
        long = B > 1 and (T > 1000 or N == 1)
        self.modes = ("inference",) if long else ("inference", "step")
        torch.manual_seed(0)
        self.cell = make_cell(package, H, N)
        self.gates = torch.randn(B, T, 4 * H, requires_grad=True)
        self.dy = torch.randn(B, N, T, H // N)

    def expected(self) -> dict[str, Tensor]:
        """Return what `answer` has, by the cell as it comes, in float64 where it has that.

        In float32 its gradients with respect to the gates are off by a hundredth of the largest.
        """
        if self.package == "tirex":
            return Caller(self, "eager").answer()
        exact = copy.copy(self)
        exact.cell = copy.deepcopy(self.cell).double()
        exact.gates = self.gates.detach().double().requires_grad_()
        exact.dy = self.dy.double()
        answer = Caller(exact, "eager").answer()
        return {name: tensor.float() for name, tensor in answer.items()}

    def facts(self, mode: str) -> dict[str, Any]:
        """Return the shape, the heads and the package."""
        return {"shape": self.shape._asdict(), "heads": self.heads, "package": self.package}


class Caller(Runner):
    """A cell, as it is, compiled, or converted to an engine."""

    def __init__(self, problem: Problem, how: str) -> None:
        self.problem, self.cell = problem, copy.deepcopy(problem.cell)
        self.modes = problem.modes
        self.call: Any = partial(self.cell, state=None)
        if how == "compiled" and problem.package == "xlstm":
            self.call = torch.compile(self.cell)
        elif how == "compiled":
            self.call = self.with_compiled_step
            self.pointwise = torch.compile(self.steps().slstm_forward_pointwise)
        elif how != "eager":
            module = importlib.import_module(f"fused_lstm.integrations.{problem.package}")
            module.convert(self.cell, engine=how)

    def steps(self) -> Any:
        """Return TiRex's class of functions."""
        return importlib.import_module("tirex.models.slstm.cell").sLSTMCellTorch

    def with_compiled_step(self, gates: Tensor) -> tuple[Tensor, Tensor]:
        """Run TiRex's cell, its pointwise step compiled."""
        steps = self.steps()
        eager = steps.slstm_forward_pointwise
        steps.slstm_forward_pointwise = staticmethod(self.pointwise)
        try:
            return self.cell(gates, None)
        finally:
            steps.slstm_forward_pointwise = staticmethod(eager)

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
        """Return y, and where the case has a step, its y and all gradients."""
        inferred = self.inference()
        if "step" not in self.modes:
            return {"inferred": inferred}
        y, *grads = self.step()
        names = ["gates", *(name for name, _ in self.cell.named_parameters())]
        named = {f"{name}.grad": grad for name, grad in zip(names, grads, strict=True)}
        return {"inferred": inferred, "y": y.detach()} | named


def tasks(suite: Any, options: Any) -> Iterator[Task]:
    """Yield a task for each package, shape and number of heads."""
    packages = [name for name in PACKAGES if importlib.util.find_spec(name) is not None]
    if not packages:
        wanted = "pip install --no-deps " + " ".join(PACKAGES.values())
        raise ValueError(f"slstm: got neither package; expected one: {wanted}")
    for package in packages:
        for case in suite.cases:
            for N in HEADS:
                torch.compiler.reset()  # a problem's graphs do not count against the next one's
                problem = Problem(case.shape, N, package)
                ways = "eager", "compiled", "native"
                build = {how: partial(Caller, problem, how) for how in ways}
                name = f"{package}, {case.name}, N={N}"
                # As exact as the packages' own cells are.
                yield Task(name, problem, build, rounded_to=torch.bfloat16)
