"""The LSTM's cell whose forget gate is 1 minus the input gate (Greff et al. 2017)."""

from torch import sigmoid, tanh

from .definition import Cell


def coupled(i, g, o, *, c):
    """Compute h and the next c."""
    i, g, o = sigmoid(i), tanh(g), sigmoid(o)
    c = (1 - i) * c + i * g
    return o * tanh(c), c


COUPLED = Cell(coupled, states="c")
