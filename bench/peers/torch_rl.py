"""TorchRL's Triton LSTM, the function under recurrent_backend="triton" of its LSTMModule."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchrl.modules.tensordict_module._rnn_triton import lstm_triton

from .torch_stack import TorchStack


class TorchRL(TorchStack):
    """It takes a state for every step, of which only the first is used unless a step resets."""

    def layer(self, index: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        T, B, _ = x.shape
        hidden, cell = (s[index].unsqueeze(1).expand(B, T, -1) for s in (self.h0, self.c0))
        resets = torch.zeros(B, T, dtype=torch.bool, device=x.device)
        if self.resets is not None:
            resets = self.resets.to(x.device).T.contiguous()
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        y, _, h, c = lstm_triton(
            x.transpose(0, 1).contiguous(), hidden.contiguous(), cell.contiguous(),
            *(self.weight(kind, index) for kind in kinds), resets, compute_dtype=x.dtype,
            input_precision="tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee",
        )  # fmt: skip
        return y.transpose(0, 1), h, c


def build(problem: dict[str, np.ndarray], threads: int) -> TorchRL:
    return TorchRL(problem)
