"""One cell's pointwise mathematics, shared by every Triton kernel of this package.

All of it is in the accumulator's dtype: float32, or float64 for float64 tensors. It calls no
function of triton.language's own library, so that it runs in the interpreter whether or not
something else imported triton first.
"""

from __future__ import annotations

import triton.language as tl

from .helper import helper


@helper
def sigmoid(x):
    # exp only ever sees a value <= 0, so that no |x| overflows.
    e = tl.exp(-tl.abs(x))
    return tl.where(x < 0, e, 1.0) / (1.0 + e)


@helper
def tanh(x):
    # Absolute error one rounding of 1.0, as 2 * sigmoid(2x) - 1, with one operation less.
    e = tl.exp(-2.0 * tl.abs(x))
    t = (1.0 - e) / (1.0 + e)
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
