"""TorchRL: LSTMModule in recurrent mode, on rollouts in which episodes end."""

import torch
from tensordict import TensorDict
from torchrl.modules import LSTMModule

from .case import Case, mean_square


def case() -> Case:
    """Return a layer of 128 units and 16 rollouts of 64 steps."""
    model = LSTMModule(
        input_size=64, hidden_size=128, in_keys=["x", "h", "c"], out_keys=["y", "h'", "c'"],
        default_recurrent_mode=True,
    )  # fmt: skip
    zeros, ended = torch.zeros(16, 64, 1, 128), torch.rand(16, 64, 1) < 0.03
    data = {"x": torch.randn(16, 64, 64), "h": zeros, "c": zeros, "is_init": ended}
    rollout = TensorDict(data, [16, 64])

    def call() -> torch.Tensor:
        return model(rollout.clone(False))["y"]

    return Case(model, call, lambda: mean_square(call()))
