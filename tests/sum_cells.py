"""Cells with sums and maxima over the units of a row: alone, around a product, of states."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import fused_lstm


@fused_lstm.cell(states="c", weights="gain bias")
def norm_of_c(i, f, g, o, *, c, gain, bias):
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(F.layer_norm(c, c.shape[-1:], gain, bias)), c


@fused_lstm.cell(states="c", apart="i f g o", weights="gain bias")
def layer_norm_lstm(i, f, g, o, *, c, gain, bias):
    """Follow Ba et al. 2016, each gate by itself: norms of W x, of R h and of c."""

    def norm(x):
        return F.layer_norm(x, x.shape[-1:])

    i, f, g, o = (norm(x) + norm(h) for x, h in (i, f, g, o))
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(F.layer_norm(c, c.shape[-1:], gain, bias)), c


@fused_lstm.cell(states="h", products="u", weights="gain bias")
def norms_around_a_product(r, z, *, h, u, gain, bias):
    r, z = torch.sigmoid(r), torch.sigmoid(z)
    n = u(F.rms_norm(r * h, h.shape[-1:], eps=1e-6))
    return z * h + (1 - z) * torch.tanh(F.layer_norm(n, n.shape[-1:], gain, bias))


@fused_lstm.cell(states="c h", products={"u": 2}, weights="gain bias")
def sums_of_states(a, b, *, c, h, u, gain, bias):
    s, m = c.sum(-1, keepdim=True) * 0.1, (a * b).mean(-1, keepdim=True)
    p, q = u(torch.tanh(a + s) * m + h)
    t = (p * torch.sigmoid(q)).sum(-1, keepdim=True)
    c = 0.5 * c + torch.tanh(p + 0.1 * t) * gain
    return torch.sin(c + q * m + bias), c


@fused_lstm.cell(states="h")
def softmax_and_maximum(a, z, *, h):
    return torch.sigmoid(z) * h + torch.softmax(a, -1) * h.amax(-1, keepdim=True)


@fused_lstm.cell(states="h n")
def a_state_of_rows(a, b, *, h, n):
    n = 0.9 * n + a.var(-1, correction=0, keepdim=True)
    return torch.tanh(F.normalize(a, dim=-1) - n + 0.1 * torch.log_softmax(b, -1)), n


@fused_lstm.cell()
def without_a_state(a, b):
    return a.softmax(-1) * b + torch.logsumexp(b, -1, keepdim=True)


@fused_lstm.cell(states="h", apart="a", x_only="b", weights="w")
def apart_and_of_weights(a, b, *, h, w):
    x, m = a
    return torch.tanh(x * w.softmax(-1) + (m * b).mean(-1, keepdim=True)) + 0.1 * h


@fused_lstm.cell(states="c", products="u v", x_only="a b")
def without_a_gate_of_h(a, b, *, c, u, v):
    c = torch.sigmoid(a) * c + u(F.layer_norm(c, c.shape[-1:]) * b)
    return torch.tanh(v(torch.softmax(b, -1)) + c), c


@fused_lstm.cell(states="h", x_only="a")
def without_a_meeting_backwards(a, *, h):
    return torch.tanh(torch.sigmoid(a) - a.amax(-1, keepdim=True).detach() + 0.5 * h)


@fused_lstm.cell(states="c y", products={"p": 4, "u": 1})
def decoder(i, f, g, o, *, c, y, p, u):
    """A state y may have other units than h: what the decoder said before."""
    a, b, d, e = p(y)
    c = torch.sigmoid(f + b) * c + torch.sigmoid(i + a) * torch.tanh(g + d)
    h = torch.sigmoid(o + e) * torch.tanh(c)
    return h, c, torch.softmax(u(h), -1)


@fused_lstm.cell(states="h")
def maximum_of_a_sigmoid(a, z, *, h):
    return torch.sigmoid(a).amax(-1, keepdim=True) * torch.sigmoid(z) + 0.5 * h


CELLS = {
    cell.__name__: cell
    for cell in (
        norm_of_c, layer_norm_lstm, norms_around_a_product, sums_of_states, softmax_and_maximum,
        a_state_of_rows, without_a_state, apart_and_of_weights, without_a_gate_of_h,
        without_a_meeting_backwards, maximum_of_a_sigmoid, decoder,
    )
}  # fmt: skip
