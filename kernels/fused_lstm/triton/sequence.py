"""The operators `lstm` and `lstm_backward` of fused_lstm.ops: hoisted products around the kernels.

What needs no order in time is one large product: before the forward's launch the inputs of all
steps by w_ih, after the backward's launch the gradients of all weights and of x.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..reference import Layer, by_layer, state_dtype
from . import devices, launch, layers, precision, steps
from .dropout import apply as drop
from .plan import Plan, choose


def _plan(fuse: str, direction: str, x: Tensor, h0: Tensor) -> Plan:
    """The launch for these tensors: a steps plan means a launch a layer."""
    L, B, H = h0.shape
    return choose(
        direction, hidden=H, batch=B, layers=L if fuse == "layers" else 1,
        dtype=launch.NAMES[x.dtype], device=devices.current(x.device), tf32=precision.tf32(),
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
    x, weights = x.contiguous(), [w.contiguous() for w in weights]
    state = c0.to(state_dtype(x.dtype)).contiguous()
    (T, _, _), (L, B, H) = x.shape, h0.shape
    stack = list(by_layer(weights, L))
    plan = _plan(fuse, "forward", x, h0)
    y, h = x.new_empty(T, B, H), x.new_empty(L - 1, T, B, H)
    c = state.new_empty(L, T if save else 1, B, H)
    gates = x.new_empty(L if save else 1, T, B, 4 * H)
    run = _wavefront if plan.kind == "layers" else _layer_by_layer
    run(plan, x, h0, state, stack, dropout, seed, save, y, h, c, gates)
    h_n = torch.cat([h[:, -1], y[-1:]])
    if save:
        return y, h_n, c[:, -1].to(c0.dtype, copy=True), h, c, gates
    return y, h_n, c[:, 0].to(c0.dtype), x.new_empty(0), state.new_empty(0), x.new_empty(0)


def _biases(stack: Sequence[Layer], like: Tensor) -> Sequence[Tensor]:
    """Each layer's two as one: they only ever appear as a sum."""
    if stack[0].b_ih is None:
        return [like.new_zeros(stack[0].w_hh.shape[:1])] * len(stack)
    return torch._foreach_add([layer.b_ih for layer in stack], [layer.b_hh for layer in stack])


def _wavefront(plan, x, h0, c0, stack, p, seed, save, y, h, c, gates):
    (L, B, H), bias = h0.shape, _biases(stack, x)
    exchange, counters = launch.workspace(plan, x, (2 if p > 0 else 1, L, 2), 1)
    launch.first_rows(exchange, L, B, H).copy_(h0)
    # All steps' input products of layer 0, and both biases.
    torch.addmm(bias[0], x.flatten(0, 1), stack[0].w_ih.T, out=gates.flatten(1, 2)[0])
    w_ih, w_hh = [layer.w_ih for layer in stack], [layer.w_hh for layer in stack]
    layers.forward(
        plan, gates, w_ih, w_hh, bias, c0, h, y, c, exchange, counters, p, seed, save
    )  # fmt: skip


def _layer_by_layer(plan, x, h0, c0, stack, p, seed, save, y, h, c, gates):
    (L, B, H), bias = h0.shape, _biases(stack, x)
    exchange, counters = launch.workspace(plan, x, (L, 2), L)
    launch.first_rows(exchange, L, B, H).copy_(h0)
    outputs, rows = [*h.unbind(), y], gates.flatten(1, 2).unbind()
    exchange, counters, c0, c = (t.unbind() for t in (exchange, counters, c0, c))
    for index, layer in enumerate(stack):
        own = rows[index if save else 0]
        torch.addmm(bias[index], x.flatten(0, 1), layer.w_ih.T, out=own)
        out = outputs[index]
        steps.forward(
            plan, own, layer.w_hh, c0[index], out, c[index], exchange[index], counters[index], save
        )
        if index < L - 1:
            x = drop(out, seed, index, p)


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
    stack = list(by_layer([w.contiguous() for w in weights], len(h0)))
    dy = torch.zeros_like(y) if dy is None else dy.contiguous()
    dh_n = torch.zeros_like(h0) if dh_n is None else dh_n.contiguous()
    state = c0.to(c.dtype).contiguous()
    dc = torch.zeros_like(state) if dc_n is None else dc_n.to(c.dtype, copy=True).contiguous()
    plan, dgates = _plan(fuse, "backward", x, h0), torch.empty_like(gates)
    run = _wavefront_backward if plan.kind == "layers" else _layers_backward
    run(plan, dy, dh_n, dc, gates, stack, state, c, dropout, seed, dgates)
    # All layers' products, by every step: rows are [T * B, .].
    T, B, H = y.shape
    outputs = [*h.unbind(), y]
    before = [*h.flatten(1, 2)[:, :-B].unbind(), y.view(T * B, H)[:-B]]
    rows, first = dgates.flatten(1, 2).unbind(), dgates[:, 0].unbind()
    dweights, dh0 = [], torch.empty_like(h0)
    for index, (layer, h0_own, dh0_own) in enumerate(
        zip(stack, h0.unbind(), dh0.unbind(), strict=True)
    ):
        below = x if index == 0 else drop(outputs[index - 1], seed, index - 1, dropout)
        columns = rows[index].T
        h_prev = torch.cat([h0_own, before[index]])
        dweights += [columns @ below.view(T * B, -1), columns @ h_prev]
        if layer.b_ih is not None:
            bias = rows[index].sum(0)
            dweights += [bias, bias.clone()]
        torch.mm(first[index], layer.w_hh, out=dh0_own)
    dx = (rows[0] @ stack[0].w_ih).view_as(x) if needs_dx else x.new_empty(0)
    return dx, dh0, dc.to(c0.dtype), dweights


def _wavefront_backward(plan, dy, dh_n, dc, gates, stack, c0, c, p, seed, dgates):
    L, _, B, H = c.shape
    exchange, counters = launch.workspace(plan, gates, (L, 2, 4), 1)
    partial = c.new_empty(L, plan.split, B, H)
    w_ih, w_hh = [layer.w_ih for layer in stack], [layer.w_hh for layer in stack]
    layers.backward(
        plan, dy, dh_n, dc, gates, w_ih, w_hh, c0, c, dgates, partial, exchange, counters, p, seed
    )  # fmt: skip


def _layers_backward(plan, dy, dh_n, dc, gates, stack, c0, c, p, seed, dgates):
    L, _, B, H = c.shape
    exchange, counters = launch.workspace(plan, gates, (L, 2, 4), L)
    partial = c.new_empty(plan.split, B, H)
    of = (dh_n, dc, gates, c0, c, dgates, exchange, counters)
    for index, own in reversed(list(enumerate(zip(*(t.unbind() for t in of), strict=True)))):
        dh, dc_own, gates_own, c0_own, c_own, dgates_own, exchange_own, counters_own = own
        steps.backward(
            plan, dy, dh, dc_own, gates_own, stack[index].w_hh, c0_own, c_own, dgates_own, partial,
            exchange_own, counters_own,
        )  # fmt: skip
        if index > 0:
            dy = drop(dgates_own.flatten(0, 1) @ stack[index].w_ih, seed, index - 1, p)
