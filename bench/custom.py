"""Cells of the literature as functions: `fused_lstm.Recurrent` beside a Python loop over them.

The loop is what a user writes: W x of all steps in one product, then at each step R h and the
function, in plain PyTorch. torch.compile of it unrolls the steps and compiles for minutes, so it
runs where `--engines all` asks for it, on the cells of COMPILED.

Answers are compared in float64, torch.compile's in float32: there a rounding turns a relu's
derivative, here and there, from 0 to 1. The cell `lstm` is compared with `fused_lstm.LSTM` too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fused_lstm

from .cases import Shape
from .core import Runner, Task

CELLS = (
    "lltm", "mgu", "li_gru", "janet", "ind_rnn", "ugrnn", "liquid", "gru", "lstm", "slstm", "sru",
    "qrnn", "min_gru", "min_lstm", "nbrc", "ran", "mi_rnn", "nas",
)  # fmt: skip
COMPILED = ("lltm", "mgu", "li_gru", "janet", "sru", "min_gru", "ind_rnn")


class Problem:
    """A cell, its input, weights and the gradient that comes back."""

    def __init__(self, name: str, shape: Shape, dtype: torch.dtype = torch.float32) -> None:
        from . import zoo  # its cells take seconds to trace

        T, B, I, H, _ = self.shape = shape
        torch.manual_seed(0)
        self.cell = zoo.ALL[name]
        begin = time.perf_counter()
        self.module = fused_lstm.Recurrent(self.cell, I, H, engine="native").to(dtype)
        self.constructed = time.perf_counter() - begin  # a cell's first module compiles it
        self.x = torch.randn(T, B, I).to(dtype).requires_grad_()
        self.dy = torch.randn(T, B, H).to(dtype)

    def exact(self) -> Problem:
        """Return the same problem in float64."""
        return Problem(self.cell.__name__, self.shape, torch.float64)

    def loop(self, x: Tensor) -> Tensor:
        """Run the layer step by step: x [T, B, I] -> y [T, B, H]."""
        m: Any = self.module
        cell, B, H = self.cell, x.shape[1], m.hidden_size
        vectors = [getattr(m, f"{name}_l0") for name in cell.weights]
        for name in cell.products:
            vectors += getattr(m, f"bias_{name}_l0").split(H)
        matrices = [getattr(m, f"weight_{name}_l0") for name in cell.products]

        def product(k: int, value: Tensor) -> list[Tensor]:
            return list(F.linear(value, matrices[k]).split(H, -1))

        states = [x.new_full((B, H), value) for value in cell.initial_states.values()]
        h, outputs, gates = x.new_zeros(B, H), [], cell.gates
        by_x = F.linear(x, m.weight_ih_l0, m.bias_ih_l0).split(H, -1)
        of_x = dict(zip(sorted(gates.by_x), by_x, strict=True))
        for t in range(len(x)):
            parts = {("x", k): of_x[k][t] for k in of_x}
            if gates.by_h:
                by_h = F.linear(h, m.weight_hh_l0, m.bias_hh_l0).split(H, -1)
                parts |= {("h", k): v for k, v in zip(sorted(gates.by_h), by_h, strict=True)}
            parts |= {("gate", k): parts["x", k] + parts["h", k] for k in gates.summed}
            h, states = cell.step([parts[c] for c in gates.columns], states, vectors, product)
            outputs.append(h)
        return torch.stack(outputs)

    def expected(self) -> dict[str, Tensor]:
        """Return what `answer` has, by the loop."""
        return Caller(self, "loop").answer()

    def facts(self, mode: str) -> dict[str, Any]:
        """Return the shape, the cell, and the seconds of the module's constructor."""
        cell = self.cell.__name__
        return {"shape": self.shape._asdict(), "cell": cell, "constructed": self.constructed}


class Caller(Runner):
    """A way to run a problem's layer."""

    modes = ("inference", "step")

    def __init__(self, problem: Problem, how: str) -> None:
        self.problem, self.how, self.module = problem, how, problem.module
        self.call: Callable[[Tensor], Tensor] = problem.loop
        if how == "compile":
            torch._dynamo.reset()  # else the ninth loop is not compiled: one function has all
            self.call = torch.compile(problem.loop, dynamic=False)
        if how == "library":
            _, _, I, H, _ = problem.shape
            self.module = fused_lstm.LSTM(I, H, engine="native").to(problem.x)
            self.module.load_state_dict(problem.module.state_dict())
        if how in ("ours", "library"):
            self.call = lambda x: self.module(x)[0]
        begin = time.perf_counter()
        self.step()
        self.first = time.perf_counter() - begin

    def inference(self) -> Tensor:
        """Return y, keeping nothing."""
        with torch.no_grad():
            return self.call(self.problem.x)

    def step(self) -> tuple[Tensor, ...]:
        """Run forward and backward."""
        p = self.problem
        y = self.call(p.x)
        return y, *torch.autograd.grad(y, [p.x, *self.module.parameters()], p.dy)

    def answer(self) -> dict[str, Tensor]:
        """Return y, of inference too, and all gradients."""
        if self.how != "compile" and self.problem.x.dtype != torch.float64:
            exact = Caller(self.problem.exact(), self.how).answer()
            return {name: tensor.float() for name, tensor in exact.items()}
        names = [name for name, _ in self.module.named_parameters()]
        results = dict(
            zip(("y", "x.grad", *(f"{n}.grad" for n in names)), self.step(), strict=True)
        )
        return {"inference": self.inference()} | {n: t.detach() for n, t in results.items()}

    def facts(self, mode: str, rounds: int) -> dict[str, Any]:
        """Return the seconds of the first call, which compiles where anything does."""
        return {"first": self.first}


def tasks(suite: Any, options: Any) -> Iterator[Task]:
    """Yield each cell of each case."""
    for case in suite.cases:
        for name in CELLS:
            problem = Problem(name, case.shape)
            ways = ["loop", "ours"] + ["library"] * (name == "lstm")
            if name in COMPILED and options.engines == "all":
                ways.append("compile")
            build = {how: partial(Caller, problem, how) for how in ways}
            yield Task(f"{name}, {case.name}", problem, build)
