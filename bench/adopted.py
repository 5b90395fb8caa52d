"""Recurrent code of other packages beside ours under it: Keras's layers, FlashRNN's function.

Each runs as its users call it on a CPU, "theirs" and with `install()` of the package's module in
fused_lstm.integrations, "ours". A package that is not there says so.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .cases import Shape
from .core import Runner, Task
from .models import Nothing

THEIRS, OURS = "theirs", "ours"
SHAPES = Shape(50, 16, 64, 64, 1), Shape(100, 32, 128, 128, 1), Shape(100, 4, 256, 256, 1)


def keras_layer(kind: str, shape: Shape) -> tuple[Callable[[Tensor], Tensor], list[Tensor], Tensor]:
    """Return a call of a Keras layer [B, T, I] -> [B, T, H], its weights, and its input."""
    keras: Any = importlib.import_module("keras")
    if keras.backend.backend() != "torch":
        raise ValueError("adopted: got KERAS_BACKEND of another kind; expected torch")
    layer = getattr(keras.layers, kind)(shape.H, return_sequences=True)
    x = torch.randn(shape.B, shape.T, shape.I)
    layer(x)
    return layer, [w.value for w in layer.trainable_weights], x


def flashrnn_function(
    function: str, shape: Shape
) -> tuple[Callable[[Tensor], Tensor], list[Tensor], Tensor]:
    """Return a call of FlashRNN's function: its gates by x -> h of all steps; 4 heads."""
    flashrnn: Any = importlib.import_module("flashrnn")
    N, K = 4, shape.H // 4
    told = flashrnn.FlashRNNConfig(
        backend="vanilla", function=function, num_heads=N, head_dim=K, dtype="float32"
    )
    R, b = torch.randn(4, N, K, K) * 0.1, torch.zeros(4, N, K)

    def call(gates: Tensor) -> Tensor:
        return flashrnn.flashrnn(gates, R, b, None, function, told)[0][0]

    gates = torch.randn(shape.B, shape.T, 4, N, K)
    return call, [R.requires_grad_(), b.requires_grad_()], gates


MAKE = {
    "Keras LSTM": ("keras", partial(keras_layer, "LSTM")),
    "Keras GRU": ("keras", partial(keras_layer, "GRU")),
    "FlashRNN lstm": ("flashrnn", partial(flashrnn_function, "lstm")),
    "FlashRNN slstm": ("flashrnn", partial(flashrnn_function, "slstm")),
}


class Problem:
    """A call of a package's, its weights, its input, and the gradient that comes back."""

    def __init__(self, package: str, make: Callable, shape: Shape) -> None:
        torch.manual_seed(0)
        self.package, self.shape = package, shape
        self.call, self.weights, x = make(shape)
        self.x = x.requires_grad_()
        with torch.no_grad():
            self.dy = torch.randn_like(self.call(x))

    def expected(self) -> dict[str, Tensor]:
        """Return what the package's own code answers."""
        return Way(self, THEIRS).answer()

    def facts(self, mode: str) -> dict[str, Any]:
        """Return the shape."""
        return {"shape": self.shape._asdict()}


class Way(Runner):
    """A problem's call with the package's own code, or with ours under it."""

    modes = ("inference", "step")

    def __init__(self, problem: Problem, how: str) -> None:
        self.problem = problem
        self.under: Callable[[], Any] = nullcontext
        if how == OURS:
            name = f"fused_lstm.integrations.{problem.package}"
            self.under = importlib.import_module(name).install

    def inference(self) -> Tensor:
        """Return h of all steps, keeping nothing."""
        with torch.no_grad(), self.under():
            return self.problem.call(self.problem.x)

    def step(self) -> tuple[Tensor, ...]:
        """Run forward and backward."""
        p = self.problem
        with self.under():
            y = p.call(p.x)
            return y, *torch.autograd.grad(y, [p.x, *p.weights], p.dy)

    def answer(self) -> dict[str, Tensor]:
        """Return h, of inference too, and gradients."""
        y, dx, *dweights = self.step()
        named = {f"weight {n}.grad": d for n, d in enumerate(dweights)}
        return {"inference": self.inference(), "y": y.detach(), "x.grad": dx} | named


def tasks(suite: Any, options: Any) -> Iterator[Task]:
    """Yield each package's call at each shape."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    for name, (package, make) in MAKE.items():
        missing = importlib.util.find_spec(package) is None
        for case in suite.cases:
            label = f"{name}, {case.name}"
            if missing:
                why = f"{package} is not installed; pip install {package}"
                yield Task(label, Nothing(), {}, {THEIRS: why, OURS: why})
                continue
            problem = Problem(package, make, case.shape)
            build = {how: partial(Way, problem, how) for how in (THEIRS, OURS)}
            yield Task(label, problem, build)
