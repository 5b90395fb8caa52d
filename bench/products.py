"""Each matrix product of the native engine by itself, on this CPU.

A training step is eight products: in the LSTM the input's, a step's, a step's backwards, and the
gradients by its input (dx) and weights (dW); in the softmax layer the logits and their gradients by
its input (dhidden) and weights (ddecoder). Each is timed alone, through the code that makes it in a
step but without the pointwise work, for every instruction set that the CPU has, beside the best
product that there can be: both factors in the L1 cache, the sums in registers. What is far below
that is where a CPU loses its time. Answers are compared with torch's before anything is timed.
Of bfloat16 (`--dtype bfloat16`, where an instruction set multiplies it) sums are float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from fused_lstm import native
from fused_lstm.functional import precision_now

from . import kernels
from .cases import Case, Shape
from .core import Pace, Record, quartiles, require_right, surroundings, take_turns
from .suites import Options, Suite
from .training import VOCABULARY

SOFTMAX = ("logits", "dhidden", "ddecoder")  # their switch is that of matmul
ROUNDS = 5  # of a product, for one sample: their median, after one in which threads start
CHUNK = 400  # rows of the softmax layer at once
DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16")}


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


def run(name: str, suite: Suite, options: Options) -> Iterator[Record]:
    """Yield a record for each product, on every instruction set and one and all threads.

    "best" of a record is the GF/s of the best product there can be. Raises WrongAnswer where a
    product is not what torch makes of the same factors.
    """
    dtype = DTYPES[options.dtype or "float32"]
    isas = [isa for isa in native.OPS.isa_names(dtype) if isa != "emulated"]
    threads = sorted({1, options.threads})
    for case in suite.cases:
        yield from measure(name, case, isas, threads, suite.pace, dtype)
    native.OPS.use_isa("")
    torch.set_num_threads(options.threads)


def measure(
    name: str, case: Case, isas: Sequence[str], threads: Sequence[int], pace: Pace,
    dtype: torch.dtype, classes: int = VOCABULARY,
) -> Iterator[Record]:  # fmt: skip
    """Check and time the products of a case; all take turns."""
    products = {product.name: product for product in products_of(case.shape, classes, dtype)}
    for label, product in products.items():
        right = {label: product.expected()}
        for isa in isas:
            native.OPS.use_isa(isa)
            require_right(f"{label} ({isa})", {label: product.run()[0]}, right)

    def use(isa: str, n: int) -> None:
        native.OPS.use_isa(isa)
        torch.set_num_threads(n)

    def once(isa: str, n: int, label: str) -> float:
        use(isa, n)
        return quartiles(products[label].run(1 + ROUNDS)[1][1:]).median

    def best(isa: str, n: int) -> float:
        use(isa, n)
        precision = precision_now(dtype, "rnn")
        return max(2 * kernels.ops().best_product(dtype, precision) for _ in range(5)) / 1e9

    places = [(isa, n) for isa in isas for n in threads]
    tops = {place: best(*place) for place in places}
    cases = {
        (*place, label): partial(once, *place, label) for place in places for label in products
    }
    samples = take_turns(cases, replace(pace, seconds=pace.seconds * len(cases)))
    tops = {place: max(top, best(*place)) for place, top in tops.items()}  # it varies
    common = surroundings(torch.device("cpu")) | {"dtype": str(dtype).removeprefix("torch.")}
    common["group"] = f"{name}, {case}, {common['date']}"
    for (isa, n, label), seconds in samples.items():
        facts = {"isa": isa, "best_gflops": tops[isa, n], "flops": products[label].flops}
        facts["shape"] = case.shape._asdict()
        yield Record(name, case.name, isa, label, tuple(seconds), threads=n, extra=facts, **common)
