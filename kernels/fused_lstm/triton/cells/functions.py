"""Functions of generated cells, beside activation.py's: accurate near 0, NaN where torch's are."""

from __future__ import annotations

import triton.language as tl

from ..helper import helper
from .activation import exp, tanh


@helper
def maximum(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@helper
def minimum(a, b):
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@helper
def relu(x):
    return maximum(x, 0.0)


@helper
def expm1(x):
    t = tanh(0.5 * x)  # 1 from where exp(x) is 1e7 on
    return tl.where(tl.abs(x) > 1.0, tl.exp(x) - 1.0, 2.0 * t / (1.0 - t))


@helper
def elu(x):
    return tl.where(x > 0.0, x, expm1(tl.minimum(x, 0.0)))


@helper
def log1p(x):
    u = 1.0 + x
    rest = u - 1.0  # what is left of x in u
    scaled = tl.log(u) * (x / tl.where(rest == 0.0, 1.0, rest))
    return tl.where(rest == 0.0, x, tl.where(u == float("inf"), u, scaled))


@helper
def log_one_plus(y):
    """Return log(1 + y) for 0 <= y <= 1: twice the inverse hyperbolic tangent of y / (2 + y)."""
    s = y / (2.0 + y)
    square = s * s
    terms: tl.constexpr = 16 if y.dtype == tl.float64 else 7
    total = square * 0.0
    for k in tl.static_range(terms):
        total = total * square + 1.0 / (2 * (terms - k) - 1)
    return 2.0 * s * total


@helper
def log_sigmoid(x):
    return tl.minimum(x, 0.0) - log_one_plus(exp(-tl.abs(x)))
