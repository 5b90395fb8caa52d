"""Recurrent cells of the literature, each told as a user would tell it.

    from fused_lstm import zoo

    rnn = fused_lstm.Recurrent(zoo.mgu, input_size, hidden_size)

A cell's docstring names its paper, and its function is the formula: gates are sums before
activation, W x + b_ih + R h + b_hh, unless the decorator says another thing. The import
traces all of them, which takes less than a second.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import sigmoid, tanh

from .cells import Cell, cell


@cell(states="c")
def lstm(i, f, g, o, *, c):
    """Follow Hochreiter and Schmidhuber 1997, with Gers's forget gate."""
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


@cell(states="c")
def coupled(i, g, o, *, c):
    """Follow Greff et al. 2017."""
    i = sigmoid(i)
    c = (1 - i) * c + i * tanh(g)
    return sigmoid(o) * tanh(c), c


@cell(states="c", weights="w_i w_f w_o")
def peephole(i, f, g, o, *, c, w_i, w_f, w_o):
    """Follow Gers and Schmidhuber 2000."""
    old = c
    c = sigmoid(f + w_f * old) * old + sigmoid(i + w_i * old) * tanh(g)
    return sigmoid(o + w_o * c) * tanh(c), c


@cell(states="h", apart="n")
def gru(r, z, n, *, h):
    """Follow Cho et al. 2014, with the reset gate after R h, as in nn.GRU."""
    by_x, by_h = n
    n = tanh(by_x + sigmoid(r) * by_h)
    return n + sigmoid(z) * (h - n)


@cell(states="c")
def lltm(i, o, g, *, c):
    """Follow PyTorch's tutorial on C++ extensions."""
    c = c + F.elu(g) * sigmoid(i)
    return tanh(c) * sigmoid(o), c


@cell(states="h", apart="n")
def mgu(f, n, *, h):
    """Follow Zhou et al. 2016, with the forget gate after R h, as in cuDNN's GRU."""
    by_x, by_h = n
    f = sigmoid(f)
    return (1 - f) * h + f * tanh(by_x + f * by_h)


@cell(states="h")
def li_gru(z, n, *, h):
    """Follow Ravanelli et al. 2018, without its batch normalization."""
    z = sigmoid(z)
    return z * h + (1 - z) * F.relu(n)


@cell(states="c")
def janet(f, g, *, c):
    """Follow van der Westhuizen and Lasenby 2018."""
    f = sigmoid(f)
    c = f * c + (1 - f) * tanh(g)
    return c, c


@cell(states="c n m")
def slstm(i, f, z, o, *, c, n, m):
    """Follow Beck et al. 2024."""
    log_f = F.logsigmoid(f) + m
    m = torch.where((n == 0) | (i >= log_f), i, log_f)
    i, f = torch.exp(i - m), torch.exp((log_f - m).clamp(max=0))
    c, n = f * c + i * tanh(z), f * n + i
    return sigmoid(o) * c / n, c, n, m


@cell
def rnn(a):
    """Follow Elman 1990."""
    return tanh(a)


@cell(states="h", weights={"u": 0.5})
def ind_rnn(a, *, h, u):
    """Follow Li et al. 2018, with a product of h as well."""
    return F.relu(a + u * h)


@cell(states="h")
def ugrnn(g, c, *, h):
    """Follow Collins, Sohl-Dickstein and Sussillo 2017."""
    g = sigmoid(g)
    return g * h + (1 - g) * tanh(c)


@cell(states="h", weights={"tau": 1.0})
def liquid(a, *, h, tau, dt=0.1):
    """Follow Jaeger et al. 2007: a leaky integrator with a time constant for each unit."""
    return h + dt * (tanh(a) - h) / tau


@cell(states="c h")
def rhn(i, g, o, *, c, h):
    """Follow Zilly et al. 2017, one layer, with a cell: one more state, and h itself."""
    i = sigmoid(i)
    c = (1 - i) * c + i * tanh(g + 0.1 * h)
    return sigmoid(o) * tanh(c) + 0.1 * h, c


# Cells without a product with h: a scan.


@cell(states="c", weights="v_f v_r", x_only="g f r k")
def sru(g, f, r, k, *, c, v_f, v_r):
    """Follow Lei et al. 2018; k is the skip connection, of as many units."""
    f, r = sigmoid(f + v_f * c), sigmoid(r + v_r * c)
    c = f * c + (1 - f) * g
    return r * c + (1 - r) * k, c


@cell(states="c", x_only="z f o")
def qrnn(z, f, o, *, c):
    """Follow Bradbury et al. 2017: fo-pooling, on a window of one step."""
    f = sigmoid(f)
    c = f * c + (1 - f) * tanh(z)
    return sigmoid(o) * c, c


@cell(states="h", x_only="z n")
def min_gru(z, n, *, h):
    """Follow Feng et al. 2024."""
    return h + sigmoid(z) * (n - h)


@cell(states="h", x_only="f i n")
def min_lstm(f, i, n, *, h):
    """Follow Feng et al. 2024: gates that sum to 1."""
    f, i = sigmoid(f), sigmoid(i)
    return (f * h + i * n) / (f + i)


@cell(states="h", weights="w_a w_c", x_only="a c u")
def brc(a, c, u, *, h, w_a, w_c):
    """Follow Vecoven et al. 2021: a bistable cell."""
    c = sigmoid(c + w_c * h)
    return c * h + (1 - c) * tanh(u + (1 + tanh(a + w_a * h)) * h)


# Cells in which some gates are of x alone, are pairs, or are many.


@cell(states="h", x_only="u")
def nbrc(a, c, u, *, h):
    """Follow Vecoven et al. 2021: a bistable cell, recurrently neuromodulated."""
    c = sigmoid(c)
    return c * h + (1 - c) * tanh(u + (1 + tanh(a)) * h)


@cell(states="c", x_only="g")
def ran(g, i, f, *, c):
    """Follow Lee et al. 2017."""
    c = sigmoid(i) * g + sigmoid(f) * c
    return tanh(c), c


@cell(apart="a", weights={"alpha": 1.0, "beta_h": 0.5, "beta_x": 0.5})
def mi_rnn(a, *, alpha, beta_h, beta_x):
    """Follow Wu et al. 2016: multiplicative integration."""
    by_x, by_h = a
    return tanh(alpha * by_x * by_h + beta_h * by_h + beta_x * by_x)


@cell(states="c", apart="d")
def nas(a, b, c_, d, e, f, g, i, *, c):
    """Follow Zoph and Le 2017: the cell that a search found, of eight gates."""
    by_x, by_h = d
    left = tanh(sigmoid(a) * F.relu(b) + c)
    c = left * tanh(sigmoid(c_) + F.relu(by_x * by_h))
    right = tanh(tanh(tanh(e) * sigmoid(f)) + sigmoid(tanh(g) + sigmoid(i)))
    return tanh(c * right), c


@cell(inputs="dt")
def cfc(f, g, k, *, dt):
    """Follow Hasani et al. 2022: closed form in continuous time; dt is a step's time."""
    gate = sigmoid(-f * dt)
    return gate * tanh(g) + (1 - gate) * tanh(k)


@cell(states="h", apart="n", inputs="attention")
def augru(r, u, n, *, h, attention):
    """Follow Zhou et al. 2019: a GRU whose update gate an attention of each step scales."""
    by_x, by_h = n
    u = attention * sigmoid(u)
    return (1 - u) * h + u * tanh(by_x + sigmoid(r) * by_h)


@cell(states="c", inputs="s")
def ea_lstm(f, g, o, *, c, s):
    """Follow Kratzert et al. 2019: the input gate is of what a row is, alike at each step.

    s: [B, H], a linear layer of the row's attributes.
    """
    c = sigmoid(f) * c + sigmoid(s) * tanh(g)
    return sigmoid(o) * tanh(c), c


@cell(states="v")
def lif(a, *, v, decay=0.9, threshold=1.0, slope=4.0):
    """Follow Neftci, Mostafa and Zenke 2019: spikes, whose gradient is a sigmoid's."""
    v = decay * v + a
    soft = sigmoid(slope * (v - threshold))
    spike = soft + (torch.where(v > threshold, 1.0, 0.0) - soft).detach()
    return spike, v * (1 - spike)


# Cells with a matrix product inside the step.


@cell(states="h", x_only="n", products="u")
def gru_reset_before(r, z, n, *, h, u):
    """Follow Cho et al. 2014: the reset gate before the product.

    Keras has it as reset_after=False, ONNX as linear_before_reset=0.
    """
    n = tanh(n + u(sigmoid(r) * h))
    return n + sigmoid(z) * (h - n)


@cell(states="h", products={"second": 2})
def highway(g, t, *, h, second):
    """Follow Zilly et al. 2017: a recurrent highway network of depth 2, its gates coupled."""
    t = sigmoid(t)
    s = t * tanh(g) + (1 - t) * h
    g, t = second(s)
    t = sigmoid(t)
    return t * tanh(g) + (1 - t) * s


@cell(states="c", x_only="i f g o", apart="m", products={"v": 4})
def multiplicative_lstm(i, f, g, o, m, *, c, v):
    """Follow Krause et al. 2016: m is a product of W x and R h, from which the gates are made."""
    by_x, by_h = m
    v_i, v_f, v_g, v_o = v(by_x * by_h)
    c = sigmoid(f + v_f) * c + sigmoid(i + v_i) * tanh(g + v_g)
    return sigmoid(o + v_o) * tanh(c), c


@cell(inputs="dt", products={"heads": 4})
def cfc_backbone(a, *, dt, heads):
    """Follow Hasani et al. 2022, with a backbone of one layer: `units={"a": 128}` for its units."""
    f, g, t_a, t_b = heads(1.7159 * tanh(0.666 * a))
    gate = sigmoid(t_a * dt + t_b)
    return tanh(f) * (1 - gate) + gate * tanh(g)


@cell(states="h", x_only="a", products="low high")
def low_rank_rnn(a, *, h, low, high, dt=0.1):
    """Follow Mastrogiuseppe and Ostojic 2018: R is of rank 2 with `units={"low": 2}`."""
    return h + dt * (tanh(a + high(low(h))) - h)


@cell(states="c", inputs="decay", products="d")
def time_lstm(i, f, g, o, *, c, decay, d):
    """Follow Baytas et al. 2017: the short-term part of c decays between two visits.

    decay: 1 / log(e + the time since the step before), or another falling function of it.
    """
    short = tanh(d(c))
    c = c - short + short * decay
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


@cell(states="h z", products="w")
def co_rnn(a, *, h, z, w, dt=0.05, gamma=1.0, epsilon=2.0):
    """Follow Rusch and Mishra 2021: coupled oscillators, of which h is the place, z the speed."""
    z = z + dt * (tanh(a + w(z)) - gamma * h - epsilon * z)
    return h + dt * z, z


@cell(states="h z", x_only="k", products="u")
def lem(d1, d2, g, k, *, h, z, u, dt=1.0):
    """Follow Rusch et al. 2022: long expressive memory, with two learned time steps."""
    d1, d2 = dt * sigmoid(d1), dt * sigmoid(d2)
    z = (1 - d1) * z + d1 * tanh(g)
    return (1 - d2) * h + d2 * tanh(k + u(z)), z


@cell(states="c h", x_only="x", products={"q": 1, "r": 1, "w": 4, "u": 4})
def mogrifier(x, *, c, h, q, r, w, u):
    """Follow Melis et al. 2020: two rounds in which x and h gate each other.

    The gate x is W x, of as many units as h; an identity for W hands on x itself.
    """
    x = 2 * sigmoid(q(h)) * x
    h = 2 * sigmoid(r(x)) * h
    i, f, g, o = (a + b for a, b in zip(w(x), u(h), strict=True))
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


ALL = {name: value for name, value in list(globals().items()) if isinstance(value, Cell)}
