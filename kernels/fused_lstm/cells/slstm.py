"""The sLSTM's cells (Beck et al. 2024), whose forget gate is sigmoid or exp.

c and the normalizer n are kept divided by exp(m), so that no exponential gate overflows; h does not
depend on m. m is the larger of both exponents, so that one exponential is 1. A state whose n is 0
holds nothing yet, and m begins at i; f is at most 1 there too, as in xLSTM.
"""

import torch
import torch.nn.functional as F

from .definition import Cell


def slstm(i, f, z, o, *, c, n, m):
    """Compute h and the next c, n and m."""
    return _step(i, F.logsigmoid(f) + m, z, o, c, n)


def slstm_exponential(i, f, z, o, *, c, n, m):
    """Compute the same where the forget gate is exp(f)."""
    return _step(i, f + m, z, o, c, n)


def _step(i, log_f, z, o, c, n):
    more = log_f - i
    is_larger = more > 0
    is_f = is_larger & (n != 0)
    m = torch.where(is_f, log_f, i)
    e = torch.exp(torch.where(is_larger, -1.0, 1.0) * more)
    i, f = torch.where(is_f, e, 1.0), torch.where(is_larger, 1.0, e)
    c, n = f * c + i * torch.tanh(z), f * n + i
    return torch.sigmoid(o) * (c / n), c, n, m


SLSTM = Cell(slstm, states="c n m")
SLSTM_EXPONENTIAL = Cell(slstm_exponential, states="c n m")
