"""Recurrent code of other packages beside ours under it: Keras's layers, FlashRNN's function.

TiRex-2, a forecasting model whose sLSTM layers call that function, is there as a whole and as one
of these layers. Each runs as its users call it on a CPU: "theirs", eager; and with `install()` of
the package's module in fused_lstm.integrations, "ours". Loops of few steps also run under
torch.compile, as the owners of FlashRNN and TiRex-2 run them; it unrolls the steps and compiles
long ones for minutes, so those run where `--engines all` asks for it. A package that is not there
says so.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .cases import Case, Shape
from .core import Call, Work, differentiable

THEIRS, OURS, COMPILED = "theirs", "ours", "theirs, compiled"
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
    rounded_to: torch.dtype | None = None  # whose tolerance is right, where float32's is not


MAKE = {
    "Keras LSTM": Adopted("keras", "keras", partial(keras_layer, "LSTM")),
    "Keras GRU": Adopted("keras", "keras", partial(keras_layer, "GRU")),
    "FlashRNN lstm": Adopted("flashrnn", "flashrnn", partial(flashrnn_function, "lstm")),
    "FlashRNN slstm": Adopted("flashrnn", "flashrnn", partial(flashrnn_function, "slstm")),
    "TiRex-2, an sLSTM layer": Adopted("tirex2", "flashrnn", tirex2_layer),
    # Its twelve random blocks amplify rounding in the gradients; a test compares them in float64.
    "TiRex-2": Adopted("tirex2", "flashrnn", tirex2_model, torch.float16),
}
SHAPES = Shape(50, 16, 64, 64, 1), Shape(100, 32, 128, 128, 1), Shape(100, 4, 256, 256, 1)
SERIES = tuple(Shape(T, B, PATCH, 512, 12) for T, B in ((64, 1), (64, 16), (16, 64)))
CASES = [
    Case(f"{name}, T={s.T}, B={s.B}, H={s.H}", s, cell=name)
    for name, adopted in MAKE.items()
    for s in (SERIES if adopted.package == "tirex2" else SHAPES)
]


def setup(case: Case, o: Any) -> Work:
    """Return a package's call on its own code, eager and as its owners run it, and with ours."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    adopted = MAKE[case.cell]
    package = adopted.package
    if importlib.util.find_spec(package) is None:
        why = f"{package} is not installed; pip install {INSTALL.get(package, package)}"
        return Work({}, absent={THEIRS: why, OURS: why})
    torch.manual_seed(0)
    call, weights, x = adopted.make(case.shape)
    x.requires_grad_()
    with torch.no_grad():
        dy = torch.randn_like(call(x))
    leaves = {"x": x} | {f"weight {n}": w for n, w in enumerate(weights)}

    def of(under: Callable[[], Any], run: Callable[[Tensor], Tensor] = call) -> Call:
        return differentiable(lambda: run(x), leaves, dy, under=under)

    def installed() -> Any:
        return importlib.import_module(f"fused_lstm.integrations.{adopted.ours}").install()

    calls = {THEIRS: partial(of, nullcontext), OURS: partial(of, installed)}
    few = case.shape.T <= 50 and case.cell != "TiRex-2"  # which has several layers
    if package != "keras" and (few or o.engines == "all"):
        calls[COMPILED] = lambda: of(nullcontext, torch.compile(call))
    facts = {"shape": case.shape._asdict()}
    return Work(calls, of(nullcontext).answer, facts, rounded_to=adopted.rounded_to)
