"""TorchRL: LSTMModule in recurrent mode, on rollouts in which episodes end."""

import torch
from tensordict import TensorDict
from torchrl.modules import LSTMModule

from fused_lstm.integrations import torchrl as ours

from .case import Case, mean_square

OPTIONS = {
    "input_size": 64, "hidden_size": 128, "in_keys": ["x", "h", "c"], "out_keys": ["y", "h'", "c'"],
    "default_recurrent_mode": True,
}  # fmt: skip


def case() -> Case:
    """Return a layer of 128 units and 16 rollouts of 64 steps."""
    stock, module = LSTMModule(**OPTIONS), ours.LSTMModule(**OPTIONS)
    module.load_state_dict(stock.state_dict())
    zeros, ended = torch.zeros(16, 64, 1, 128), torch.rand(16, 64, 1) < 0.03
    data = {"x": torch.randn(16, 64, 64), "h": zeros, "c": zeros, "is_init": ended}
    rollout = TensorDict(data, [16, 64])

    def of(model: LSTMModule, resets: Case | None = None) -> Case:
        def call() -> torch.Tensor:
            return model(rollout.clone(False))["y"]

        return Case(model, call, lambda: mean_square(call()), resets)

    return of(stock, of(module))
