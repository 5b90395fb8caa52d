"""One cell's pointwise mathematics, shared by every Triton kernel of this package.

All of it is in the accumulator's dtype: float32, or float64 for float64 tensors. It calls no
function of triton.language's own library, so that it runs in the interpreter whether or not
something else imported triton first.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    # exp only ever sees a value <= 0, so that no |x| overflows.
    e = tl.exp(-tl.abs(x))
    return tl.where(x < 0, e, 1.0) / (1.0 + e)


@triton.jit
def tanh(x):
    # Absolute error one rounding of 1.0, as 2 * sigmoid(2x) - 1, with one operation less.
    e = tl.exp(-2.0 * tl.abs(x))
    t = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0, -t, t)


@triton.jit
def cell_forward(i, f, g, o, c):
    """Gates before activation and c -> the activated gates, h and c_next."""
    i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
    c_next = f * c + i * g
    return i, f, g, o, o * tanh(c_next), c_next


@triton.jit
def cell_backward(i, f, g, o, c, c_next, dh, dc_next):
    """Activated gates, c, c_next, dh and dc_next -> gradients by the gates before it, and dc."""
    tanh_c = tanh(c_next)
    dc_next += dh * o * (1.0 - tanh_c * tanh_c)
    di = dc_next * g * i * (1.0 - i)
    df = dc_next * c * f * (1.0 - f)
    dg = dc_next * i * (1.0 - g * g)
    do = dh * tanh_c * o * (1.0 - o)
    return di, df, dg, do, dc_next * f
