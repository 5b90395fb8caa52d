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
from torch import Tensor, nn

import fused_lstm
from fused_lstm import native

from .cases import Shape
from .core import Run, Runner, Task, require_right

ORDINARY, OURS, THEIRS, FUNC = "one backward", "Opacus, ours", "Opacus, DPLSTM", "torch.func"
SAMPLES = 32


class Stack(Runner):
    """A module, and what leaves gradients in it: the sum's in `grad`, samples' in `grad_sample`."""

    modes = ("backward",)

    def __init__(self, module: Any, x: Tensor, dy: Tensor, named: dict[str, nn.Parameter]) -> None:
        self.module, self.x, self.dy, self.named = module, x, dy, named
        self.y: Any = None

    def forward(self) -> None:
        """Run the module on cleared gradients."""
        for parameter in self.module.parameters():
            parameter.grad = parameter.grad_sample = None
        self.y, _ = self.module(self.x)

    def backward(self) -> None:
        """Leave gradients."""
        self.y.backward(self.dy)

    def answer(self) -> dict[str, Tensor]:
        """Return the gradients of all weights, by sample where there are such."""
        self.forward()
        self.backward()
        named: dict[str, Any] = self.named
        sampled = {n: getattr(p, "grad_sample", None) for n, p in named.items()}
        return {n: p.grad if sampled[n] is None else sampled[n] for n, p in named.items()}

    def work(self, mode: str) -> tuple[Run, Run | None]:
        """Return a backward, and the forward before it."""
        return self.backward, self.forward


class Ordinary(Stack):
    """The backward that leaves the sum, which `Func.expected` compares."""

    def asks(self, right: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return nothing: it has no sample's gradient."""
        return {}


class Func(Stack):
    """By torch.func, a sample's loss differentiated under vmap; the work too."""

    def forward(self) -> None:
        """Do nothing: it is in the backward."""

    def backward(self) -> None:
        """Make the gradients of every sample."""
        weights = {name: p.detach() for name, p in self.named.items()}

        def loss(weights: dict[str, Tensor], x: Tensor, dy: Tensor) -> Tensor:
            y, _ = torch.func.functional_call(self.module, weights, (x[:, None],))
            return (y[:, 0] * dy).sum()

        each = torch.func.vmap(torch.func.grad(loss), (None, 1, 1))
        self.gradients = each(weights, self.x.detach(), self.dy)

    def answer(self) -> dict[str, Tensor]:
        """Return them."""
        self.backward()
        return self.gradients

    def expected(self) -> dict[str, Tensor]:
        """Return them; WrongAnswer where they are not the parts of the ordinary backward's sum."""
        answer = self.answer()
        sums = {name: each.sum(0) for name, each in answer.items()}
        require_right(FUNC, sums, Stack(self.module, self.x, self.dy, self.named).answer())
        return answer

    def facts(self, mode: str, rounds: int = 0) -> dict[str, Any]:
        """Return the shape."""
        (T, B, I), H = self.x.shape, self.dy.shape[-1]
        return {"shape": Shape(T, B, I, H, self.module.num_layers)._asdict()}


def stacks(shape: Shape) -> dict[str, Stack]:
    """Return everyone who is there, with the same weights and input."""
    T, B, I, H, L = shape
    torch.manual_seed(0)
    x, dy = torch.randn(T, B, I, requires_grad=True), torch.randn(T, B, H)
    plain = fused_lstm.LSTM(I, H, L, engine="native")
    weights = dict(plain.named_parameters())
    made: dict[str, Stack] = {
        ORDINARY: Ordinary(plain, x, dy, weights), FUNC: Func(plain, x, dy, weights)
    }  # fmt: skip
    if importlib.util.find_spec("opacus") is None:
        return made
    from opacus import GradSampleModule
    from opacus.layers import DPLSTM

    from fused_lstm import opacus

    for label, kind in {OURS: opacus.LSTM, THEIRS: DPLSTM}.items():
        module = kind(I, H, L)
        module.load_state_dict(plain.state_dict())
        sampled = GradSampleModule(module, batch_first=False, loss_reduction="sum")
        made[label] = Stack(sampled, x, dy, dict(module.named_parameters()))
    return made


def tasks(suite: Any, options: Any) -> Iterator[Task]:
    """Yield the ways of each case; WrongAnswer where samples' gradients are not the sum's parts."""
    if (why := native.missing(options.device)) is not None:
        raise ValueError(f"samples: needs the engine 'native', which cannot run: {why}")
    for case in suite.cases:
        made = stacks(case.shape._replace(B=SAMPLES))
        func: Any = made[FUNC]
        why = "opacus is not installed; pip install opacus"
        whys = {} if OURS in made else dict.fromkeys((OURS, THEIRS), why)
        build = {label: partial(lambda s: s, stack) for label, stack in made.items()}
        yield Task(case.name, func, build, whys)
