"""Dropout beyond the published presets: variational, and of recurrent weights.

An engine takes its weights at the call, so that they may be computed there: dropped weights run
on the same kernels as kept ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fused_lstm


class VariationalDropout(nn.Module):
    """Drops a unit of x [T, B, H] for all T steps at once, with probability `p`, in training.

    After Gal and Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent Neural
    Networks" (2016).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        return x * fused_lstm.dropout(x.new_ones(1, *x.shape[1:]), self.p)


def regularized_lstm(
    lstm: fused_lstm.LSTM,
    x: Tensor,
    hidden: tuple[Tensor, Tensor],
    weight_drop: float,
    between: nn.Module,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return `lstm(x, hidden)` in training, part `weight_drop` of its recurrent weights dropped.

    `between` is what falls between layers: a Dropout is the engine's own; a VariationalDropout
    is applied by this function, with a call of the engine for each layer. Shapes as
    `fused_lstm.lstm` has them.

    DropConnect on recurrent weights is that of Merity et al., "Regularizing and Optimizing LSTM
    Language Models" (2018): one mask for all steps of a call.
    """
    weights = [
        fused_lstm.dropout(weight, weight_drop) if name.startswith("weight_hh") else weight
        for name, weight in lstm.named_parameters()
    ]
    engine, fuse, cell = lstm.engine, lstm.fuse, lstm.spec
    if not isinstance(between, VariationalDropout):
        return fused_lstm.lstm(x, hidden, weights, lstm.dropout, engine, fuse, cell=cell)
    states, per_layer = [], len(weights) // lstm.num_layers
    for layer in range(lstm.num_layers):
        x = between(x) if layer > 0 else x
        state = hidden[0][layer, None], hidden[1][layer, None]
        layer_weights = weights[layer * per_layer : (layer + 1) * per_layer]
        x, state = fused_lstm.lstm(x, state, layer_weights, 0.0, engine, fuse, cell=cell)
        states.append(state)
    h_n, c_n = map(torch.cat, zip(*states, strict=True))
    return x, (h_n, c_n)
