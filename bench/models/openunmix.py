"""Open-Unmix: one target of umxhq, 512 units, three layers, both directions."""

import torch

from .case import Case, of, without_cuda

without_cuda()
from openunmix.model import OpenUnmix  # noqa: E402


def case() -> Case:
    """Return the model and two spectrograms of 3 seconds."""
    model = OpenUnmix(nb_bins=2049, nb_channels=2, hidden_size=512, nb_layers=3, max_bin=1487)
    return of(model, torch.rand(2, 2, 2049, 128))
