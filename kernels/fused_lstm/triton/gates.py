"""One cell's pointwise mathematics, shared by every Triton kernel of this package.

All of it is in the accumulator's dtype: float32, or float64 for float64 tensors. It calls no
function of triton.language's own library, so that it runs in the interpreter whether or not
something else imported triton first.
"""

from __future__ import annotations

import triton.language as tl

from .helper import helper


@helper
def exp(x):
    """e^x for x <= 0 with its relative accuracy far out, where a GPU's own loses it in float32.

    It computes 2^(x log2 e), and the product's rounding grows with x. What that rounding left
    out, and what float32's log2 e does, is made good to first order.
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
    """Relative error a few roundings, however small x is: 1 - exp(-2x) would be 0 below 3e-8.

    Below 3/4, x less what Lambert's continued fraction x / (1 + x^2 / (3 + x^2 / (5 + ...))) takes
    off, nine levels deep (its error is 2e-19 at most) or five (4e-9); above, 1 - 2e / (1 + e).
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


@helper
def cell_forward(i, f, g, o, c):
    """Gates before activation and c -> the activated gates, h and c_next."""
    i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
    c_next = f * c + i * g
    return i, f, g, o, o * tanh(c_next), c_next


@helper
def cell_backward(i, f, g, o, c, c_next, dh, dc_next):
    """Activated gates, c, c_next, dh and dc_next -> gradients by the gates before it, and dc."""
    tanh_c = tanh(c_next)
    dc_next += dh * o * (1.0 - tanh_c * tanh_c)
    di = dc_next * g * i * (1.0 - i)
    df = dc_next * c * f * (1.0 - f)
    dg = dc_next * i * (1.0 - g * g)
    do = dh * tanh_c * o * (1.0 - o)
    return di, df, dg, do, dc_next * f


# --- in memory: four gates, H apart in a row of [., 4H] ---


@helper
def load_gates(gates_ptr, offset, mask, H, ACC: tl.constexpr):
    """Four gates, H apart in a row of [., 4H], in the accumulator's dtype."""
    i = tl.load(gates_ptr + offset, mask=mask, other=0.0).to(ACC)
    f = tl.load(gates_ptr + offset + H, mask=mask, other=0.0).to(ACC)
    g = tl.load(gates_ptr + offset + 2 * H, mask=mask, other=0.0).to(ACC)
    o = tl.load(gates_ptr + offset + 3 * H, mask=mask, other=0.0).to(ACC)
    return i, f, g, o


@helper
def store_gates(gates_ptr, offset, mask, i, f, g, o, H):
    """Four gates, H apart, in the memory's dtype."""
    dtype = gates_ptr.dtype.element_ty
    tl.store(gates_ptr + offset, i.to(dtype), mask=mask)
    tl.store(gates_ptr + offset + H, f.to(dtype), mask=mask)
    tl.store(gates_ptr + offset + 2 * H, g.to(dtype), mask=mask)
    tl.store(gates_ptr + offset + 3 * H, o.to(dtype), mask=mask)
