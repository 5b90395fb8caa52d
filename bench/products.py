"""Each matrix product of the native engine by itself, on this CPU.

A training step is eight products: in the LSTM the input's, a step's, a step's backwards, and the
gradients by its input (dx) and weights (dW); in the softmax layer the logits and their gradients by
its input (dhidden) and weights (ddecoder). A mode is a product, a contender is an instruction set.
Each is timed through the code that makes it in a step but without the pointwise work, beside the
best product that there can be: both factors in the L1 cache, the sums in registers. What is far
below that is where a CPU loses its time. Of bfloat16 (`--dtype bfloat16`, where an instruction set
multiplies it) sums are float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fused_lstm import native
from fused_lstm.functional import precision_now

from . import kernels
from .cases import Shape
from .core import Runner, Task, Turn, quartiles
from .training import VOCABULARY

NAMES = ("input", "step", "step back", "dx", "dW", "logits", "dhidden", "ddecoder")
SOFTMAX = ("logits", "dhidden", "ddecoder")  # their switch is that of matmul
ROUNDS = 5  # of a product, for one sample: their median, after one in which threads start
CHUNK = 400  # rows of the softmax layer at once


class Product(NamedTuple):
    """One of kernels.ops().product_names() and its factors, both matrices."""

    name: str
    left: Tensor
    right: Tensor
    batch: int  # rows of left at a time, where it is made step by step
    form: str  # "nn": left right, "nt": left right', "tn": left' right

    @property
    def flops(self) -> int:
        columns = self.right.shape[0 if self.form == "nt" else 1]
        return 2 * self.left.numel() * columns

    def expected(self) -> Tensor:
        """Return it in float64 of float64 factors, in float32 of others."""
        left, right = (t if t.dtype == torch.float64 else t.float() for t in self[1:3])
        return (left.T if self.form == "tn" else left) @ (right.T if self.form == "nt" else right)

    def run(self, rounds: int = 1) -> tuple[Tensor, list[float]]:
        """Return the engine's answer, and the seconds of each round."""
        asked = "matmul" if self.name in SOFTMAX else "rnn"
        precision = precision_now(self.left.dtype, asked)
        factors = self.left, self.right, self.batch
        return kernels.ops().product(self.name, *factors, rounds, precision)


def products_of(shape: Shape, classes: int, dtype: torch.dtype = torch.float32) -> list[Product]:
    """Return those of one layer and of the softmax layer, of random factors.

    There are no logits of bfloat16: the engine sums them in float32.
    """
    N, B, I, H = shape.tokens, shape.B, shape.I, shape.H
    rows = min(N, CHUNK)

    def matrix(m: int, n: int) -> Tensor:
        return torch.randn(m, n, dtype=torch.float64).to(dtype)

    x, h, dgates = matrix(N, I), matrix(N, H), matrix(N, 4 * H)
    w_ih, w_hh = matrix(4 * H, I), matrix(4 * H, H)
    hidden, weight, logits = matrix(rows, H), matrix(classes, H), matrix(classes, rows)
    all_products = [
        Product("input", x, w_ih, B, "nt"),
        Product("step", h, w_hh, B, "nt"),
        Product("step back", dgates, w_hh, B, "nn"),
        Product("dx", dgates, w_ih, B, "nn"),
        Product("dW", dgates, x, B, "tn"),
        Product("logits", weight, hidden, B, "nt"),
        Product("dhidden", logits, weight, B, "tn"),
        Product("ddecoder", logits, hidden, B, "nn"),
    ]
    return [p for p in all_products if dtype != torch.bfloat16 or p.name != "logits"]


class Products:
    """Work: the products of a shape."""

    def __init__(self, shape: Shape, dtype: torch.dtype) -> None:
        self.shape, self.dtype = shape, dtype
        self.products = {p.name: p for p in products_of(shape, VOCABULARY, dtype)}

    def expected(self) -> dict[str, Tensor]:
        """Return what torch makes of the same factors."""
        return {name: product.expected() for name, product in self.products.items()}

    def facts(self, mode: str) -> dict[str, Any]:
        """Return what a record says of a product."""
        return {"shape": self.shape._asdict(), "flops": self.products[mode].flops}


class OnIsa(Runner):
    """The products on one instruction set."""

    def __init__(self, isa: str, work: Products) -> None:
        self.isa, self.products, self.dtype = isa, work.products, work.dtype
        self.modes = tuple(self.products)

    def answer(self) -> dict[str, Tensor]:
        """Return all products."""
        native.OPS.use_isa(self.isa)
        return {name: product.run()[0] for name, product in self.products.items()}

    def timed(self, mode: str) -> Turn:
        """Return what makes a product some times; the engine has the clock."""

        def turn(calls: int, seconds: float) -> list[float]:
            native.OPS.use_isa(self.isa)
            return [quartiles(self.products[mode].run(1 + ROUNDS)[1][1:])[1]]

        return turn

    def facts(self, mode: str, rounds: int) -> dict[str, Any]:
        """Return GF/s of the best product that there can be."""
        native.OPS.use_isa(self.isa)
        precision = precision_now(self.dtype, "rnn")
        best = max(2 * kernels.ops().best_product(self.dtype, precision) for _ in range(5))
        return {"isa": self.isa, "best_gflops": best / 1e9}

    def close(self) -> None:
        """Go back to the best instruction set."""
        native.OPS.use_isa("")


def tasks(suite: Any, options: Any) -> Iterator[Task]:
    """Yield the products of each case, on every instruction set."""
    for name in suite.dtypes:
        dtype = getattr(torch, name)
        isas = [isa for isa in native.OPS.isa_names(dtype) if isa != "emulated"]
        for case in suite.cases:
            work = Products(case.shape, dtype)
            yield Task(case.name, work, {isa: partial(OnIsa, isa, work) for isa in isas}, {}, name)
