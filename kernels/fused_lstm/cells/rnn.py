"""nn.RNN's cells (Elman 1990), with tanh and with relu."""

from torch import relu, tanh

from .definition import Cell


def rnn_tanh(a):
    """Compute h."""
    return tanh(a)


def rnn_relu(a):
    """Compute h."""
    return relu(a)


RNN_TANH, RNN_RELU = Cell(rnn_tanh), Cell(rnn_relu)
