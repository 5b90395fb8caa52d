"""The operators `lstm` and `lstm_backward` of fused_lstm.ops: large products around the sweeps.

What needs no order in time is one large product: before a forward sweep the inputs of all steps by
w_ih, after a backward sweep the gradients of x, and after all of them those of the weights.

A sweep takes as many lanes as its plan has: all of the stack, or one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from .. import stack
from ..reference import Layer, by_layer, state_dtype
from . import devices, launch, philox, precision, sweep
from .cells.lstm import LSTM
from .plan import Plan, choose


def _plan(fuse: str, direction: str, x: Tensor, h0: Tensor) -> Plan:
    """The sweep for these tensors: of all lanes, or of one."""
    L, B, H = h0.shape
    tf32 = x.dtype == torch.float32 and precision.tf32()
    return choose(
        direction, hidden=H, batch=B, layers=L if fuse == "layers" else 1,
        dtype=launch.NAMES[x.dtype], device=devices.current(x.device), tf32=tf32,
    )  # fmt: skip


def _by_sweep(together: bool, *of: Tensor | Sequence[Tensor]) -> list[tuple]:
    """Each sweep's of some [L, ...] and lists of L: all of them, or one lane's."""
    if together:
        return [of]
    lanes = [t.unbind() if isinstance(t, Tensor) else [(w,) for w in t] for t in of]
    return list(zip(*lanes, strict=True))


def _biases(layers: Sequence[Layer], like: Tensor) -> Sequence[Tensor]:
    """Each layer's two as one: they only ever appear as a sum."""
    if layers[0].b_ih is None:
        return (like.new_zeros(layers[0].w_hh.shape[:1]),) * len(layers)
    return tuple(torch._foreach_add([w.b_ih for w in layers], [w.b_hh for w in layers]))


# --- forward ---


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
    with precision.matmul_as_rnn(x.dtype):
        (T, B, _), (L, _, H) = x.shape, h0.shape
        x, state = x.contiguous(), c0.to(state_dtype(x.dtype)).contiguous()
        layers = list(by_layer([w.contiguous() for w in weights], L))
        plan = _plan(fuse, "forward", x, h0)
        together = plan.layers == L
        inside = dropout if plan.layers > 1 else 0.0  # dropped by the sweep itself

        y, h = x.new_empty(T, B, H), x.new_empty(L - 1, T, B, H)
        c = state.new_empty(L, T if save else 1, B, H)
        gates = x.new_empty(L if save else 1, T, B, 4 * H)
        copies = 2 if inside > 0 else 1
        exchange, counters = launch.workspace(plan, x, (copies, L, 2), L // plan.layers)
        launch.first_rows(exchange, L, B, H).copy_(h0)
        w_ih, w_hh = tuple(w.w_ih for w in layers), tuple(w.w_hh for w in layers)
        swept = _by_sweep(together, w_ih, w_hh, _biases(layers, x), state, c)
        spaces = [(exchange, counters)] if together else _by_sweep(False, exchange[0], counters)
        rows, outputs = gates.flatten(1, 2).unbind(), [y] if together else [*h.unbind(), y]

        def one(x: Tensor, index: int) -> Tensor:
            w_ih, w_hh, bias, c0, c = swept[index]
            own, out = rows[index if save else 0], outputs[index]
            torch.addmm(bias[0], x.flatten(0, 1), w_ih[0].T, out=own)
            sweep.forward(
                plan, LSTM, own, w_ih, w_hh, bias, c0, h, out, c, *spaces[index], seed, T, inside,
                save,
            )  # fmt: skip
            return out

        drop = partial(philox.apply, dropout, seed) if dropout > 0 else None
        stack.run(x, L // plan.layers, one, drop)
        h_n = torch.cat([h[:, -1], y[-1:]])
        if save:
            return y, h_n, c[:, -1].to(c0.dtype, copy=True), h, c, gates
        return y, h_n, c[:, 0].to(c0.dtype), x.new_empty(0), state.new_empty(0), x.new_empty(0)


# --- backward ---


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
    with precision.matmul_as_rnn(x.dtype):
        x, h0, y, h, c, gates = (t.contiguous() for t in (x, h0, y, h, c, gates))
        (T, B, H), L, state = y.shape, len(h0), c0.to(c.dtype).contiguous()
        layers = list(by_layer([w.contiguous() for w in weights], L))
        plan = _plan(fuse, "backward", x, h0)
        together = plan.layers == L
        inside = dropout if plan.layers > 1 else 0.0
        dy = torch.zeros_like(y) if dy is None else dy.contiguous()
        dh, dc = _last_gradients(dh_n, dc_n, h0, state)

        dgates, partials = torch.empty_like(gates), c.new_empty(plan.layers, plan.split, B, H)
        space = launch.workspace(plan, gates, (L, 2, 4), L // plan.layers)
        w_ih, w_hh = tuple(w.w_ih for w in layers), tuple(w.w_hh for w in layers)
        swept = _by_sweep(together, gates, w_ih, w_hh, state, c, dc, dgates, *space)
        dh_of = [dh] * L if together or dh is None else dh.unbind()
        rows = dgates.flatten(1, 2).unbind()

        def one(dy: Tensor, index: int) -> Tensor:
            own = swept[index]
            sweep.backward(plan, LSTM, dy, dh_of[index], *own, partials, seed, T, inside)
            return rows[index] @ own[1][0] if index > 0 or needs_dx else dy

        drop = partial(philox.apply, dropout, seed) if dropout > 0 else None
        dx = stack.run_back(dy, L // plan.layers, one, drop)

        dh0, dweights = _of_states_and_weights(layers, dgates, rows, x, h0, h, y, drop)
        return dx.view_as(x) if needs_dx else x.new_empty(0), dh0, dc.to(c0.dtype), dweights


def _last_gradients(
    dh_n: Tensor | None, dc_n: Tensor | None, h0: Tensor, state: Tensor
) -> tuple[Tensor | None, Tensor]:
    """dh and dc [L, B, H] for the sweeps, which write to dc. Both None: nobody has to fill them."""
    if dh_n is None and dc_n is None:
        return None, torch.empty_like(state)
    dh = torch.zeros_like(h0) if dh_n is None else dh_n.contiguous()
    if dc_n is None:
        return dh, torch.zeros_like(state)
    return dh, dc_n.to(state.dtype, copy=True).contiguous()


def _of_states_and_weights(
    layers: Sequence[Layer],
    dgates: Tensor,
    rows: Sequence[Tensor],
    x: Tensor,
    h0: Tensor,
    h: Tensor,
    y: Tensor,
    drop: stack.Drop | None,
) -> tuple[Tensor, list[Tensor]]:
    """dh0 [L, B, H] and all weights' gradients; rows: each layer's dgates, [T * B, 4H]."""
    (T, B, H), dh0, dweights = y.shape, torch.empty_like(h0), []
    outputs, before = [*h.unbind(), y], h.flatten(1, 2)[:, :-B].unbind()
    before = [*before, y.view(T * B, H)[:-B]]  # a layer's h(t - 1), from t = 1 on
    lanes = zip(layers, h0.unbind(), dgates[:, 0].unbind(), dh0.unbind(), strict=True)
    for index, (layer, h0_own, first, dh0_own) in enumerate(lanes):
        below = x if index == 0 else outputs[index - 1]
        if index > 0 and drop is not None:
            below = drop(below, index - 1)
        columns, h_prev = rows[index].T, torch.cat([h0_own, before[index]])
        dweights += [columns @ below.view(T * B, -1), columns @ h_prev]
        if layer.b_ih is not None:
            bias = rows[index].sum(0)
            dweights += [bias, bias.clone()]
        torch.mm(first, layer.w_hh, out=dh0_own)
    return dh0, dweights
