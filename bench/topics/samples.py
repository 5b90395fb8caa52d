"""The gradients of each sample by itself, as differentially private training has to have them.

On this CPU, B samples: a backward that leaves them, through Opacus with this project's LSTM and
with Opacus's own (DPLSTM), and through torch.func, which has the forward in it. Beside them the
ordinary backward, which leaves their sum. The answers are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import fused_lstm
from lm.command import COUNT, number

from ..alone import SIZES as PRESETS
from ..alone import Shape
from ..measure.check import require_right
from ..measure.timing import interleave, quartiles, speedup, timed
from ..rows import CPU, DEVICE, why_not

__all__ = ["DEVICE", "SECONDS", "SIZES", "options", "run", "why_not"]

SIZES, SECONDS = ("small",), 10.0
ORDINARY, OURS, THEIRS, FUNC = "one backward", "Opacus, ours", "Opacus, DPLSTM", "torch.func"
MOST, LEAST = 4.0, 10.0  # of the ordinary backward's time; times DPLSTM's speed


class Stack:
    """A module, and what leaves gradients in it: the sum's in `grad`, samples' in `grad_sample`."""

    def __init__(self, module: nn.Module, x: Tensor, dy: Tensor, named: dict[str, nn.Parameter]):
        self.module, self.x, self.dy, self.named = module, x, dy, named
        self.y: Tensor | None = None

    def forward(self) -> None:
        for parameter in self.module.parameters():
            parameter.grad = parameter.grad_sample = None
        self.y, _ = self.module(self.x)

    def backward(self) -> None:
        self.y.backward(self.dy)

    def answer(self) -> dict[str, Tensor]:
        self.forward()
        self.backward()
        found = {}
        for name, p in self.named.items():
            found[name] = p.grad if p.grad_sample is None else p.grad_sample
        return found


class Func(Stack):
    """By torch.func, a sample's loss differentiated under vmap."""

    def forward(self) -> None:
        """It is in the backward."""

    def backward(self) -> None:
        weights = {name: p.detach() for name, p in self.named.items()}

        def loss(weights: dict[str, Tensor], x: Tensor, dy: Tensor) -> Tensor:
            y, _ = torch.func.functional_call(self.module, weights, (x[:, None],))
            return (y[:, 0] * dy).sum()

        each = torch.func.vmap(torch.func.grad(loss), (None, 1, 1))
        self.found = each(weights, self.x.detach(), self.dy)

    def answer(self) -> dict[str, Tensor]:
        self.backward()
        return self.found


def stacks(shape: Shape) -> dict[str, Stack]:
    """Everyone who is here, with the same weights and input."""
    T, B, I, H, L = shape
    torch.manual_seed(0)
    x, dy = torch.randn(T, B, I, requires_grad=True), torch.randn(T, B, H)
    plain = fused_lstm.LSTM(I, H, L, engine="native")
    found = {kind: made(plain, x, dy, dict(plain.named_parameters()))
             for kind, made in ((ORDINARY, Stack), (FUNC, Func))}  # fmt: skip
    if importlib.util.find_spec("opacus") is None:
        print("opacus is not installed; pip install opacus")
        return found
    from opacus import GradSampleModule
    from opacus.layers import DPLSTM

    from fused_lstm import opacus

    for name, kind in {OURS: opacus.LSTM, THEIRS: DPLSTM}.items():
        module = kind(I, H, L)
        module.load_state_dict(plain.state_dict())
        named = dict(module.named_parameters())
        sampled = GradSampleModule(module, batch_first=False, loss_reduction="sum")
        found[name] = Stack(sampled, x, dy, named)
    return found


def measure(shape: Shape, seconds: float) -> dict[str, list[float]]:
    """Seconds of each contender's rounds.

    Raises:
        WrongAnswer: somebody's gradients are not torch.func's, or do not add up to the sum's.
    """
    made = stacks(shape)
    wanted, whole = made[FUNC].answer(), made[ORDINARY].answer()
    require_right(FUNC, {name: each.sum(0) for name, each in wanted.items()}, whole)
    for name in made.keys() - {FUNC, ORDINARY}:
        require_right(name, made[name].answer(), wanted)
    cases = {name: timed(stack.backward, CPU, stack.forward) for name, stack in made.items()}
    return interleave(cases, seconds)


def options(add: Callable) -> None:
    add("--batch-size", type=number(int, COUNT), default=32, metavar="B", help="samples [32]")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Everything that was measured, as it goes into the file."""
    measured = []
    for size in given.sizes:
        shape = PRESETS[size]._replace(B=given.batch_size)
        samples = measure(shape, given.seconds)
        print(f"\n{size}, {shape}: ms, and of the ordinary backward's time")
        for name, own in samples.items():
            ratio = speedup(own, samples[ORDINARY])
            print(f"{name:16}{1e3 * quartiles(own).median:10.2f}{ratio:8.2f}{says(name, samples)}")
        measured.append({"size": size, "shape": str(shape), "samples": samples})
    return {"threads": given.threads, "measured": measured}


def says(name: str, samples: dict[str, list[float]]) -> str:
    """What our own is to DPLSTM, and whether it meets its goals."""
    if name != OURS:
        return ""
    ratio = speedup(samples[OURS], samples[ORDINARY])
    faster = speedup(samples[THEIRS], samples[OURS])
    below = "" if ratio <= MOST and faster >= LEAST else ", below its goal"
    return f"   {faster:.1f} times DPLSTM's speed{below}"
