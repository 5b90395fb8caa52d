"""DreamerV3's GRU (Hafner et al. 2023).

The reset gate multiplies all of a, x's part too, and 1 is taken from the update gate's sum.
"""

from torch import sigmoid, tanh

from .definition import Cell


def gru_dreamer(r, a, u, *, h):
    """Compute the next h."""
    n = tanh(sigmoid(r) * a)
    return h + sigmoid(u - 1) * (n - h)


GRU_DREAMER = Cell(gru_dreamer, states="h")
