"""nn.LSTM's cell (Hochreiter and Schmidhuber 1997; the forget gate is Gers et al.'s, 2000)."""

from torch import sigmoid, tanh

from .definition import Cell


def lstm(i, f, g, o, *, c):
    """Compute h and the next c."""
    i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
    c = f * c + i * g
    return o * tanh(c), c


LSTM = Cell(lstm, states="c")
