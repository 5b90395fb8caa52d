"""Recurrent code of other packages beside ours under it: Keras's layers, FlashRNN's function.

TiRex-2, a forecasting model whose sLSTM layers call that function, is there as a whole and as one
of these layers. Each runs as its users call it on a CPU, "theirs" and with `install()` of the
package's module in fused_lstm.integrations, "ours". A package that is not there says so.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .cases import Case, Shape
from .core import Runner, Task
from .models import Nothing

THEIRS, OURS = "theirs", "ours"
INSTALL = {"tirex2": "tirex-2"}  # what is imported -> the distribution, where they differ


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


PATCH = 32  # numbers of a series that TiRex-2 reads as one time step
BLOCKS = ["sLSTM", "mLSTM"] * 6


def tirex2(shape: Shape) -> nn.Module:
    """Return a TiRex-2 of 82.5 million random weights, as many as the published one has.

    Its sizes are assumed: the published file of settings was not at hand.
    """
    package: Any = importlib.import_module("tirex2.model.tirex2")
    sizes = {"embedding_dim": shape.H, "num_heads": 4}
    templates = {
        kind: {
            "time_mixer": {"model_type": f"bi-{kind.lower()}", "num_slstm_heads": 4} | sizes,
            "variate_mixer": sizes, "dropout": 0.0, "eps": 1e-6,
        }
        for kind in set(BLOCKS)
    }  # fmt: skip
    patches = {"input_patch_size": PATCH, "output_patch_size": PATCH}
    return package.TiRex2(
        stack_config={"templates": templates, "recipe": BLOCKS}, num_blocks=len(BLOCKS),
        embedding_dim=shape.H, quantiles=[n / 10 for n in range(1, 10)],
        tokenizer_cfg=patches | {"input_patch_stride": PATCH}, scaler_cfg={}, h_expand=4.0,
        context_len=PATCH * shape.T, future_len=PATCH, input_ff_dim=4 * shape.H,
        act_func="torch.nn.SiLU", dropout=0.0, device="cpu", **patches,
    )  # fmt: skip


def tirex2_model(shape: Shape) -> tuple[Callable[[Tensor], Tensor], list[Tensor], Tensor]:
    """Return a call of TiRex-2: B series of T patches -> quantiles; each series is alone."""
    model = tirex2(shape)
    alone = {
        "group_vector": torch.arange(shape.B),
        "target_mask": torch.ones(shape.B, dtype=torch.bool),
    }
    x = torch.randn(shape.B, PATCH * shape.T).cumsum(1)
    y = model({"x": x} | alone)
    named = dict(model.named_parameters())
    # Leave out weights that see nothing of a series that is alone, without covariates.
    reached = torch.autograd.grad(y.sum(), [*named.values()], allow_unused=True)
    weights: list[Tensor] = [
        w for w, d in zip(named.values(), reached, strict=True) if d is not None
    ]
    return lambda x: model({"x": x} | alone), weights, x


def tirex2_layer(shape: Shape) -> tuple[Callable[[Tensor], Tensor], list[Tensor], Tensor]:
    """Return a call of the sLSTM layer of TiRex-2's first block: x [B, T, H] -> y [B, T, H]."""
    package: Any = importlib.import_module("tirex2.model.component.flashrnn_slstm")
    layer = next(m for m in tirex2(shape).modules() if isinstance(m, package.sLSTMFlashRNNLayer))
    torch.nn.init.uniform_(layer.get_R(), -(shape.H**-0.5), shape.H**-0.5)
    return layer, list(layer.parameters()), torch.randn(shape.B, shape.T, shape.H)


class Adopted(NamedTuple):
    """Another package's code: what must be installed, our module for it, and a call."""

    package: str
    ours: str  # in fused_lstm.integrations
    make: Callable[[Shape], tuple[Callable[[Tensor], Tensor], list[Tensor], Tensor]]
    cases: tuple[Case, ...] = ()  # where they are not the suite's
    rounded_to: torch.dtype | None = None  # whose tolerance is right, where float32's is not


def named(*shapes: Shape) -> tuple[Case, ...]:
    """Return the case of each shape."""
    return tuple(Case(f"T={s.T}, B={s.B}, H={s.H}", s) for s in shapes)


SHAPES = Shape(50, 16, 64, 64, 1), Shape(100, 32, 128, 128, 1), Shape(100, 4, 256, 256, 1)
SERIES = named(*(Shape(T, B, PATCH, 512, 12) for T, B in ((64, 1), (64, 16), (16, 64))))
MAKE = {
    "Keras LSTM": Adopted("keras", "keras", partial(keras_layer, "LSTM")),
    "Keras GRU": Adopted("keras", "keras", partial(keras_layer, "GRU")),
    "FlashRNN lstm": Adopted("flashrnn", "flashrnn", partial(flashrnn_function, "lstm")),
    "FlashRNN slstm": Adopted("flashrnn", "flashrnn", partial(flashrnn_function, "slstm")),
    "TiRex-2, an sLSTM layer": Adopted("tirex2", "flashrnn", tirex2_layer, SERIES),
    # Its twelve random blocks amplify rounding in the gradients; a test compares them in float64.
    "TiRex-2": Adopted("tirex2", "flashrnn", tirex2_model, SERIES, torch.float16),
}


class Problem:
    """A call of a package's, its weights, its input, and the gradient that comes back."""

    def __init__(self, adopted: Adopted, shape: Shape) -> None:
        torch.manual_seed(0)
        self.ours, self.shape = adopted.ours, shape
        self.call, self.weights, x = adopted.make(shape)
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
            name = f"fused_lstm.integrations.{problem.ours}"
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
        flat = torch.cat([d.flatten() for d in dweights])
        return {"inference": self.inference(), "y": y.detach(), "x.grad": dx, "weights.grad": flat}


def tasks(suite: Any, options: Any) -> Iterator[Task]:
    """Yield each package's call at each shape."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    for name, adopted in MAKE.items():
        package = adopted.package
        missing = importlib.util.find_spec(package) is None
        for case in adopted.cases or suite.cases:
            label = f"{name}, {case.name}"
            if missing:
                why = f"{package} is not installed; pip install {INSTALL.get(package, package)}"
                yield Task(label, Nothing(), {}, {THEIRS: why, OURS: why})
                continue
            problem = Problem(adopted, case.shape)
            build = {how: partial(Way, problem, how) for how in (THEIRS, OURS)}
            yield Task(label, problem, build, rounded_to=adopted.rounded_to)
