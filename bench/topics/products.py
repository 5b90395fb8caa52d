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

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fused_lstm import native
from fused_lstm.functional import precision_now

from ..alone import SIZES as PRESETS
from ..alone import Shape
from ..measure.check import require_right
from ..measure.timing import interleave, quartiles
from ..report.markup import Table, to_markdown
from ..rows import DEVICE, why_not
from ..training import VOCABULARY
from .scaling import SIZES, counts_up_to

__all__ = ["DEVICE", "SECONDS", "SIZES", "options", "run", "why_not"]

SECONDS = 0.5
SOFTMAX = ("logits", "dhidden", "ddecoder")  # their switch is that of matmul
ROUNDS = 5  # of a product, for one sample: their median, after one in which threads start
CHUNK = 400  # rows of the softmax layer at once
DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16")}


class Product(NamedTuple):
    """One of native.OPS.product_names() and its factors, both matrices."""

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
        """In float64 of float64 factors, in float32 of others."""
        left, right = (t if t.dtype == torch.float64 else t.float() for t in self[1:3])
        return (left.T if self.form == "tn" else left) @ (right.T if self.form == "nt" else right)

    def run(self, rounds: int = 1) -> tuple[Tensor, list[float]]:
        """The engine's answer, and the seconds of each round."""
        asked = "matmul" if self.name in SOFTMAX else "rnn"
        precision = precision_now(self.left.dtype, asked)
        return native.OPS.product(self.name, self.left, self.right, self.batch, rounds, precision)


def products_of(shape: Shape, classes: int, dtype: torch.dtype = torch.float32) -> list[Product]:
    """Those of one layer and of the softmax layer, of random factors; no logits of bfloat16."""
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


def measure(
    shape: Shape,
    classes: int,
    isas: Sequence[str],
    threads: Sequence[int],
    seconds: float,
    dtype: torch.dtype = torch.float32,
) -> list[dict[str, Any]]:
    """{"isa", "threads", "hidden", "product", "gflops": quartiles, "best"} of each; all take turns.

    Raises:
        WrongAnswer: a product is not what torch makes of the same factors.
    """
    products = {product.name: product for product in products_of(shape, classes, dtype)}
    for name, product in products.items():
        right = {name: product.expected()}
        for isa in isas:
            native.OPS.use_isa(isa)
            require_right(f"{name} ({isa})", {name: product.run()[0]}, right)

    def use(isa: str, n: int) -> None:
        native.OPS.use_isa(isa)
        torch.set_num_threads(n)

    def timed(isa: str, n: int, name: str) -> Callable[[], float]:
        def once() -> float:
            use(isa, n)
            return quartiles(products[name].run(1 + ROUNDS)[1][1:]).median

        return once

    def best(isa: str, n: int) -> float:
        use(isa, n)
        precision = precision_now(dtype, "rnn")
        return max(2 * native.OPS.best_product(dtype, precision) for _ in range(5)) / 1e9

    places = [(isa, n) for isa in isas for n in threads]
    tops = {place: best(*place) for place in places}
    cases = {(*place, name): timed(*place, name) for place in places for name in products}
    samples = interleave(cases, seconds * len(cases), least=3)
    tops = {place: max(top, best(*place)) for place, top in tops.items()}  # it varies
    return [
        {"isa": isa, "threads": n, "hidden": shape.H, "product": name, "best": tops[isa, n]}
        | {"gflops": quartiles([products[name].flops / t / 1e9 for t in taken])._asdict()}
        for (isa, n, name), taken in samples.items()
    ]


def table(found: Sequence[dict[str, Any]], isa: str, threads: int) -> str:
    """A row for each product, GF/s and the share of the best one at each size."""
    own = [row for row in found if (row["isa"], row["threads"]) == (isa, threads)]
    best, rows = max(row["best"] for row in own), {}
    for row in own:
        rate = row["gflops"]["median"]
        cells = rows.setdefault(row["product"], [row["product"]])
        cells.append(f"{rate:.0f} ({rate / best:.0%})")
    sizes = dict.fromkeys(f"H={row['hidden']}" for row in own)
    about = f"{isa}, {threads} thread{'s' * (threads > 1)}: best {best:.0f} GF/s"
    return to_markdown(about, [Table(("product", *sizes), list(rows.values()))])


def options(add: Callable) -> None:
    names = native.OPS.isa_names() if native.missing(torch.device("cpu")) is None else []
    add("--isa", action="append", choices=names, help="only this one; may be given again")
    add("--dtype", choices=list(DTYPES), default="float32", help="of the factors [float32]")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Everything that was measured, as it goes into the file; ValueError for what cannot be."""
    found, threads, dtype = [], counts_up_to(given.threads), DTYPES[given.dtype]
    able = native.OPS.isa_names(dtype)
    isas = given.isa or [name for name in able if name != "emulated"]
    if unable := set(isas) - set(able):
        raise ValueError(f"isa: got {unable.pop()}, which has no products of {given.dtype}")
    for size in given.sizes:
        found += measure(PRESETS[size], VOCABULARY, isas, threads, given.seconds, dtype)
    native.OPS.use_isa("")
    for isa in isas:
        for n in threads:
            print("\n" + table(found, isa, n), end="")
    return {"measured": found}
