"""The operators `lstm` and `lstm_backward` of fused_lstm.ops: large products around the sweeps.

What needs no order in time is one large product: before a forward sweep the inputs of all steps by
w_ih, after a backward sweep the gradients of x, and after all of them those of the weights.

A sweep takes as many lanes as its plan has: all of the stack, both of a layer, or one.

N: rows of x, T * B or packed. W: columns of y, D * H.
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
from .packed import Rows
from .plan import Plan, choose


def _plan(fuse: str, direction: str, x: Tensor, h0: Tensor, directions: int) -> Plan:
    """The sweep for these tensors: of all lanes, of both of a layer, or of one."""
    L, B, H = h0.shape
    tf32 = x.dtype == torch.float32 and precision.tf32()
    return choose(
        direction, hidden=H, batch=B, layers=L if fuse == "layers" else 1, directions=directions,
        dtype=launch.NAMES[x.dtype], device=devices.current(x.device), tf32=tf32,
    )  # fmt: skip


def _by_sweep(lanes: int, *of: Tensor | Sequence[Tensor]) -> list[tuple]:
    """Each sweep's of some [L, ...] and lists of L: `lanes` of them."""
    parts = []
    for t in of:
        if len(t) == lanes:
            parts.append([t])
        elif isinstance(t, Tensor):
            parts.append(t.split(lanes))
        else:
            parts.append([t[n : n + lanes] for n in range(0, len(t), lanes)])
    return list(zip(*parts, strict=True))


def _halves(y: Tensor, D: int) -> Sequence[Tensor]:
    """Each direction's columns of y [., D * H]."""
    return y.chunk(2, -1) if D == 2 else [y]


def _by_direction(t: Tensor, D: int) -> Sequence[Tensor]:
    """Each direction's lanes of t [L * D, ...]."""
    return [t[::2], t[1::2]] if D == 2 else [t]


def _options(seed: Tensor | None, rows: Rows, keep: Tensor | None) -> sweep.Options:
    keep = None if keep is None else keep.contiguous().view(torch.uint8)
    return sweep.Options(seed, rows.offset, keep)


def _check(h0: Tensor, c0: Tensor) -> None:
    if h0.shape != c0.shape:
        raise ValueError(f"h0: got shape {list(h0.shape)}, should be {list(c0.shape)}, as c0")


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
    directions: int = 1,
    batch_sizes: Tensor | None = None,
    keep: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The operator `lstm` of fused_lstm.ops, but for projections."""
    _check(h0, c0)
    with precision.matmul_as_rnn(x.dtype):
        rows, D, (L, B, H) = Rows(x, len(h0[0]), batch_sizes), directions, h0.shape
        N, W, shape = rows.N, D * H, x.shape[:-1]
        x, state = x.contiguous(), c0.to(state_dtype(x.dtype)).contiguous()
        layers = list(by_layer([w.contiguous() for w in weights], L))
        plan = _plan(fuse, "forward", x, h0, D)
        inside = dropout if plan.kind == "layers" else 0.0  # dropped by the sweep itself
        options = _options(seed, rows, keep)

        y, h = x.new_empty(N, W), x.new_empty(L // D - 1, N, W)
        c = state.new_empty(L, N if save else B, H)
        gates = x.new_empty(L if save else D, N, 4 * H)
        copies, count = 2 if inside > 0 else 1, L // plan.layers
        exchange, counters = launch.workspace(plan, x, (copies, L, 2), count)
        slots = 2 if rows.offset is not None else 1  # in which a row finds its h0
        launch.first_rows(exchange, L, B, H, slots).copy_(h0)
        w_ih, w_hh = tuple(w.w_ih for w in layers), tuple(w.w_hh for w in layers)
        swept = _by_sweep(plan.layers, w_ih, w_hh, _biases(layers, x), state, c)
        spaces = [exchange] if count == 1 else exchange[0].split(plan.layers)
        hoisted, outputs = gates.unbind(), [y] if plan.kind == "layers" else [*h.unbind(), y]

        def one(x: Tensor, index: int) -> Tensor:
            w_ih, w_hh, bias, c0, c = swept[index]
            first, out = index * plan.layers if save else 0, outputs[index]
            for lane in range(D):
                torch.addmm(bias[lane], x, w_ih[lane].T, out=rows.of(hoisted[first + lane]))
            sweep.forward(
                plan, LSTM, hoisted[first], w_ih, w_hh, bias, c0, h, out, c, spaces[index],
                counters[index], options, rows.T, inside, save,
            )  # fmt: skip
            return rows.of(out)

        drop = partial(philox.apply, dropout, seed, N * W) if dropout > 0 else None
        stack.run(rows.of(x.view(N, -1)), count, one, drop)
        if rows.live < N:
            y[rows.live :].zero_()
        h_n = torch.cat([rows.ends(_halves(t, D), last=True) for t in (h, y[None])])
        y = y.view(*shape, W)
        if not save:
            return y, h_n, c.to(c0.dtype), x.new_empty(0), state.new_empty(0), x.new_empty(0)
        c_n = rows.ends(_by_direction(c, D), last=True).to(c0.dtype, copy=True)
        return y, h_n, c_n, *(t.view(len(t), *shape, t.shape[-1]) for t in (h, c, gates))


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
    directions: int = 1,
    batch_sizes: Tensor | None = None,
    keep: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """The operator `lstm_backward` of fused_lstm.ops, but for projections."""
    with precision.matmul_as_rnn(x.dtype):
        rows, D, (L, B, H) = Rows(x, len(h0[0]), batch_sizes), directions, h0.shape
        N, W, state = rows.N, D * H, c0.to(c.dtype).contiguous()
        x, h0, y, h, c, gates = (t.contiguous() for t in (x, h0, y, h, c, gates))
        layers = list(by_layer([w.contiguous() for w in weights], L))
        plan = _plan(fuse, "backward", x, h0, D)
        inside = dropout if plan.kind == "layers" else 0.0
        options = _options(seed, rows, keep)
        dy = torch.zeros_like(y) if dy is None else dy.contiguous()
        dh, dc = _last_gradients(dh_n, dc_n, h0, state, rows.offset is not None)

        dgates, partials = gates.new_empty(L, N, 4 * H), c.new_empty(plan.layers, plan.split, B, H)
        exchange, counters = launch.workspace(plan, gates, (L, 2, 4), L // plan.layers)
        w_ih, w_hh = tuple(w.w_ih for w in layers), tuple(w.w_hh for w in layers)
        swept = _by_sweep(plan.layers, gates, w_ih, w_hh, state, c, dc, dgates, exchange)
        dh_of = [None] * len(swept) if dh is None else dh.split(plan.layers)
        by_gates = [rows.of(t) for t in dgates.unbind()]

        def one(dy: Tensor, index: int) -> Tensor:
            own, first = swept[index], index * plan.layers
            sweep.backward(
                plan,
                LSTM,
                dy,
                dh_of[index],
                *own,
                counters[index],
                partials,
                options,
                rows.T,
                inside,
            )
            if index == 0 and not needs_dx:
                return dy
            dx = by_gates[first] @ w_ih[first]
            return dx if D == 1 else dx.addmm_(by_gates[first + 1], w_ih[first + 1])

        drop = partial(philox.apply, dropout, seed, N * W) if dropout > 0 else None
        dx = stack.run_back(rows.of(dy.view(N, W)), len(swept), one, drop)

        outputs = [rows.of(t) for t in (*h.view(-1, N, W).unbind(), y.view(N, W))]
        x2 = rows.of(x.view(N, -1))
        dweights = _of_weights(rows, layers, by_gates, x2, h0, outputs, keep, D, drop)
        dh0 = _first_gradients(rows, dgates, w_hh, keep, D)
        dx = rows.filled(dx).view_as(x) if needs_dx else x.new_empty(0)
        return dx, dh0, dc.to(c0.dtype), dweights


def _of_weights(
    rows: Rows,
    layers: Sequence[Layer],
    dgates: Sequence[Tensor],
    below: Tensor,
    h0: Tensor,
    outputs: Sequence[Tensor],
    keep: Tensor | None,
    D: int,
    drop: stack.Drop | None,
) -> list[Tensor]:
    """All weights' gradients; below: x; outputs: each layer's."""
    dweights = []
    for lane, layer in enumerate(layers):
        index, d = divmod(lane, D)
        if index > 0 and d == 0:
            below = outputs[index - 1] if drop is None else drop(outputs[index - 1], index - 1)
        before = rows.before(_halves(outputs[index], D)[d], h0[lane], d)
        if keep is not None:
            before = torch.where(rows.of(keep[d].reshape(rows.N, 1)), before, 0.0)
        columns = dgates[lane].T
        dweights += [columns @ below, columns @ before]
        if layer.b_ih is not None:
            bias = dgates[lane].sum(0)
            dweights += [bias, bias.clone()]
    return dweights


def _first_gradients(
    rows: Rows, dgates: Tensor, w_hh: Sequence[Tensor], keep: Tensor | None, D: int
) -> Tensor:
    """dh0 [L, B, H]: what each row's first step, in its lane's order of time, sends to h0."""
    first = rows.ends(_by_direction(dgates, D), last=False)
    dh0 = dgates.new_empty(*first.shape[:2], w_hh[0].shape[1])
    for lane, w in enumerate(w_hh):
        torch.mm(first[lane], w, out=dh0[lane])
    if keep is None:
        return dh0
    kept = rows.ends([t.reshape(1, rows.N, 1) for t in keep], last=False)  # [D, B, 1]
    return torch.where(kept, dh0.view(-1, *kept.shape[:2], dh0.shape[-1]), 0.0).view_as(dh0)


def _last_gradients(
    dh_n: Tensor | None, dc_n: Tensor | None, h0: Tensor, state: Tensor, filled: bool
) -> tuple[Tensor | None, Tensor]:
    """dh and dc [L, B, H] for the sweeps, which write to dc. Both None: nobody has to fill them,
    unless they are to be `filled`.
    """
    if dh_n is None and dc_n is None and not filled:
        return None, torch.empty_like(state)
    dh = torch.zeros_like(h0) if dh_n is None else dh_n.contiguous()
    if dc_n is None:
        return dh, torch.zeros_like(state)
    return dh, dc_n.to(state.dtype, copy=True).contiguous()
