"""nn.GRU's cell (Cho et al. 2014): the reset gate multiplies h's part of n, bias and all."""

from torch import sigmoid, tanh

from .definition import Cell


def gru(r, z, n, *, h):
    """Compute the next h."""
    by_x, by_h = n
    n = tanh(by_x + sigmoid(r) * by_h)
    return n + sigmoid(z) * (h - n)


GRU = Cell(gru, states="h", apart="n")
