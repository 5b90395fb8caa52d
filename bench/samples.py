"""The gradients of each sample by itself, as differentially private training has to have them.

On this CPU, 32 samples: a backward that leaves them, through Opacus with this project's LSTM and
with Opacus's (DPLSTM), and through torch.func, which has the forward in it. Beside them the
ordinary backward, which leaves their sum.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fused_lstm

from .cases import Shape
from .core import Group, Record, Timed, measure, require_right, timed
from .suites import Options, Suite, absent

ORDINARY, OURS, THEIRS, FUNC = "one backward", "Opacus, ours", "Opacus, DPLSTM", "torch.func"
SAMPLES = 32


class Stack:
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
        """Return the gradients of all weights."""
        self.forward()
        self.backward()
        named: dict[str, Any] = self.named
        sampled = {n: getattr(p, "grad_sample", None) for n, p in named.items()}
        return {n: p.grad if sampled[n] is None else sampled[n] for n, p in named.items()}

    def timed(self, mode: str) -> Timed:
        """Return what runs a backward, its forward done beforehand, and returns its seconds."""
        return timed(self.backward, torch.device("cpu"), self.forward)

    def close(self) -> None:
        """Do nothing: it holds no process."""


class Func(Stack):
    """By torch.func, a sample's loss differentiated under vmap; Work too, whose answer is right."""

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

    expected = answer

    def fresh(self) -> None:
        """Return None: one input is checked."""


def stacks(shape: Shape) -> dict[str, Stack]:
    """Return everyone who is there, with the same weights and input."""
    T, B, I, H, L = shape
    torch.manual_seed(0)
    x, dy = torch.randn(T, B, I, requires_grad=True), torch.randn(T, B, H)
    plain = fused_lstm.LSTM(I, H, L, engine="native")
    named = dict(plain.named_parameters())
    made: dict[str, Stack] = {ORDINARY: Stack(plain, x, dy, named), FUNC: Func(plain, x, dy, named)}
    if importlib.util.find_spec("opacus") is None:
        return made
    from opacus import GradSampleModule
    from opacus.layers import DPLSTM

    from fused_lstm import opacus

    for label, kind in {OURS: opacus.LSTM, THEIRS: DPLSTM}.items():
        module = kind(I, H, L)
        module.load_state_dict(plain.state_dict())
        named = dict(module.named_parameters())
        sampled = GradSampleModule(module, batch_first=False, loss_reduction="sum")
        made[label] = Stack(sampled, x, dy, named)
    return made


def run(name: str, suite: Suite, options: Options) -> Iterator[Record]:
    """Yield a record for each way; WrongAnswer where samples' gradients are not the sum's parts."""
    for case in suite.cases:
        shape = case.shape._replace(B=SAMPLES)
        made = stacks(shape)
        func: Any = made[FUNC]
        whole = made.pop(ORDINARY)
        right = whole.answer()
        require_right(FUNC, {n: each.sum(0) for n, each in func.answer().items()}, right)
        group = Group(func, {label: partial(lambda s: s, stack) for label, stack in made.items()})
        group.runners[ORDINARY], group.errors[ORDINARY] = whole, 0.0

        def extra(*_: Any, shape: Shape = shape) -> dict[str, Any]:
            return {"shape": shape._asdict()}

        yield from measure(name, case.name, group, suite.modes, suite.pace, extra=extra)
        if OURS not in made:
            whys = dict.fromkeys((OURS, THEIRS), "opacus is not installed; pip install opacus")
            yield from absent(name, case.name, "backward", whys, options.device)
