"""Cells that no paper has, for what the cells of `bench.zoo` do not have."""

from __future__ import annotations

from torch import sigmoid, tanh

from fused_lstm import cell


@cell(states="c", weights="w", inputs="s t")
def two_inputs(f, g, *, c, w, s, t):
    c = sigmoid(f - s) * c + tanh(g * t)
    return tanh(c + w * s), c


@cell(states="c h", weights="w", inputs="dt", products={"u": 1, "v": 2})
def of_three_widths(z, *, c, h, w, dt, u, v):
    """Values of h's width are saved that no product has a part in."""
    a, b = v(tanh(u(tanh(z))))
    c = sigmoid(w * c - dt) * c + tanh(a * h)
    return tanh(b) * sigmoid(c * dt), c
