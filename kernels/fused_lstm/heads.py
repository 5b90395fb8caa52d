"""Recurrent weights with heads, from the layouts of other libraries.

In this library `weight_hh` of N > 1 heads is [N, G*K, K]: the rows of head n are its K units of
gate 0, then of gate 1 and so on; the columns are its K units of h. G, N, K: gates, heads, hidden
size / N. The order of gates stays as it is.

TiRex's `_recurrent_kernel_` and the kernel of DreamerV3's BlockLinear have the same layout.
"""

from __future__ import annotations

from torch import Tensor


def from_flashrnn(weight: Tensor) -> Tensor:
    """Return weight_hh [N, G*K, K] of FlashRNN's [G, N, K, K]."""
    return weight.transpose(0, 1).flatten(1, 2)


def from_dreamer(weight: Tensor) -> Tensor:
    """Return weight_hh [N, G*K, K] of DreamerV3's or TiRex's [N, K, G*K], inputs first."""
    return weight.transpose(1, 2)


def from_xlstm(weight: Tensor) -> Tensor:
    """Return weight_hh [N, G*K, K] of xLSTM's `recurrent_kernel` [N, K, G, K], inputs first."""
    return weight.flatten(2).transpose(1, 2)


def dense(weight_hh: Tensor) -> Tensor:
    """Return nn.LSTM's weight [G*H, H], zero between the blocks, of weight_hh [N, G*K, K]."""
    N, rows, K = weight_hh.shape
    blocks = weight_hh.unflatten(1, (rows // K, K)).permute(1, 0, 2, 3)  # [G, N, K, K]
    full = weight_hh.new_zeros(rows // K, N, K, N, K)
    full.diagonal(dim1=1, dim2=3).copy_(blocks.movedim(1, -1))
    return full.reshape(rows * N, N * K)
