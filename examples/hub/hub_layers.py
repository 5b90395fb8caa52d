"""Layers for Hugging Face's `kernels`: forwards that run ours in place of a module's own.

build.py puts this file into the package it builds, as its `layers`. LSTM and GRU are for nn.LSTM
and nn.GRU, in all their layouts. SLSTM is for a module of one layer, in one direction, with
fused_lstm.SLSTM's parameters weight_ih_l0, weight_hh_l0 and bias_l0 and its attributes hidden_size
and num_heads.

T, B, I, H, L: time steps, batch, input size, hidden size, layers. D: directions, 1 or 2.
"""

from __future__ import annotations

from functools import partial
from types import FunctionType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import rnn

from .adopt.install import spec_of
from .call.layout import time_first
from .call.record import Call
from .call.rows import Rows
from .call.run import lstm, run
from .call.spec import CELLS, Spec

__all__ = ["LSTM", "GRU", "SLSTM"]


def engine_for(x: Tensor) -> str:
    """Return what runs: Triton's kernels on a GPU, which a mapping for it asks for."""
    return "triton" if x.is_cuda else "auto"


def layers(cell: str, x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Run what torch._VF.lstm or gru runs, with its arguments: y and the last states.

    Args:
        cell: "lstm" or "gru".
        x: of padded rows [T, B, I], or [B, T, I] with batch_first; of packed ones [N, I].
        arguments: of padded rows hx, weights, bias, layers, dropout, training, bidirectional,
            batch_first; of packed ones batch_sizes [T], and all of these except batch_first.
    """
    if isinstance(arguments[2], bool):  # of packed rows the weights
        hx, weights, bias, count, dropout, training, bidirectional, batch_first = arguments
        rows = None
    else:
        batch_sizes, hx, weights, bias, count, dropout, training, bidirectional = arguments
        rows, batch_first = Rows(batch_sizes), False
    h0, c0 = hx if CELLS[cell].has_c else (hx, hx)
    H, P = c0.shape[-1], h0.shape[-1]
    spec = spec_of(cell, count, 1 + bidirectional, bias, P != H, dropout)
    x = time_first(x, batch_first)
    engine = engine_for(x)
    call = Call(spec, x, h0, c0, weights, rows=rows, hidden_size=H, output_size=P)
    y, *states = run(call, engine, None, training, None)
    return time_first(y, batch_first), *states[: 1 + spec.has_c]


def with_kernels(kind: type[nn.RNNBase], cell: str) -> FunctionType:
    """Return a forward of torch.nn whose layouts and checks are torch's, and whose layers ours."""
    functions = SimpleNamespace(**{cell: partial(layers, cell)})
    names = vars(rnn) | {"_VF": functions}
    torchs: Any = kind.forward
    forward = FunctionType(torchs.__code__, names, "forward", torchs.__defaults__)
    forward.__annotations__ = torchs.__annotations__
    return forward


class LSTM(nn.Module):
    """The forward of an nn.LSTM."""

    can_torch_compile = False
    has_backward = True
    forward = with_kernels(nn.LSTM, "lstm")


class GRU(nn.Module):
    """The forward of an nn.GRU."""

    can_torch_compile = False
    has_backward = True
    forward = with_kernels(nn.GRU, "gru")


class SLSTM(nn.Module):
    """The forward of an sLSTM of one layer: x [T, B, I], (h, c, n, m) [1, B, H] each, or None."""

    can_torch_compile = False
    has_backward = True

    def forward(self: Any, input: Tensor, hx: Any = None) -> Any:
        H, B = self.hidden_size, input.shape[1]
        if hx is None:
            hx = (input.new_zeros(1, B, H),) * 4
        state = hx[0], torch.cat(hx[1:], dim=-1)
        weights = [self.weight_ih_l0, self.weight_hh_l0, self.bias_l0]
        cell = Spec("slstm", num_heads=self.num_heads)
        y, (h, c) = lstm(input, state, weights, engine=engine_for(input), cell=cell)
        return y, (h, *c.chunk(3, dim=-1))
