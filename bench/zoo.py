"""Cells of the literature, as a user would tell them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import sigmoid, tanh

import fused_lstm


@fused_lstm.cell(states="c")
def lstm(i, f, g, o, *, c):
    """Follow Hochreiter and Schmidhuber 1997, with Gers's forget gate."""
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


@fused_lstm.cell(states="c")
def coupled(i, g, o, *, c):
    """Follow Greff et al. 2017."""
    i = sigmoid(i)
    c = (1 - i) * c + i * tanh(g)
    return sigmoid(o) * tanh(c), c


@fused_lstm.cell(states="c", weights="w_i w_f w_o")
def peephole(i, f, g, o, *, c, w_i, w_f, w_o):
    """Follow Gers and Schmidhuber 2000."""
    old = c
    c = sigmoid(f + w_f * old) * old + sigmoid(i + w_i * old) * tanh(g)
    return sigmoid(o + w_o * c) * tanh(c), c


@fused_lstm.cell(states="h", apart="n")
def gru(r, z, n, *, h):
    """Follow Cho et al. 2014, with the reset gate after R h, as in nn.GRU."""
    by_x, by_h = n
    n = tanh(by_x + sigmoid(r) * by_h)
    return n + sigmoid(z) * (h - n)


@fused_lstm.cell(states="c")
def lltm(i, o, g, *, c):
    """Follow PyTorch's tutorial on C++ extensions."""
    c = c + F.elu(g) * sigmoid(i)
    return tanh(c) * sigmoid(o), c


@fused_lstm.cell(states="h", apart="n")
def mgu(f, n, *, h):
    """Follow Zhou et al. 2016, with the forget gate after R h, as in cuDNN's GRU."""
    by_x, by_h = n
    f = sigmoid(f)
    return (1 - f) * h + f * tanh(by_x + f * by_h)


@fused_lstm.cell(states="h")
def li_gru(z, n, *, h):
    """Follow Ravanelli et al. 2018, without its batch normalization."""
    z = sigmoid(z)
    return z * h + (1 - z) * F.relu(n)


@fused_lstm.cell(states="c")
def janet(f, g, *, c):
    """Follow van der Westhuizen and Lasenby 2018."""
    f = sigmoid(f)
    c = f * c + (1 - f) * tanh(g)
    return c, c


@fused_lstm.cell(states="c n m")
def slstm(i, f, z, o, *, c, n, m):
    """Follow Beck et al. 2024."""
    log_f = F.logsigmoid(f) + m
    m = torch.where((n == 0) | (i >= log_f), i, log_f)
    i, f = torch.exp(i - m), torch.exp((log_f - m).clamp(max=0))
    c, n = f * c + i * tanh(z), f * n + i
    return sigmoid(o) * c / n, c, n, m


@fused_lstm.cell
def rnn(a):
    """Follow Elman 1990."""
    return tanh(a)


@fused_lstm.cell(states="h", weights={"u": 0.5})
def ind_rnn(a, *, h, u):
    """Follow Li et al. 2018, with a product of h as well."""
    return F.relu(a + u * h)


@fused_lstm.cell(states="h")
def ugrnn(g, c, *, h):
    """Follow Collins, Sohl-Dickstein and Sussillo 2017."""
    g = sigmoid(g)
    return g * h + (1 - g) * tanh(c)


@fused_lstm.cell(states="h", weights={"tau": 1.0})
def liquid(a, *, h, tau, dt=0.1):
    """Follow Jaeger et al. 2007: a leaky integrator with a time constant for each unit."""
    return h + dt * (tanh(a) - h) / tau


@fused_lstm.cell(states="c h")
def rhn(i, g, o, *, c, h):
    """Follow Zilly et al. 2017, one layer, with a cell: one more state, and h itself."""
    i = sigmoid(i)
    c = (1 - i) * c + i * tanh(g + 0.1 * h)
    return sigmoid(o) * tanh(c) + 0.1 * h, c


# Cells without a product with h: a scan.


@fused_lstm.cell(states="c", weights="v_f v_r", x_only="g f r k")
def sru(g, f, r, k, *, c, v_f, v_r):
    """Follow Lei et al. 2018; k is the skip connection, of as many units."""
    f, r = sigmoid(f + v_f * c), sigmoid(r + v_r * c)
    c = f * c + (1 - f) * g
    return r * c + (1 - r) * k, c


@fused_lstm.cell(states="c", x_only="z f o")
def qrnn(z, f, o, *, c):
    """Follow Bradbury et al. 2017: fo-pooling, on a window of one step."""
    f = sigmoid(f)
    c = f * c + (1 - f) * tanh(z)
    return sigmoid(o) * c, c


@fused_lstm.cell(states="h", x_only="z n")
def min_gru(z, n, *, h):
    """Follow Feng et al. 2024."""
    return h + sigmoid(z) * (n - h)


@fused_lstm.cell(states="h", x_only="f i n")
def min_lstm(f, i, n, *, h):
    """Follow Feng et al. 2024: gates that sum to 1."""
    f, i = sigmoid(f), sigmoid(i)
    return (f * h + i * n) / (f + i)


@fused_lstm.cell(states="h", weights="w_a w_c", x_only="a c u")
def brc(a, c, u, *, h, w_a, w_c):
    """Follow Vecoven et al. 2021: a bistable cell."""
    c = sigmoid(c + w_c * h)
    return c * h + (1 - c) * tanh(u + (1 + tanh(a + w_a * h)) * h)


# Cells in which some gates are of x alone, are pairs, or are many.


@fused_lstm.cell(states="h", x_only="u")
def nbrc(a, c, u, *, h):
    """Follow Vecoven et al. 2021: a bistable cell, recurrently neuromodulated."""
    c = sigmoid(c)
    return c * h + (1 - c) * tanh(u + (1 + tanh(a)) * h)


@fused_lstm.cell(states="c", x_only="g")
def ran(g, i, f, *, c):
    """Follow Lee et al. 2017."""
    c = sigmoid(i) * g + sigmoid(f) * c
    return tanh(c), c


@fused_lstm.cell(apart="a", weights={"alpha": 1.0, "beta_h": 0.5, "beta_x": 0.5})
def mi_rnn(a, *, alpha, beta_h, beta_x):
    """Follow Wu et al. 2016: multiplicative integration."""
    by_x, by_h = a
    return tanh(alpha * by_x * by_h + beta_h * by_h + beta_x * by_x)


@fused_lstm.cell(states="c", apart="d")
def nas(a, b, c_, d, e, f, g, i, *, c):
    """Follow Zoph and Le 2017: the cell that a search found, of eight gates."""
    by_x, by_h = d
    left = tanh(sigmoid(a) * F.relu(b) + c)
    c = left * tanh(sigmoid(c_) + F.relu(by_x * by_h))
    right = tanh(tanh(tanh(e) * sigmoid(f)) + sigmoid(tanh(g) + sigmoid(i)))
    return tanh(c * right), c


@fused_lstm.cell(inputs="dt")
def cfc(f, g, k, *, dt):
    """Follow Hasani et al. 2022: closed form in continuous time; dt is a step's time."""
    gate = sigmoid(-f * dt)
    return gate * tanh(g) + (1 - gate) * tanh(k)


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


ALL = {name: value for name, value in list(globals().items()) if isinstance(value, fused_lstm.Cell)}
