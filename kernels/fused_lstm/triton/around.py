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
from ..cell import RECURRENT, Cell
from ..pointwise import normalized, scaled
from ..reference import Layer, by_layer, state_dtype
from . import cells, devices, gradients, launch, philox, precision, sweep
from .cells.gru import GRU
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

    @property
    def kernel(self) -> cells.Cell:
        """The cell as the sweeps have it."""
        return GRU if self.options.cell.gru else LSTM


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
    cell: Cell,
) -> Stack:
    layers = list(by_layer([w.contiguous() for w in weights], h0.shape[0], cell))
    shape, rows = _shape(h0, c0, layers[0].w_hr, directions), Rows(x, h0.shape[1], batch_sizes)
    plan = _plan(fuse, direction, x, shape, cell.layer_norm)
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
        sweep.Options(seed, rows.offset, keep, cell=cell),
        dropout if plan.kind == "layers" else 0.0,
        drop,
    )


def _shape(h0: Tensor, c0: Tensor, w_hr: Tensor | None, directions: int) -> Shape:
    P, H = (c0.shape[2], c0.shape[2]) if w_hr is None else w_hr.shape
    for name, state, size in (("c0", c0, H), ("h0", h0, P)):
        if list(state.shape) != (wanted := [*c0.shape[:2], size]):
            by = "as c0" if w_hr is None else "by weight_hr"
            raise ValueError(f"{name}: got shape {list(state.shape)}, should be {wanted}, {by}")
    return Shape(h0.shape[0], directions, h0.shape[1], H, 0 if w_hr is None else P)


def _plan(fuse: str, direction: str, x: Tensor, shape: Shape, norm: bool) -> Plan:
    """The sweep for these tensors: of all lanes, of both of a layer, or of one."""
    tf32 = x.dtype == torch.float32 and precision.tf32()
    return choose(
        direction, hidden=shape.H, batch=shape.B, layers=shape.L if fuse == "layers" else 1,
        directions=shape.D, dtype=launch.NAMES[x.dtype], device=devices.current(x.device),
        tf32=tf32, projected=shape.projected, norm=norm,
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


def _options_by_sweep(of: Stack, **options: Tensor | None) -> list[sweep.Options]:
    """Each sweep's, with its part of what some have: [L, ...] each, or None."""
    there, lanes = {name: t for name, t in options.items() if t is not None}, of.plan.layers
    if not (there or of.options.cell.on):
        return [of.options] * len(of.weights)
    parts = _by_sweep(lanes, *there.values()) or [()] * len(of.weights)
    return [
        of.options._replace(first_lane=n * lanes, **dict(zip(there, own, strict=True)))
        for n, own in enumerate(parts)
    ]


def _added(of: Stack, state: Tensor, h0: Tensor | None) -> dict[str, Tensor | None]:
    """What only some cells have, of all lanes; h0: in the forward."""
    cell, (L, _, B, _, _), P = of.options.cell, of.shape, of.shape.P
    w_ch, fed, carried = None, None, None
    if cell.peephole:
        w_ch = torch.stack([w.w_ch for w in of.layers])
    if cell.recurrent_dropout > 0 and of.options.seed is not None:
        ones, seed = state.new_ones(B, L, P), of.options.seed[-1:]
        fed = philox.dropout(ones, cell.recurrent_dropout, seed, RECURRENT)
        fed = fed.transpose(0, 1).contiguous()
    if cell.zones[0] > 0:
        carried = state.new_zeros(L, B, P) if h0 is None else state.new_empty(L, B, P).copy_(h0)
    added = {"w_ch": w_ch, "fed": fed, "carried": carried}
    if cell.layer_norm:
        zeros, parts = state.new_zeros(state.shape[2]), of.plan.programs // of.plan.layers
        gains = [(w.gain_hh, w.gain_c, zeros if w.b_c is None else w.b_c) for w in of.layers]
        added["gains"] = torch.stack([torch.cat(own).to(state.dtype) for own in gains])
        added["shares"] = state.new_empty(L, 4 * parts * B)
    return added


def _planes(c: Tensor, L: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of what a lane that normalizes keeps [9L, N, H]: c, and both products raw [L, N, 4H]."""
    raw = c[L:].view(2, L, c.shape[1], 4 * c.shape[2])
    return c[:L], *raw.unbind()


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
    cell: str = "",
    rates: Sequence[float] = (),
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The operator `lstm` of fused_lstm.ops."""
    with precision.matmul_as_rnn(x.dtype):
        lanes = directions, batch_sizes, keep, Cell.of_arguments(cell, rates)
        of = _stack("forward", x, h0, c0, weights, dropout, seed, fuse, *lanes)
        (L, D, B, H, _), rows, layers, plan = of[:4]
        P, N, shape, count = of.shape.P, rows.N, x.shape[:-1], len(of.weights)
        W = D * P
        x, state = x.contiguous(), c0.to(state_dtype(x.dtype)).contiguous()

        y, h = x.new_empty(N, W), x.new_empty(L // D - 1, N, W)
        norm, raw_ih, raw_hh = of.options.cell.layer_norm, None, None
        c = kept = state.new_empty(9 * L if norm and save else L, N if save else B, H)
        if norm and save:
            c, raw_ih, raw_hh = _planes(kept, L)
        gates = x.new_empty(L if save else D, N, 4 * H)
        added = _added(of, state, h0)
        copies = 2 if of.inside > 0 or (added["fed"] is not None and plan.kind == "layers") else 1
        exchange, between, counters = launch.workspace(plan, x, (copies, L, 2), count)
        slots = 2 if rows.offset is not None else 1  # in which a row finds its h0
        fed = h0 if added["fed"] is None else h0 * added["fed"]
        launch.first_rows(exchange, L, B, P, slots).copy_(fed)
        swept = _by_sweep(plan.layers, _biases(layers, x), state, c)
        options = _options_by_sweep(of, between=between, raw=raw_hh, **added)
        spaces = [exchange] if count == 1 else exchange[0].split(plan.layers)
        hoisted, outputs = gates.unbind(), [y] if plan.kind == "layers" else [*h.unbind(), y]

        def one(x: Tensor, index: int) -> Tensor:
            bias, c0, c = swept[index]
            first, out = index * plan.layers if save else 0, outputs[index]
            for lane in range(D):
                w_ih, out_gates = of.weights[index].ih[lane], rows.of(hoisted[first + lane])
                if not norm:
                    torch.addmm(bias[lane], x, w_ih.T, out=out_gates)
                    continue
                by_x, number = x @ w_ih.T, index * plan.layers + lane
                if save:
                    rows.of(raw_ih[number]).copy_(by_x)
                x_hat, _ = normalized(by_x)
                out_gates.copy_(scaled(x_hat, layers[number].gain_ih, bias[lane]))
            sweep.forward(
                plan, of.kernel, hoisted[first], of.weights[index], bias, c0, h, out, c,
                spaces[index], counters[index], options[index], rows.T, of.inside, save,
            )  # fmt: skip
            return rows.of(out)

        stack.run(rows.of(x.view(N, -1)), count, one, of.drop)
        if rows.live < N:
            y[rows.live :].zero_()
        h_n = torch.cat([rows.ends(gradients.halves(t, D), last=True) for t in (h, y[None])])
        y = y.view(*shape, W)
        if not save:
            return y, h_n, c.to(c0.dtype), x.new_empty(0), state.new_empty(0), x.new_empty(0)
        c_n = rows.ends(gradients.by_direction(c, D), last=True).to(c0.dtype, copy=True)
        return y, h_n, c_n, *(t.view(t.shape[0], *shape, t.shape[-1]) for t in (h, kept, gates))


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
    cell: str = "",
    rates: Sequence[float] = (),
    samples: int = 0,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """The operator `lstm_backward` of fused_lstm.ops."""
    _check_samples(samples, h0.shape[1], batch_sizes, cell)
    with precision.matmul_as_rnn(x.dtype):
        lanes = directions, batch_sizes, keep, Cell.of_arguments(cell, rates)
        of = _stack("backward", x, h0, c0, weights, dropout, seed, fuse, *lanes)
        (L, D, B, H, _), rows, layers, plan = of[:4]
        P, N, state, count = of.shape.P, rows.N, c0.to(c.dtype).contiguous(), len(of.weights)
        W = D * P
        x, h0, y, h, c, gates = (t.contiguous() for t in (x, h0, y, h, c, gates))
        dy = torch.zeros_like(y) if dy is None else dy.contiguous()
        dh_n, dc = _last_gradients(dh_n, dc_n, h0, state, rows.offset is not None)

        norm, raw_ih, raw_hh = of.options.cell.layer_norm, None, None
        if norm:
            c, raw_ih, raw_hh = _planes(c.view(9 * L, N, H), L)
        dgates, partials = gates.new_empty(L, N, 4 * H), c.new_empty(plan.layers, plan.split, B, P)
        dh = gates.new_empty(L, N, P) if plan.projected else None
        exchange, between, counters = launch.workspace(plan, gates, (L, 2, 4), count)
        added = _added(of, state, None)
        outputs = [rows.of(t) for t in (*h.view(-1, N, W).unbind(), y.view(N, W))]
        left = gradients.Left(
            rows, D, layers, of.options, of.drop, state, rows.of(x.view(N, -1)), h0, outputs,
            gates, c, dgates, [rows.of(t) for t in dgates.unbind()], dh,
            added["fed"], added["carried"],
        )  # fmt: skip
        if norm:
            left = left.normalized(raw_ih, raw_hh)
            added |= {"raw": raw_hh, "stats": left.stats, "by_h": left.by_h, "dseen": left.dseen}
        swept = _by_sweep(plan.layers, gates, state, c, dc, dgates, exchange)
        options = _options_by_sweep(of, between=between, dh=dh, **added)
        dh_n_of = [None] * count if dh_n is None else dh_n.split(plan.layers)

        def one(dy: Tensor, index: int) -> Tensor:
            gates, c0, c, dc, dgates, space = swept[index]
            sweep.backward(
                plan, of.kernel, dy, dh_n_of[index], gates, of.weights[index], c0, c, dc, dgates,
                space, counters[index], partials, options[index], rows.T, of.inside,
            )  # fmt: skip
            if index == 0 and not needs_dx:
                return dy
            first, w_ih = index * plan.layers, of.weights[index].ih
            dx = left.by_x(first) @ w_ih[0]
            return dx if D == 1 else dx.addmm_(left.by_x(first + 1), w_ih[1])

        dx = stack.run_back(rows.of(dy.view(N, W)), count, one, of.drop)
        dweights, dh0 = gradients.of_weights(left, samples), gradients.of_first(left)
        dx = rows.filled(dx).view_as(x) if needs_dx else x.new_empty(0)
        return dx, dh0, dc.to(c0.dtype), dweights


def _check_samples(samples: int, B: int, batch_sizes: Tensor | None, cell: str) -> None:
    """As native's operator checks it, with the same words."""
    if samples == 0:
        return
    if samples < 0 or B % samples:
        raise ValueError(f"samples: got {samples}, should divide the batch of {B}")
    if batch_sizes is not None and samples != B:
        raise ValueError(
            f"samples: got {samples}, should be {B}, a row each, where rows are packed"
        )
    if cell:
        raise ValueError(f"samples: got {samples}, should be 0 for a cell with weights of its own")


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
