"""The operators `lstm` and `lstm_backward` of fused_lstm.ops: large products around the launches.

A product that needs no order in time is one large product: before a forward launch the inputs of
all steps by w_ih, after a backward launch the gradients of x, after all launches those of the
weights.

A launch takes as many lanes as its plan has: all of the stack, both of a layer, or one.

L: lanes. D: directions. N: rows of x, T * B or packed. P: the size of h, H where it is not
projected. W: columns of y, D * P. X, G: a cell's gates that x, and that h, has a part in. S: its
states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import stack
from ..pointwise import normalized, scaled
from ..reference import Layer, by_layer, state_dtype
from ..spec import RECURRENT, Spec, cell_of
from . import backward, devices, forward, gradients, launch, philox, precision, rounding, tuned
from .cells import Cell
from .choice import choose
from .packed import Rows, not_reset
from .plan import Plan


class Shape(NamedTuple):
    L: int
    D: int
    B: int
    H: int
    projected: int  # P where h is projected, else 0
    P: int


@dataclass(frozen=True, eq=False)
class Prepared:
    """Parameters of an operator's call that do not depend on its tensors."""

    call: launch.Call
    cell: Cell
    count: int  # of launches
    inside: float  # probability of a dropout that a launch itself does
    rounds: bool  # whether factors of products are rounded to TF32
    rounds_before: bool  # and weights before the launches
    copies: int  # of the exchange: 2 where the lane above does not read what w_hh is fed
    exchanged: int  # columns of the backward's exchange
    is_fused: bool  # one launch has all lanes


@lru_cache(4096)
def prepare(
    make_plan: Callable[..., Plan],
    direction: str,
    fuse: str,
    dtype: torch.dtype,
    device: torch.device,
    shape: Shape,
    cell: Spec,
    dropout: float,
    draws: bool,
    varlen: bool,
    resets: bool,
    save: bool,
    tf32: bool,
    many_steps: bool,
    deterministic: bool,
) -> Prepared:
    """Return the launches of a call, made once for all calls that are alike.

    many_steps: whether there are rounding.STEPS or more. deterministic: whether algorithms have to
    be, on which `make_plan` depends.
    """
    kernels = launch.kernel_cell(cell)
    norm, gates = launch.norms(cell), kernels.by_h
    if fuse == "layers" and kernels.of_x != kernels.of_h:
        fuse = "steps"  # a wave multiplies x by as many rows as h
    plan = make_plan(fuse, direction, dtype, device, shape, norm=norm, gates=gates, tf32=tf32)
    inside = dropout if plan.kind == "layers" else 0.0
    options = {"save": save, "p": inside, "varlen": varlen, "resets": resets, "draws": draws}
    rounds_before = plan.rounds and plan.streams and many_steps
    recurrent = draws and cell.recurrent_dropout > 0
    return Prepared(
        launch.call(plan, cell, **options, rounded=rounds_before),
        cell=kernels,
        count=shape.L // plan.layers,
        inside=inside,
        rounds=plan.rounds,
        rounds_before=rounds_before,
        copies=2 if inside > 0 or (recurrent and plan.kind == "layers") else 1,
        exchanged=launch.exchanged(plan, cell),
        is_fused=plan.kind == "layers",
    )


def prepared(*call: Any) -> Prepared:
    """Return `prepare`'s launches of a call as PyTorch is set now: its arguments without the first
    and the last.
    """
    return prepare(plan_of, *call, torch.are_deterministic_algorithms_enabled())


def plan_of(
    fuse: str,
    direction: str,
    dtype: torch.dtype,
    device: torch.device,
    shape: Shape,
    *,
    norm: int,
    gates: int,
    tf32: bool,
) -> Plan:
    """Return the launch for these tensors: of all lanes, of both of a layer, or of one."""
    card = tuned.measured(devices.current(device))
    chosen = choose(
        direction, hidden=shape.H, batch=shape.B, layers=shape.L if fuse == "layers" else 1,
        directions=shape.D, dtype=launch.NAMES[dtype], device=card, tf32=tf32,
        projected=shape.projected, norm=norm, gates=gates,
    )  # fmt: skip
    return tuned.of(chosen, card)


class Stack(NamedTuple):
    """Arguments of both operators, parsed before either begins."""

    prepared: Prepared
    shape: Shape
    rows: Rows
    layers: list[Layer]
    multiplied: list[Layer]  # as the launches multiply by their weights: rounded, or the same
    cell: Spec
    seed: Tensor | None
    not_reset: Tensor | None
    drop: stack.Drop | None

    def weights(self, index: int) -> tuple[tuple, tuple, tuple | None]:
        """Return w_ih, w_hh and w_hr of a launch's lanes."""
        lanes = self.prepared.call.plan.layers
        layers = self.multiplied[index * lanes : (index + 1) * lanes]
        w_ih, w_hh, *others = zip(*layers, strict=True)  # in the order of Layer
        return w_ih, w_hh, others[2] if self.shape.projected else None


def _stack(
    direction: str,
    save: bool,
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
    cell: Spec,
) -> Stack:
    layers = by_layer([w.contiguous() for w in weights], h0.shape[0], cell)
    shape = _shape(h0, c0, layers[0].w_hr, directions, cell.c_parts)
    rows = Rows(x, h0.shape[1], batch_sizes)
    tf32 = x.dtype == torch.float32 and precision.tf32()
    launches = prepared(
        direction, fuse, x.dtype, x.device, shape, cell, dropout, seed is not None,
        rows.offset is not None, keep is not None, save, tf32, rows.T >= rounding.STEPS,
    )  # fmt: skip
    multiplied = _rounded(layers, launches.is_fused) if launches.rounds_before else layers
    drop = None
    if dropout > 0:
        drop = partial(philox.apply, dropout, seed, rows.N * shape.D * shape.P)
    return Stack(launches, shape, rows, layers, multiplied, cell, seed, not_reset(keep), drop)


def _rounded(layers: list[Layer], is_fused: bool) -> list[Layer]:
    """Return the layers with the weights that the launches multiply by rounded to TF32."""
    each: list[dict[str, Tensor]] = []
    for lane, layer in enumerate(layers):
        each.append({"w_hh": layer.w_hh})
        if layer.w_hr is not None:
            each[-1]["w_hr"] = layer.w_hr
        if is_fused and lane > 0:
            each[-1]["w_ih"] = layer.w_ih
    found = iter(rounding.rounded([w for weights in each for w in weights.values()]))
    return [
        layer._replace(**dict(zip(weights, found, strict=False)))
        for layer, weights in zip(layers, each, strict=True)
    ]


def _shape(h0: Tensor, c0: Tensor, w_hr: Tensor | None, directions: int, states: int) -> Shape:
    P, H = (c0.shape[2] // states,) * 2 if w_hr is None else w_hr.shape
    for name, state, size in (("c0", c0, states * H), ("h0", h0, P)):
        if list(state.shape) != (wanted := [*c0.shape[:2], size]):
            by = "as c0" if w_hr is None else "by weight_hr"
            raise ValueError(f"{name}: got shape {list(state.shape)}; expected {wanted}, {by}")
    return Shape(h0.shape[0], directions, h0.shape[1], H, 0 if w_hr is None else P, P)


def _split(count: int, *tensors: Tensor | None) -> list[Sequence[Tensor | None]]:
    """Return of each [L, ...] or None the part of each of `count` launches."""
    return [
        [tensor] * count if tensor is None or count == 1 else tensor.chunk(count)
        for tensor in tensors
    ]


class Extra(NamedTuple):
    """Tensors that only some cells have, of all lanes."""

    weight: Tensor | None = None
    h_mask: Tensor | None = None
    h_old: Tensor | None = None
    gain: Tensor | None = None
    shares: Tensor | None = None

    def of_launches(self, count: int) -> list[Extra]:
        if count == 1 or self is NOTHING:
            return [self] * count
        return [Extra(*of) for of in zip(*_split(count, *self), strict=True)]


NOTHING = Extra()


def _extra(of: Stack, state: Tensor, h0: Tensor | None) -> Extra:
    """Return the tensors that only some cells have; h0: in the forward."""
    cell, (L, _, B, H, _, P) = of.cell, of.shape
    weight, h_mask, h_old, gain, shares = None, None, None, None, None
    if of.layers[0].w_ch is not None:
        weight = torch.stack([w.w_ch for w in of.layers])
    elif not cell.options:
        return NOTHING
    if cell.recurrent_dropout > 0 and of.seed is not None:
        ones = state.new_ones(B, L, P)
        h_mask = philox.dropout(ones, cell.recurrent_dropout, of.seed[-1:], RECURRENT)
        h_mask = h_mask.transpose(0, 1).contiguous()
    if cell.zones[0] > 0 and cell.has_c:
        h_old = state.new_zeros(L, B, P) if h0 is None else state.new_empty(L, B, P).copy_(h0)
    if cell.layer_norm:
        plan = of.prepared.call.plan
        zeros, parts = state.new_zeros(H), plan.programs // plan.layers
        gains = [(w.gain_hh, w.gain_c, w.b_c) for w in of.layers]
        gain = torch.stack(
            [torch.cat([zeros if w is None else w for w in each]).to(state.dtype) for each in gains]
        )
        shares = state.new_empty(L, 4 * parts * B)
    return Extra(weight, h_mask, h_old, gain, shares)


def _planes(c: Tensor, L: int, cell: Cell) -> tuple[Tensor, Tensor, Tensor]:
    """Return c and the raw products by x [L, N, X*H] and by h [L, N, G*H].

    With layer norm these lie behind c, in as many planes of its size as they take.
    """
    N, H = c.shape[1], c.shape[2] // cell.states
    behind, of_x = c[L:].flatten(), L * N * cell.by_x * H
    by_h = behind[of_x : of_x + L * N * cell.by_h * H]
    return c[:L], behind[:of_x].view(L, N, -1), by_h.view(L, N, -1)


def _biases(of: Stack, like: Tensor) -> tuple[Tensor, ...]:
    """Return each lane's bias [(X + OF_H) * H]: of x's parts, then of h's that stay alone.

    Of a gate that is a sum only the biases' sum appears.
    """
    layers, H, cell = of.layers, of.shape.H, of.prepared.cell
    if layers[0].b_ih is None:
        return (like.new_zeros((cell.by_x + cell.of_h) * H),) * len(layers)
    if not cell.apart:
        return tuple(torch._foreach_add([w.b_ih for w in layers], [w.b_hh for w in layers]))
    both = cell.sums * H
    return tuple(
        torch.cat([w.b_ih[:both] + w.b_hh[:both], w.b_ih[both:], w.b_hh[both:]]) for w in layers
    )


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
    """Run the operator `lstm` of fused_lstm.ops."""
    with precision.matmul_as_rnn(x.dtype):
        lanes = directions, batch_sizes, keep, cell_of(cell, tuple(rates))
        of = _stack("forward", save, x, h0, c0, weights, dropout, seed, fuse, *lanes)
        prepared, (L, D, B, H, _, P), rows, layers = of[:4]
        plan, count, kernels = prepared.call.plan, prepared.count, prepared.cell
        X, G, S = kernels.by_x, kernels.by_h, kernels.states
        columns = launch.columns(of.cell, of.shape.projected > 0)
        N, shape = rows.N, x.shape[:-1]
        W = D * P
        x, state = x.contiguous(), c0.to(state_dtype(x.dtype)).contiguous()

        y, h = x.new_empty(N, W), x.new_empty(L // D - 1, N, W)
        norm, raw_ih, raw_hh = of.cell.layer_norm, None, None
        c = kept = state.new_empty(L, N if save else B, S * H)
        if norm and save:
            kept = state.new_empty((1 + -(-(X + G) // S)) * L, N, S * H)
            c, raw_ih, raw_hh = _planes(kept, L, kernels)
        gates = x.new_empty(L if save else D, N, columns * H)
        extra, bias = _extra(of, state, h0), _biases(of, x)
        exchange, between, counters = launch.workspace(plan, x, (prepared.copies, L, 2), count)
        slots = 2 if rows.offset is not None else 1  # in which a row finds its h0
        fed = h0 if extra.h_mask is None else h0 * extra.h_mask
        fed = precision.rounded(fed) if prepared.rounds else fed
        if G > 0:
            launch.first_rows(exchange, L, B, P, slots).copy_(fed)
        extras = extra.of_launches(count)
        c0s, cs, raws, betweens = _split(count, state, c, raw_hh, between)
        spaces = [exchange] if count == 1 else exchange[0].chunk(count)
        by_lane, outputs = gates.unbind(), [y] if prepared.is_fused else [*h.unbind(), y]
        x_columns = slice((columns - X) * H, None)

        def one(x: Tensor, index: int) -> Tensor:
            number = index * plan.layers
            first, out, added = number if save else 0, outputs[index], extras[index]
            w_ih, w_hh, w_hr = of.weights(index)
            for lane in range(D):
                x_gates = rows.of(by_lane[first + lane])
                x_gates = x_gates if columns == X else x_gates[:, x_columns]
                x_bias = bias[number + lane] if kernels.of_h == 0 else bias[number + lane][: X * H]
                if not norm:
                    torch.addmm(x_bias, x, layers[number + lane].w_ih.T, out=x_gates)
                    continue
                by_x = x @ layers[number + lane].w_ih.T
                if save:
                    rows.of(raw_ih[number + lane]).copy_(by_x)
                x_hat, _ = normalized(by_x)
                x_gates.copy_(scaled(x_hat, layers[number + lane].gain_ih, x_bias))
            tensors = forward.Tensors(
                by_lane[first], w_ih, w_hh, w_hr, bias[number : number + plan.layers], c0s[index],
                cs[index], h, out, spaces[index], counters[index], rows.offset, of.not_reset,
                betweens[index], of.seed, added.weight, added.h_mask, added.h_old, raws[index],
                added.gain, added.shares,
            )  # fmt: skip
            forward.forward(prepared.call, tensors, rows.T, number)
            return rows.of(out)

        stack.run(rows.of(x.view(N, -1)), count, one, of.drop)
        if rows.live < N:
            y[rows.live :].zero_()
        last = rows.ends(gradients.halves(y[None], D), last=True)
        below = [rows.ends(gradients.halves(h, D), last=True)] if L > D else []
        h_n = torch.cat([*below, last])
        y = y.view(*shape, W)
        if not save:
            return y, h_n, c.to(c0.dtype), x.new_empty(0), state.new_empty(0), x.new_empty(0)
        c_n = rows.ends(gradients.by_direction(c, D), last=True).to(c0.dtype, copy=True)
        kept = kept.view(len(kept), *shape, kept.shape[-1])
        return y, h_n, c_n, h.view(len(h), *shape, W), kept, gates.view(L, *shape, columns * H)


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
    """Run the operator `lstm_backward` of fused_lstm.ops."""
    _check_samples(samples, h0.shape[1], batch_sizes, cell)
    with precision.matmul_as_rnn(x.dtype):
        lanes = directions, batch_sizes, keep, cell_of(cell, tuple(rates))
        of = _stack("backward", True, x, h0, c0, weights, dropout, seed, fuse, *lanes)
        prepared, (L, D, B, H, _, P), rows, layers = of[:4]
        plan, count, kernels = prepared.call.plan, prepared.count, prepared.cell
        N, state = rows.N, c0.to(c.dtype).contiguous()
        W = D * P
        x, h0, y, h, c, gates = (t.contiguous() for t in (x, h0, y, h, c, gates))
        dy = torch.zeros_like(y) if dy is None else dy.contiguous()
        dh_n, dc = _last_gradients(dh_n, dc_n, h0, state, rows.offset is not None)

        norm, raw_ih, raw_hh = of.cell.layer_norm, None, None
        if norm:
            c, raw_ih, raw_hh = _planes(c.view(-1, N, kernels.states * H), L, kernels)
        dgates = gates.new_empty(L, N, launch.gradient_columns(of.cell) * H)
        partial_sums, dweight = None, None
        if plan.split > 1:
            partial_sums = c.new_empty(plan.layers, plan.split, B, P)
        by_h = None
        if norm or kernels.apart:
            by_h = gates.new_empty(L, N, kernels.by_h * H)
        dh = gates.new_empty(L, N, P) if plan.projected else None
        exchange, between, counters = launch.workspace(
            plan, gates, (L, 2, prepared.exchanged), count
        )
        extra = _extra(of, state, None)
        if extra.weight is not None:
            dweight = c.new_empty(L, N, extra.weight.shape[1])
        outputs = [rows.of(t) for t in (*h.view(-1, N, W).unbind(), y.view(N, W))]
        left = gradients.Left(
            rows, D, layers, of.cell, kernels, of.seed, of.not_reset, of.drop, state,
            rows.of(x.view(N, -1)), h0, outputs, gates, c, dgates,
            [rows.of(t) for t in dgates.unbind()], by_h, dh, dweight, extra.h_mask, extra.h_old,
        )  # fmt: skip
        if norm:
            left = left.normalized(raw_ih, raw_hh)
        extras = extra.of_launches(count)
        each = _split(
            count, gates, state, c, dc, dgates, exchange, dh_n, between, dh, by_h,
            raw_hh, left.stats, left.dseen, dweight,
        )  # fmt: skip
        (gates_of, c0_of, c_of, dc_of, dgates_of, exchange_of, dh_n_of, between_of, dh_of, by_h_of,
         raw_of, stats_of, dseen_of, dweight_of) = each  # fmt: skip

        def one(dy: Tensor, index: int) -> Tensor:
            first, added = index * plan.layers, extras[index]
            w_ih, w_hh, w_hr = of.weights(index)
            last = dh_n_of[index]
            tensors = backward.Tensors(
                dy, dy if last is None else last, gates_of[index], w_ih, w_hh, w_hr, c0_of[index],
                c_of[index], dc_of[index], dgates_of[index], exchange_of[index], partial_sums,
                counters[index], rows.offset, of.not_reset, between_of[index], dh_of[index],
                of.seed, added.weight, added.h_mask, added.h_old, by_h_of[index], raw_of[index],
                added.gain, added.shares, stats_of[index], dseen_of[index], dweight_of[index],
            )  # fmt: skip
            backward.backward(prepared.call, tensors, rows.T, last is not None, first)
            if index == 0 and not needs_dx:
                return dy
            dx = left.by_x(first) @ layers[first].w_ih
            return dx if D == 1 else dx.addmm_(left.by_x(first + 1), layers[first + 1].w_ih)

        dx = stack.run_back(rows.of(dy.view(N, W)), count, one, of.drop)
        dweights, dh0 = gradients.of_weights(left, samples), gradients.of_first(left)
        dx = rows.filled(dx).view_as(x) if needs_dx else x.new_empty(0)
        return dx, dh0, dc.to(c0.dtype), dweights


def _check_samples(samples: int, B: int, batch_sizes: Tensor | None, cell: str) -> None:
    """Check `samples` as native's operator checks it, with the same words."""
    if samples == 0:
        return
    if samples < 0 or B % samples:
        raise ValueError(f"samples: got {samples}; expected a divisor of the batch of {B}")
    if batch_sizes is not None and samples != B:
        raise ValueError(f"samples: got {samples}; expected {B}, a row each, where rows are packed")
    if cell:
        raise ValueError(f"samples: got {samples}; expected 0 for a cell with weights of its own")


def _last_gradients(
    dh_n: Tensor | None, dc_n: Tensor | None, h0: Tensor, state: Tensor, filled: bool
) -> tuple[Tensor | None, Tensor]:
    """Return dh and dc [L, B, H] for the launches, which write to dc.

    Where dh_n and dc_n are None and not `filled`, dh is None and dc has no values yet.
    """
    if dh_n is None and dc_n is None and not filled:
        return None, torch.empty_like(state)
    dh = torch.zeros_like(h0) if dh_n is None else dh_n.contiguous()
    if dc_n is None:
        return dh, torch.zeros_like(state)
    return dh, dc_n.to(state.dtype, copy=True).contiguous()
