"""`python examples/with_torchrl.py`: TorchRL's LSTMModule; needs `pip install fused-lstm torchrl`.

Where TorchRL splits a batch of episodes at each `is_init` and pads the pieces,
fused_lstm.integrations.torchrl runs the batch in one call with `resets=`.
"""

from __future__ import annotations

import time

import torch
import torchrl.modules
from tensordict import TensorDict

from fused_lstm.integrations import torchrl as ours

B, T, I, H = 32, 64, 16, 64


def seconds(module, data: TensorDict) -> float:
    """Return the least time of a forward and a backward of three."""
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        module(data.clone())["y"].square().mean().backward()
        times.append(time.perf_counter() - begin)
    return min(times)


def main() -> float:
    """Compare both on episodes that end inside a batch; return the largest difference of y."""
    torch.manual_seed(0)
    options = {
        "input_size": I, "hidden_size": H, "in_keys": ["x", "h", "c"],
        "out_keys": ["y", ("next", "h"), ("next", "c")], "default_recurrent_mode": True,
    }  # fmt: skip
    module, stock = ours.LSTMModule(**options), torchrl.modules.LSTMModule(**options)
    module.load_state_dict(stock.state_dict())
    data = TensorDict(
        {
            "x": torch.randn(B, T, I),
            "is_init": torch.rand(B, T, 1) < 0.05,
            "h": torch.zeros(B, T, 1, H),
            "c": torch.zeros(B, T, 1, H),
        },
        [B, T],
    )
    y, expected = module(data.clone())["y"], stock(data.clone())["y"]
    difference = float((y - expected).detach().abs().max())
    print(
        f"LSTMModule: largest difference {difference:.1e}; forward and backward:"
        f" {seconds(module, data) * 1e3:.1f} ms, TorchRL's {seconds(stock, data) * 1e3:.1f} ms"
    )
    return difference


if __name__ == "__main__":
    main()
