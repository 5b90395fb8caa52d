"""The gradients of each sample by itself, as differentially private training has to have them.

On this CPU, 32 samples: a backward that leaves them, through Opacus with this project's LSTM and
with Opacus's (DPLSTM), and through torch.func, which has the forward in it. Beside them the
ordinary backward, which leaves their sum.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

import fused_lstm
from fused_lstm import native

from .cases import Shape
from .core import Run, Runner, Task, require_right

ORDINARY, OURS, THEIRS, FUNC = "one backward", "Opacus, ours", "Opacus, DPLSTM", "torch.func"
SAMPLES = 32


class Stack(Runner):
    """A module, and what leaves gradients in it: by sample under Opacus, else their sum."""

    modes = ("backward",)

    def __init__(self, module: Any, x: Tensor, dy: Tensor, sampled: bool = False) -> None:
        self.module, self.x, self.dy, self.sampled = module, x, dy, sampled

    def forward(self) -> None:
        """Run the module on cleared gradients."""
        for parameter in self.module.parameters():
            parameter.grad = parameter.grad_sample = None
        self.y, _ = self.module(self.x)

    def backward(self) -> None:
        """Leave gradients."""
        self.y.backward(self.dy)

    def answer(self) -> dict[str, Tensor]:
        """Return the gradients of all weights."""
        self.forward()
        self.backward()
        if not self.sampled:
            return {name: p.grad for name, p in self.module.named_parameters()}
        return {name: p.grad_sample for name, p in self.module._module.named_parameters()}

    def asks(self, right: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return nothing for a sum, which `Func.expected` compares."""
        return right if self.sampled else {}

    def work(self, mode: str) -> tuple[Run, Run | None]:
        """Return a backward, and the forward before it."""
        return self.backward, self.forward


class Func(Runner):
    """By torch.func, a sample's loss differentiated under vmap; the work too."""

    modes = ("backward",)

    def __init__(self, plain: Stack) -> None:
        self.plain = plain

    def backward(self) -> dict[str, Tensor]:
        """Return the gradients of every sample; the forward is in it."""
        module, x, dy = self.plain.module, self.plain.x.detach(), self.plain.dy
        weights = {name: p.detach() for name, p in module.named_parameters()}

        def loss(weights: dict[str, Tensor], x: Tensor, dy: Tensor) -> Tensor:
            y, _ = torch.func.functional_call(module, weights, (x[:, None],))
            return (y[:, 0] * dy).sum()

        return torch.func.vmap(torch.func.grad(loss), (None, 1, 1))(weights, x, dy)

    def answer(self) -> dict[str, Tensor]:
        """Return the gradients of every sample."""
        return self.backward()

    def expected(self) -> dict[str, Tensor]:
        """Return them; WrongAnswer where they are not the parts of the ordinary backward's sum."""
        answer = self.answer()
        sums = {name: each.sum(0) for name, each in answer.items()}
        require_right(FUNC, sums, self.plain.answer())
        return answer

    def facts(self, mode: str, rounds: int = 0) -> dict[str, Any]:
        """Return the shape."""
        (T, B, I), H = self.plain.x.shape, self.plain.dy.shape[-1]
        return {"shape": Shape(T, B, I, H, self.plain.module.num_layers)._asdict()}


def tasks(suite: Any, options: Any) -> Iterator[Task]:
    """Yield the ways of each case; WrongAnswer where samples' gradients are not the sum's parts."""
    if (why := native.missing(options.device)) is not None:
        raise ValueError(f"samples: needs the engine 'native', which cannot run: {why}")
    here = importlib.util.find_spec("opacus") is not None
    for case in suite.cases:
        T, _, I, H, L = case.shape
        torch.manual_seed(0)
        x, dy = torch.randn(T, SAMPLES, I, requires_grad=True), torch.randn(T, SAMPLES, H)
        plain = Stack(fused_lstm.LSTM(I, H, L, engine="native"), x, dy)
        func = Func(plain)
        ways: dict[str, Runner] = {ORDINARY: plain, FUNC: func}
        if here:
            from opacus import GradSampleModule
            from opacus.layers import DPLSTM

            from fused_lstm import opacus

            for label, kind in {OURS: opacus.LSTM, THEIRS: DPLSTM}.items():
                module = kind(I, H, L)
                module.load_state_dict(plain.module.state_dict())
                sampled = GradSampleModule(module, batch_first=False, loss_reduction="sum")
                ways[label] = Stack(sampled, x, dy, sampled=True)
        why = "opacus is not installed; pip install opacus"
        whys = {} if here else dict.fromkeys((OURS, THEIRS), why)
        build = {label: partial(lambda way: way, way) for label, way in ways.items()}
        yield Task(case.name, func, build, whys)
