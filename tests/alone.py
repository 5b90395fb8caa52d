"""Cells by themselves: a process that compiles one need not trace the others of a file first."""

from __future__ import annotations

import torch.nn.functional as F
from torch import sigmoid, tanh

import fused_lstm


@fused_lstm.cell(states="c", weights="v_f v_r", x_only="g f r k")
def sru(g, f, r, k, *, c, v_f, v_r):
    """Follow fused_lstm.zoo's."""
    f, r = sigmoid(f + v_f * c), sigmoid(r + v_r * c)
    c = f * c + (1 - f) * g
    return r * c + (1 - r) * k, c


@fused_lstm.cell(states="c", products="u")
def norm_and_product(a, b, *, c, u):
    """Meet inside a step for sums and for a product."""
    c = sigmoid(b) * c + tanh(u(F.layer_norm(a, a.shape[-1:])))
    return tanh(c), c
