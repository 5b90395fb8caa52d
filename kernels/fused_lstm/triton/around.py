"""The operators `lstm` and `lstm_backward` of fused_lstm.ops: large products around the sweeps.

What needs no order in time is one large product: before a forward sweep the inputs of all steps by
w_ih, after a backward sweep the gradients of x, and after all of them those of the weights.

A sweep takes as many lanes as its plan has: all of the stack, both of a layer, or one.

L: lanes. N: rows of x, T * B or packed. P: the size of h, H where it is not projected. W: columns
of y, D * P.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .. import stack
from ..reference import Layer, by_layer, state_dtype
from . import devices, launch, philox, precision, sweep
from .cells.lstm import LSTM
from .choice import choose
from .packed import Rows
from .plan import Plan


class Shape(NamedTuple):
    L: int
    D: int
    B: int
    H: int
    projected: int  # P where h is projected, else 0

    @property
    def P(self) -> int:
        return self.projected or self.H


class Stack(NamedTuple):
    """What both operators make of their arguments before they begin."""

    shape: Shape
    rows: Rows
    layers: list[Layer]
    plan: Plan
    weights: list[sweep.Weights]  # each sweep's
    options: sweep.Options
    inside: float  # probability of a dropout that the sweep itself does
    drop: stack.Drop | None


def _stack(
    direction: str,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weights: Sequence[Tensor],
    dropout: float,
    seed: Tensor | None,
    fuse: str,
    directions: int,
    batch_sizes: Tensor | None,
    keep: Tensor | None,
) -> Stack:
    layers = list(by_layer([w.contiguous() for w in weights], len(h0)))
    shape, rows = _shape(h0, c0, layers[0].w_hr, directions), Rows(x, len(h0[0]), batch_sizes)
    plan = _plan(fuse, direction, x, shape)
    keep = None if keep is None else keep.contiguous().view(torch.uint8)
    size = rows.N * shape.D * shape.P
    drop = partial(philox.apply, dropout, seed, size) if dropout > 0 else None
    of = [(w.w_ih, w.w_hh, w.w_hh if w.w_hr is None else w.w_hr) for w in layers]
    swept = [of[n : n + plan.layers] for n in range(0, len(of), plan.layers)]
    return Stack(
        shape,
        rows,
        layers,
        plan,
        [sweep.Weights(*zip(*lanes, strict=True)) for lanes in swept],
        sweep.Options(seed, rows.offset, keep),
        dropout if plan.kind == "layers" else 0.0,
        drop,
    )


def _shape(h0: Tensor, c0: Tensor, w_hr: Tensor | None, directions: int) -> Shape:
    P, H = (c0.shape[2], c0.shape[2]) if w_hr is None else w_hr.shape
    for name, state, size in (("c0", c0, H), ("h0", h0, P)):
        if list(state.shape) != (wanted := [*c0.shape[:2], size]):
            by = "as c0" if w_hr is None else "by weight_hr"
            raise ValueError(f"{name}: got shape {list(state.shape)}, should be {wanted}, {by}")
    return Shape(len(h0), directions, h0.shape[1], H, 0 if w_hr is None else P)


def _plan(fuse: str, direction: str, x: Tensor, shape: Shape) -> Plan:
    """The sweep for these tensors: of all lanes, of both of a layer, or of one."""
    tf32 = x.dtype == torch.float32 and precision.tf32()
    return choose(
        direction, hidden=shape.H, batch=shape.B, layers=shape.L if fuse == "layers" else 1,
        directions=shape.D, dtype=launch.NAMES[x.dtype], device=devices.current(x.device),
        tf32=tf32, projected=shape.projected,
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


def _options_by_sweep(of: Stack, **projections: Tensor | None) -> list[sweep.Options]:
    """Each sweep's, with its part of what only a projected h has: [L, ...] each."""
    if not of.plan.projected:
        return [of.options] * len(of.weights)
    parts = _by_sweep(of.plan.layers, *projections.values())
    return [of.options._replace(**dict(zip(projections, own, strict=True))) for own in parts]


def _halves(y: Tensor, D: int) -> Sequence[Tensor]:
    """Each direction's columns of y [., D * P]."""
    return y.chunk(2, -1) if D == 2 else [y]


def _by_direction(t: Tensor, D: int) -> Sequence[Tensor]:
    """Each direction's lanes of t [L, ...]."""
    return [t[::2], t[1::2]] if D == 2 else [t]


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
    """The operator `lstm` of fused_lstm.ops."""
    with precision.matmul_as_rnn(x.dtype):
        lanes = directions, batch_sizes, keep
        of = _stack("forward", x, h0, c0, weights, dropout, seed, fuse, *lanes)
        (L, D, B, H, _), rows, layers, plan = of[:4]
        P, N, shape, count = of.shape.P, rows.N, x.shape[:-1], len(of.weights)
        W = D * P
        x, state = x.contiguous(), c0.to(state_dtype(x.dtype)).contiguous()

        y, h = x.new_empty(N, W), x.new_empty(L // D - 1, N, W)
        c = state.new_empty(L, N if save else B, H)
        gates = x.new_empty(L if save else D, N, 4 * H)
        copies = 2 if of.inside > 0 else 1
        exchange, between, counters = launch.workspace(plan, x, (copies, L, 2), count)
        slots = 2 if rows.offset is not None else 1  # in which a row finds its h0
        launch.first_rows(exchange, L, B, P, slots).copy_(h0)
        swept = _by_sweep(plan.layers, _biases(layers, x), state, c)
        options = _options_by_sweep(of, between=between)
        spaces = [exchange] if count == 1 else exchange[0].split(plan.layers)
        hoisted, outputs = gates.unbind(), [y] if plan.kind == "layers" else [*h.unbind(), y]

        def one(x: Tensor, index: int) -> Tensor:
            bias, c0, c = swept[index]
            first, out = index * plan.layers if save else 0, outputs[index]
            for lane in range(D):
                w_ih = of.weights[index].ih[lane]
                torch.addmm(bias[lane], x, w_ih.T, out=rows.of(hoisted[first + lane]))
            sweep.forward(
                plan, LSTM, hoisted[first], of.weights[index], bias, c0, h, out, c, spaces[index],
                counters[index], options[index], rows.T, of.inside, save,
            )  # fmt: skip
            return rows.of(out)

        stack.run(rows.of(x.view(N, -1)), count, one, of.drop)
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
    """The operator `lstm_backward` of fused_lstm.ops."""
    with precision.matmul_as_rnn(x.dtype):
        lanes = directions, batch_sizes, keep
        of = _stack("backward", x, h0, c0, weights, dropout, seed, fuse, *lanes)
        (L, D, B, H, _), rows, layers, plan = of[:4]
        P, N, state, count = of.shape.P, rows.N, c0.to(c.dtype).contiguous(), len(of.weights)
        W = D * P
        x, h0, y, h, c, gates = (t.contiguous() for t in (x, h0, y, h, c, gates))
        dy = torch.zeros_like(y) if dy is None else dy.contiguous()
        dh_n, dc = _last_gradients(dh_n, dc_n, h0, state, rows.offset is not None)

        dgates, partials = gates.new_empty(L, N, 4 * H), c.new_empty(plan.layers, plan.split, B, P)
        dh = gates.new_empty(L, N, P) if plan.projected else None
        exchange, between, counters = launch.workspace(plan, gates, (L, 2, 4), count)
        swept = _by_sweep(plan.layers, gates, state, c, dc, dgates, exchange)
        options = _options_by_sweep(of, between=between, dh=dh)
        dh_n_of = [None] * count if dh_n is None else dh_n.split(plan.layers)
        by_gates = [rows.of(t) for t in dgates.unbind()]

        def one(dy: Tensor, index: int) -> Tensor:
            gates, c0, c, dc, dgates, space = swept[index]
            sweep.backward(
                plan, LSTM, dy, dh_n_of[index], gates, of.weights[index], c0, c, dc, dgates, space,
                counters[index], partials, options[index], rows.T, of.inside,
            )  # fmt: skip
            if index == 0 and not needs_dx:
                return dy
            first, w_ih = index * plan.layers, of.weights[index].ih
            dx = by_gates[first] @ w_ih[0]
            return dx if D == 1 else dx.addmm_(by_gates[first + 1], w_ih[1])

        dx = stack.run_back(rows.of(dy.view(N, W)), count, one, of.drop)

        outputs = [rows.of(t) for t in (*h.view(-1, N, W).unbind(), y.view(N, W))]
        x2 = rows.of(x.view(N, -1))
        dweights = _of_weights(rows, layers, by_gates, x2, h0, outputs, keep, D, of.drop)
        if dh is not None:
            _add_projections(dweights, rows, dh, gates.view(L, N, -1), c.view(L, N, -1))
        dh0 = _first_gradients(rows, dgates, [w.w_hh for w in layers], keep, D)
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


def _add_projections(
    dweights: list[Tensor], rows: Rows, dh: Tensor, gates: Tensor, c: Tensor
) -> None:
    """Each lane's gradient of w_hr [P, H] after its others: dh^T . m, with m = o * tanh(c)."""
    each = len(dweights) // len(dh)
    for lane in reversed(range(len(dh))):
        o = rows.of(gates[lane]).chunk(4, -1)[3]
        m = (o * rows.of(c[lane]).tanh()).to(dh.dtype)
        dweights.insert((lane + 1) * each, rows.of(dh[lane]).T @ m)


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
