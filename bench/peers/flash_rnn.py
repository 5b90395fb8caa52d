"""FlashRNN (Poeppel, Beck and Hochreiter, 2024), its fused CUDA kernel, one head."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from flashrnn import flashrnn
from torch import Tensor

from .torch_stack import TorchStack


class FlashRNN(TorchStack):
    """Gates i, f, z, o are PyTorch's order; the input product is ours, before its kernel."""

    def layer(self, index: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (T, B, _), H = x.shape, self.h0.shape[2]
        gx = F.linear(x, self.weight("weight_ih", index))
        gx = gx.view(T, B, 4, 1, H).transpose(0, 1).contiguous()  # [B, T, gates, heads, H]
        recurrent = self.weight("weight_hh", index).view(4, 1, H, H)
        bias = self.weight("bias_ih", index) + self.weight("bias_hh", index)
        state = torch.stack([self.h0[index], self.c0[index]]).view(2, B, 1, 1, H)
        states, last = flashrnn(
            gx, recurrent, bias.view(4, 1, H), states=state, function="lstm", backend="cuda_fused"
        )
        h, c = last.reshape(2, B, H)
        return states[0].reshape(B, T, H).transpose(0, 1), h, c


def build(problem: dict[str, np.ndarray], threads: int) -> FlashRNN:
    return FlashRNN(problem)
