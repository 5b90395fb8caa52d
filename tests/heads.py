"""Modules with heads, and all that a call of one gives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import fused_lstm

MAKE = {
    "lstm": fused_lstm.LSTM,
    "gru": fused_lstm.GRU,
    "rnn_tanh": fused_lstm.RNN,
    "rnn_relu": lambda *a, **o: fused_lstm.RNN(*a, nonlinearity="relu", **o),
    "slstm": fused_lstm.SLSTM,
    "slstm_exponential": lambda *a, **o: fused_lstm.SLSTM(*a, exponential_forget=True, **o),
}


def state_of(module: fused_lstm.LSTM, B: int) -> Any:
    """A state far from zero, whose normalizer n is positive."""
    lanes, options = (
        module.spec.layers * module.spec.directions,
        {"dtype": module.weights()[0].dtype},
    )
    parts = [torch.randn(lanes, B, module.hidden_size, **options) for _ in module.spec.states]
    if len(parts) == 4:
        parts[2] = parts[2].abs() + 0.5
    return tuple(parts) if len(parts) > 1 else parts[0]


def results(module: fused_lstm.LSTM, x: Tensor, state: Any = None, **options) -> dict[str, Tensor]:
    """y, the last states and the gradients of all that has one, by name."""
    names = module.spec.states
    leaves = {"x": x.detach().requires_grad_()}
    if state is not None:
        parts = state if isinstance(state, tuple) else (state,)
        leaves |= {f"{n}_0": p.detach().requires_grad_() for n, p in zip(names, parts, strict=True)}
        given = tuple(leaves[f"{name}_0"] for name in names)
        state = given if len(given) > 1 else given[0]
    module.zero_grad()
    y, last = module(leaves["x"], state, **options)
    last = last if isinstance(last, tuple) else (last,)
    outputs = {"y": y} | {f"{name}_n": part for name, part in zip(names, last, strict=True)}
    weights = [
        torch.linspace(-1, 1, o.numel(), dtype=o.dtype).cos().view_as(o) for o in outputs.values()
    ]
    loss = sum((o * w).sum() for o, w in zip(outputs.values(), weights, strict=True))
    assert isinstance(loss, Tensor)
    loss.backward()
    got = {name: output.detach() for name, output in outputs.items()}
    got |= {f"{name}.grad": t.grad for name, t in leaves.items() if t.grad is not None}
    return got | {f"{name}.grad": p.grad.clone() for name, p in module.named_parameters()}
