"""The LSTM's cell: gates i, f, g, o, and the state c."""

from __future__ import annotations

from ..helper import helper
from . import Cell
from .activation import sigmoid, tanh


@helper
def forward(gates, c):
    """Gates before activation and c -> the activated gates, h and c_next."""
    i, f, g, o = gates
    i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
    c_next = f * c + i * g
    return (i, f, g, o), o * tanh(c_next), c_next


@helper
def backward(gates, c, c_next, dh, dc_next):
    """Activated gates, c, c_next, dh and dc_next -> gradients by the gates before it, and dc."""
    i, f, g, o = gates
    tanh_c = tanh(c_next)
    dc_next += dh * o * (1.0 - tanh_c * tanh_c)
    di = dc_next * g * i * (1.0 - i)
    df = dc_next * c * f * (1.0 - f)
    dg = dc_next * i * (1.0 - g * g)
    do = dh * tanh_c * o * (1.0 - o)
    return (di, df, dg, do), dc_next * f


LSTM = Cell("lstm", forward, backward)
