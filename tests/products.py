"""Each matrix product of a training step by itself, through the code that makes it in a step.

In the LSTM: the input's, a step's, a step's backwards, and the gradients by its input (dx) and
weights (dW); in the softmax layer the logits and their gradients by its input (dhidden) and weights
(ddecoder).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bench import kernels
from bench.cases import Shape
from fused_lstm.call.run import precision_now

SOFTMAX = ("logits", "dhidden", "ddecoder")  # their switch is that of matmul
CHUNK = 400  # rows of the softmax layer at once


class Product(NamedTuple):
    """One of kernels.ops().product_names() and its factors, both matrices."""

    name: str
    left: Tensor
    right: Tensor
    batch: int  # rows of left at a time, where it is made step by step
    form: str  # "nn": left right, "nt": left right', "tn": left' right

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
