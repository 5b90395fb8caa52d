"""The operators `lstm` and `lstm_backward` of fused_lstm.ops: hoisted products around the kernels.

What needs no order in time is one large product: before the forward's launch the inputs of all
steps by w_ih, after the backward's launch the gradients of all weights and of x.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..reference import Layer, by_layer, state_dtype
from . import devices, layers, precision, steps
from .dropout import apply as drop
from .launch import NAMES
from .plan import Plan, choose


def _plan(fuse: str, direction: str, x: Tensor, h0: Tensor) -> Plan:
    """The launch for these tensors: a steps plan means a launch a layer."""
    L, B, H = h0.shape
    return choose(
        direction, hidden=H, batch=B, layers=L if fuse == "layers" else 1, dtype=NAMES[x.dtype],
        device=devices.current(x.device), tf32=precision.tf32(),
    )  # fmt: skip


# --- forward ---


@precision.matmul_as_rnn
def lstm(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weights: Sequence[Tensor],
    dropout: float,
    seed: Tensor | None,
    fuse: str,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The operator `lstm` of fused_lstm.ops."""
    x, h0, weights = x.contiguous(), h0.contiguous(), [w.contiguous() for w in weights]
    state = c0.to(state_dtype(x.dtype)).contiguous()
    stack = list(by_layer(weights, len(h0)))
    plan = _plan(fuse, "forward", x, h0)
    run = _wavefront if plan.kind == "layers" else _layer_by_layer
    h, y, c, gates = run(plan, x, h0, state, stack, dropout, seed, save)
    h_n = torch.cat([h[:, -1], y[-1:]])
    c_n = c[:, -1].to(c0.dtype, copy=True)
    if not save:
        h, c, gates = x.new_empty(0), state.new_empty(0), x.new_empty(0)
    return y, h_n, c_n, h, c, gates


def _hoist(x: Tensor, layer: Layer, out: Tensor) -> None:
    """All steps' input products and both biases, x [T, B, I] -> out [T, B, 4H]."""
    rows, out = x.flatten(0, 1), out.flatten(0, 1)
    if layer.b_ih is None:
        torch.mm(rows, layer.w_ih.T, out=out)
    else:
        torch.addmm(layer.bias(), rows, layer.w_ih.T, out=out)


def _wavefront(plan, x, h0, c0, stack, p, seed, save):
    (L, B, H), T = h0.shape, len(x)
    gates = x.new_empty(L if save else 1, T, B, 4 * H)
    _hoist(x, stack[0], gates[0])
    bias = x.new_zeros(L, 4 * H)
    if stack[0].b_ih is not None:
        torch.stack([layer.bias() for layer in stack[1:]], out=bias[1:])
    w_ih, w_hh = [layer.w_ih for layer in stack], [layer.w_hh for layer in stack]
    h, y, c = layers.forward(plan, gates, w_ih, w_hh, bias, h0, c0, p, seed, save)
    return h, y, c, gates


def _layer_by_layer(plan, x, h0, c0, stack, p, seed, save):
    (L, B, H), T = h0.shape, len(x)
    gates = x.new_empty(L, T, B, 4 * H)
    h, c = x.new_empty(L - 1, T, B, H), []
    for index, layer in enumerate(stack):
        _hoist(x, layer, gates[index])
        y, c_layer = steps.forward(plan, gates[index], layer.w_hh, h0[index], c0[index], save)
        c.append(c_layer)
        if index < L - 1:
            h[index] = y
            x = drop(y, seed, index, p)
    return h, y, torch.stack(c), gates


# --- backward ---


@precision.matmul_as_rnn
def lstm_backward(
    dy: Tensor | None,
    dh_n: Tensor | None,
    dc_n: Tensor | None,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weights: Sequence[Tensor],
    dropout: float,
    seed: Tensor | None,
    fuse: str,
    y: Tensor,
    h: Tensor,
    c: Tensor,
    gates: Tensor,
    needs_dx: bool,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """The operator `lstm_backward` of fused_lstm.ops."""
    x, h0, y, h, c, gates = (t.contiguous() for t in (x, h0, y, h, c, gates))
    weights = [w.contiguous() for w in weights]
    dy = torch.zeros_like(y) if dy is None else dy.contiguous()
    dh_n = torch.zeros_like(h0) if dh_n is None else dh_n.contiguous()
    dc = torch.zeros_like(c[:, 0]) if dc_n is None else dc_n.to(c.dtype, copy=True).contiguous()
    stack, state = list(by_layer(weights, len(h0))), c0.to(c.dtype).contiguous()
    plan = _plan(fuse, "backward", x, h0)
    if plan.kind == "layers":
        w_ih, w_hh = [layer.w_ih for layer in stack], [layer.w_hh for layer in stack]
        dgates = layers.backward(plan, dy, dh_n, dc, gates, w_ih, w_hh, state, c, dropout, seed)
    else:
        dgates = _layers_backward(plan, dy, dh_n, dc, gates, stack, state, c, dropout, seed)
    dweights = []
    for index, layer in enumerate(stack):
        below = x if index == 0 else drop(h[index - 1], seed, index - 1, dropout)
        out = y if index == len(stack) - 1 else h[index]
        dweights += _weight_gradients(dgates[index], below, h0[index], out, layer)
    dx = dgates[0] @ stack[0].w_ih if needs_dx else x.new_empty(0)
    dh0 = torch.stack([d[0] @ layer.w_hh for d, layer in zip(dgates, stack, strict=True)])
    return dx, dh0, dc.to(c0.dtype), dweights


def _layers_backward(plan, dy, dh_n, dc, gates, stack, c0, c, p, seed) -> Tensor:
    dgates = torch.empty_like(gates)
    for index in reversed(range(len(stack))):
        w_hh = stack[index].w_hh
        dgates[index] = steps.backward(
            plan, dy, dh_n[index], dc[index], gates[index], w_hh, c0[index], c[index]
        )
        if index > 0:
            dy = drop(dgates[index] @ stack[index].w_ih, seed, index - 1, p)
    return dgates


def _weight_gradients(
    dgates: Tensor, x: Tensor, h0: Tensor, y: Tensor, layer: Layer
) -> list[Tensor]:
    """One layer's: every step's dgates [T, B, 4H] by what it was multiplied with."""
    rows = dgates.flatten(0, 1)  # [T * B, 4H]
    h_prev = torch.cat([h0[None], y[:-1]]).flatten(0, 1)
    found = [rows.T @ x.flatten(0, 1), rows.T @ h_prev]
    if layer.b_ih is not None:
        bias = rows.sum(0)
        found += [bias, bias.clone()]
    return found
