"""The activations that cells share, in the accumulator's dtype: float32, or float64.

They call no function of triton.language's own library, so that they run in the interpreter whether
or not something else imported triton first.
"""

from __future__ import annotations

import triton.language as tl

from ..helper import helper


@helper
def exp(x):
    """Return e^x for x <= 0, accurate in float32 also for large -x, where a GPU's own exp is not.

    The function computes 2^(x log2 e), and the rounding error of that product grows with x. Two
    first-order terms correct it: the product's rounding error, and the error of log2 e in float32.
    """
    if x.dtype == tl.float64:
        return tl.exp(x)
    x = tl.maximum(x, -1000.0, propagate_nan=tl.PropagateNan.ALL)  # -inf leaves no number out
    power = x * 1.44269502162933349609375
    left = tl.fma(x, 1.44269502162933349609375, -power) + x * 1.925963033500011e-08
    e = tl.exp2(power)
    return e + e * (left * 0.6931471805599453)


@helper
def sigmoid(x):
    # exp only ever sees a value <= 0, so that no |x| overflows.
    e = exp(-tl.abs(x))
    return tl.where(x < 0, e, 1.0) / (1.0 + e)


@helper
def tanh(x):
    """Return tanh(x) with a relative error of a few roundings, however small x is.

    Near 0 the plain formula fails: 1 - exp(-2x) would be 0 below 3e-8. Below 3/4 the result is x
    less the part that Lambert's continued fraction x / (1 + x^2 / (3 + x^2 / (5 + ...))) takes off.
    Nine levels of it have an error of 2e-19 at most, five of 4e-9. Above 3/4 the result is
    1 - 2e / (1 + e).
    """
    a, e = tl.abs(x), tl.exp(-2.0 * tl.abs(x))
    s, small = a * a, a < 0.75
    if x.dtype == tl.float64:
        above = a * s * (11486475.0 + s * (810810.0 + s * (12870.0 + s * 44.0)))
        below = 34459425.0 + s * (16216200.0 + s * (945945.0 + s * (13860.0 + s * 45.0)))
    else:
        above = a * s * (315.0 + s * 14.0)
        below = 945.0 + s * (420.0 + s * 15.0)
    part = tl.where(small, above, 2.0 * e) / tl.where(small, below, 1.0 + e)
    t = tl.where(small, a, 1.0) - part
    return tl.where(x < 0, -t, t)
