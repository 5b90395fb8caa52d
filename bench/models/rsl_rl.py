"""rsl_rl: the recurrent memory of a legged robot's policy."""

import torch
from rsl_rl.modules.rnn import RNN

from .case import Case, mean_square


def case() -> Case:
    """Return the memory; training takes 24 steps of 256 robots."""
    model = RNN(48, 256, 1, "lstm")
    x, masks = torch.randn(24, 256, 48), torch.ones(24, 256, dtype=torch.bool)
    state = torch.zeros(1, 256, 256), torch.zeros(1, 256, 256)

    def infer() -> torch.Tensor:
        model.reset()
        return model(x[0])

    return Case(model, infer, lambda: mean_square(model(x, masks, state)))
