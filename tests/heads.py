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
    """y, the states that a call returns, and the gradients of all that has one, by name."""
    names = dict.fromkeys(module.spec.states)  # a told cell's h may be among its states
    leaves = {"x": x.detach().requires_grad_()}
    if state is not None:
        parts = state if isinstance(state, tuple) else (state,)
        leaves |= {f"{n}_0": p.detach().requires_grad_() for n, p in zip(names, parts, strict=True)}
        given = tuple(leaves[f"{name}_0"] for name in names)
        state = given if len(given) > 1 else given[0]
    module.zero_grad()
    y, *returned = module(leaves["x"], state, **options)
    outputs = {"y": y}
    for when, states in zip(("n", "of each step"), returned, strict=False):
        states = states if isinstance(states, tuple) else (states,)
        outputs |= {f"{name}_{when}": part for name, part in zip(names, states, strict=True)}
    weights = [
        torch.linspace(-1, 1, o.numel(), dtype=o.dtype, device=o.device).cos().view_as(o)
        for o in outputs.values()
    ]
    loss = sum((o * w).sum() for o, w in zip(outputs.values(), weights, strict=True))
    assert isinstance(loss, Tensor)
    loss.backward()
    got = {name: output.detach() for name, output in outputs.items()}
    got |= {f"{name}.grad": t.grad for name, t in leaves.items() if t.grad is not None}
    return got | {f"{name}.grad": p.grad.clone() for name, p in module.named_parameters()}
