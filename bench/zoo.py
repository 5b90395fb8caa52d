"""fused_lstm.zoo's cells, and a few that use what these do not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import sigmoid, tanh

import fused_lstm
from fused_lstm.zoo import *  # noqa: F403
from fused_lstm.zoo import ALL as PUBLISHED


@fused_lstm.cell(states={"c": 0.25, "n": 1.0})
def normalized(i, f, g, *, c, n):
    """Divide one sum by another, with states that begin at other values than 0."""
    i, f = torch.exp(i.clamp(max=3)), sigmoid(f)
    c, n = f * c + i * tanh(g), f * n + i
    return c / torch.maximum(n, torch.abs(c) + 0.1), c, n


@fused_lstm.cell(states="c")
def functions(i, f, g, o, *, c):
    """Use the other functions that a cell may use."""
    keep = torch.exp(-F.softplus(f)) * F.hardsigmoid(o)
    c = torch.maximum(keep * c, -torch.abs(i)) + torch.log(1 + g * g) * (1 - keep)
    c = c + F.leaky_relu(g, 0.2) * F.hardtanh(o) + F.silu(i) * torch.log1p(torch.abs(f))
    c = c + 0.1 * F.elu(i, alpha=0.5) + 0.1 * torch.expm1(-torch.abs(o))
    return torch.clamp(c, -1, 1) / torch.sqrt(1 + c**2), c


@fused_lstm.cell(states="c")
def modified(i, f, o, *, c):
    """Use softsign in place of tanh."""
    squash = o / (1 + torch.abs(o))
    c = sigmoid(f) * c + sigmoid(i) * squash
    return c / (1 + torch.abs(c)), c


ALL = PUBLISHED | {told.__name__: told for told in (normalized, functions, modified)}
