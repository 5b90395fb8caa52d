"""The operators `lstm` and `lstm_backward` of fused_lstm.ops: large products around the launches.

A product that needs no order in time is one large product: before a forward launch the inputs of
all steps by w_ih, after a backward launch the gradients of x, after all launches those of the
weights.

A call is parsed and its launches are planned; buffers are allocated; the launches run, from the
first layer up or from the last one down; what they wrote becomes the results. A launch takes as
many lanes as its plan has: all of the stack, both of a layer, or one.

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
from .packed import LaneRows, as_bytes
from .plan import Plan

# --- the launches of a call, before its tensors ---


class Shape(NamedTuple):
    L: int  # of heads their number
    D: int
    B: int
    H: int  # of a head
    projected: int  # P where h is projected, else 0
    P: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """Parameters of an operator's call that do not depend on its tensors."""

    call: launch.Call
    cell: Cell
    count: int  # of launches
    rounds_before: bool  # whether weights are rounded to TF32 before the launches
    copies: int  # of the exchange: 2 where the lane above does not read what w_hh is fed
    columns: int  # of the buffer of x's parts and of what is saved
    exchanged: int  # columns of the backward's exchange
    is_fused: bool  # one launch has all lanes


@lru_cache(4096)
def prepare(
    make_plan: Callable[..., Plan],
    *,
    direction: str,
    fuse: str,
    dtype: torch.dtype,
    device: torch.device,
    shape: Shape,
    cell: Spec,
    varlen: bool,
    resets: bool,
    save: bool,
    tf32: bool,
    deterministic: bool,
    dropout: float = 0.0,
    draws: bool = False,
    many_steps: bool = False,
    reverse: bool = False,
) -> Prepared:
    """Return the launches of a call, made once for all calls that are alike.

    fuse: as the operator's, or "heads". many_steps: whether there are rounding.STEPS or more.
    deterministic: whether algorithms have to be, on which `make_plan` depends. reverse: of heads.
    """
    kernels, norm = launch.kernel_cell(cell), launch.norms(cell)
    if fuse == "layers" and kernels.of_x != kernels.of_h:
        fuse = "steps"  # a wave multiplies x by as many rows as h
    plan = make_plan(
        fuse, direction, dtype, device, shape, norm=norm, gates=kernels.by_h, tf32=tf32
    )
    inside = dropout if plan.kind == "layers" else 0.0  # between lanes of a launch
    rounds_before = plan.rounds and plan.streams and many_steps
    recurrent = draws and cell.recurrent_dropout > 0
    return Prepared(
        call=launch.call(
            plan, cell, save=save, p=inside, varlen=varlen, resets=resets, draws=draws,
            rounded=rounds_before, reverse=reverse,
            width=shape.L * shape.P if fuse == "heads" else 0,
        ),
        cell=kernels,
        count=shape.L // plan.layers,
        rounds_before=rounds_before,
        copies=2 if inside > 0 or (recurrent and plan.kind == "layers") else 1,
        columns=launch.columns(cell, shape.projected > 0),
        exchanged=launch.exchanged(plan, cell),
        is_fused=plan.kind == "layers",
    )  # fmt: skip


def prepared(**call: Any) -> Prepared:
    """Return `prepare`'s launches of a call, as PyTorch is set now."""
    return prepare(plan_of, deterministic=torch.are_deterministic_algorithms_enabled(), **call)


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
    """Return the launch for these tensors: of all lanes, both of a layer, one, or some heads."""
    card = tuned.measured(devices.current(device))
    chosen = choose(
        direction, hidden=shape.H, batch=shape.B, layers=shape.L if fuse == "layers" else 1,
        directions=shape.D, dtype=launch.NAMES[dtype], device=card, tf32=tf32,
        projected=shape.projected, norm=norm, gates=gates, heads=shape.L if fuse == "heads" else 0,
    )  # fmt: skip
    return tuned.of(chosen, card)


# --- a call's arguments ---


@dataclass(kw_only=True, eq=False, slots=True)
class Stack:
    """Arguments of both operators, parsed before either begins."""

    prepared: Prepared
    shape: Shape
    rows: LaneRows
    layers: list[Layer]
    multiplied: list[Layer]  # as the launches multiply by their weights: rounded, or the same
    cell: Spec
    seed: Tensor | None
    not_reset: Tensor | None
    drop: stack.Drop | None
    x: Tensor  # [N, I]
    h0: Tensor  # [L, B, P]
    c0: Tensor  # [L, B, S*H] state dtype

    def arguments(self, index: int) -> dict[str, Any]:
        """Return the arguments of launch number `index` that both kernels have from the call."""
        call, rows = self.prepared.call, self.rows
        lanes = call.plan.layers
        layers = self.multiplied[index * lanes : (index + 1) * lanes]
        return {
            "w_ih_ptrs": tuple([layer.w_ih for layer in layers]),
            "w_hh_ptrs": tuple([layer.w_hh for layer in layers]),
            "w_hr_ptrs": tuple([w.w_hr for w in layers]) if self.shape.projected else None,
            "offset_ptr": rows.offset,
            "not_reset_ptr": self.not_reset,
            "seed_ptr": self.seed,
            "T": rows.T,
            "B": rows.B,
            **call.rates,
        }


def parsed(
    direction: str,
    *,
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
    not_reset: Tensor | None,
    cell: str,
    rates: Sequence[float],
) -> Stack:
    """Return a call's arguments, checked, with its launches."""
    spec = cell_of(cell, tuple(rates))
    layers = by_layer([w.contiguous() for w in weights], h0.shape[0], spec)
    shape = _shape(h0, c0, layers[0].w_hr, directions, spec.c_parts)
    rows = LaneRows(x, shape.B, batch_sizes)
    launches = prepared(
        direction=direction, fuse=fuse, dtype=x.dtype, device=x.device, shape=shape, cell=spec,
        varlen=rows.offset is not None, resets=not_reset is not None, save=save,
        tf32=x.dtype == torch.float32 and precision.tf32(), dropout=dropout,
        draws=seed is not None, many_steps=rows.T >= rounding.STEPS,
    )  # fmt: skip
    drop = None
    if dropout > 0:
        drop = partial(philox.apply, dropout, seed, rows.N * shape.D * shape.P)
    return Stack(
        prepared=launches,
        shape=shape,
        rows=rows,
        layers=layers,
        multiplied=_rounded(layers, launches.is_fused) if launches.rounds_before else layers,
        cell=spec,
        seed=seed,
        not_reset=as_bytes(not_reset),
        drop=drop,
        x=x.contiguous().view(rows.N, x.shape[-1]),
        h0=h0.contiguous(),
        c0=c0.to(state_dtype(x.dtype)).contiguous(),
    )


def _rounded(layers: list[Layer], is_fused: bool) -> list[Layer]:
    """Return the layers with the weights that the launches multiply by rounded to TF32."""
    each: list[dict[str, Tensor]] = []
    for lane, layer in enumerate(layers):
        each.append({"w_hh": layer.w_hh})
        if layer.w_hr is not None:
            each[-1]["w_hr"] = layer.w_hr
        if is_fused and lane > 0:
            each[-1]["w_ih"] = layer.w_ih
    rounded = iter(rounding.rounded([w for weights in each for w in weights.values()]))
    return [
        layer._replace(**dict(zip(weights, rounded, strict=False)))
        for layer, weights in zip(layers, each, strict=True)
    ]


def _shape(h0: Tensor, c0: Tensor, w_hr: Tensor | None, directions: int, states: int) -> Shape:
    lanes, B, columns = c0.shape
    P, H = (columns // states,) * 2 if w_hr is None else w_hr.shape
    for name, state, size in (("c0", c0, states * H), ("h0", h0, P)):
        if state.shape != (lanes, B, size):
            got, wanted = list(state.shape), [lanes, B, size]
            by = "as c0" if w_hr is None else "by weight_hr"
            raise ValueError(f"{name}: got shape {got}; expected {wanted}, {by}")
    return Shape(L=lanes, D=directions, B=B, H=H, projected=0 if w_hr is None else P, P=P)


# --- buffers ---


def option_tensors(of: Stack, direction: str) -> dict[str, Tensor]:
    """Return the tensors of all lanes that only options of a cell need, as a kernel's arguments."""
    cell, (L, _, B, H, _, P) = of.cell, of.shape
    tensors: dict[str, Tensor] = {}
    if of.layers[0].w_ch is not None:
        tensors["weight_ptr"] = torch.stack([w.w_ch for w in of.layers])
    if not cell.options:
        return tensors
    if cell.recurrent_dropout > 0 and of.seed is not None:
        ones = of.c0.new_ones(B, L, P)
        h_mask = philox.dropout(ones, cell.recurrent_dropout, of.seed[-1:], RECURRENT)
        tensors["h_mask_ptr"] = h_mask.transpose(0, 1).contiguous()
    if cell.zones[0] > 0 and cell.has_c:
        if direction == "forward":
            tensors["h_old_ptr"] = of.c0.new_empty(L, B, P).copy_(of.h0)
        else:
            tensors["dh_old_ptr"] = of.c0.new_zeros(L, B, P)
    if cell.layer_norm:
        plan = of.prepared.call.plan
        zeros, parts = of.c0.new_zeros(H), plan.programs // plan.layers
        gains = [(w.gain_hh, w.gain_c, w.b_c) for w in of.layers]
        tensors["gain_ptr"] = torch.stack(
            [torch.cat([zeros if w is None else w for w in each]).to(zeros.dtype) for each in gains]
        )
        tensors["shares_ptr"] = of.c0.new_empty(L, 4 * parts * B)
    return tensors


def planes(c: Tensor, L: int, cell: Cell) -> tuple[Tensor, Tensor, Tensor]:
    """Return c and the raw products by x [L, N, X*H] and by h [L, N, G*H].

    With layer norm these lie behind c, in as many planes of its size as they take.
    """
    N, H = c.shape[1:-1].numel(), c.shape[-1] // cell.states
    behind, of_x = c[L:].flatten(), L * N * cell.by_x * H
    by_h = behind[of_x : of_x + L * N * cell.by_h * H]
    return c[:L], behind[:of_x].view(L, N, -1), by_h.view(L, N, -1)


@dataclass(kw_only=True, eq=False, slots=True)
class Outputs:
    """Tensors that the launches of a forward write."""

    y: Tensor  # [.., W] of the last layer, with the rows of x
    h: Tensor  # [L / D - 1, .., W] of the layers below it
    c: Tensor  # [L, .., S*H] state dtype; where nothing is saved [L, B, S*H]
    kept: Tensor  # c and, with layer norm, raw_ih and raw_hh behind it
    gates: Tensor  # [L, .., COLUMNS*H]; where nothing is saved [D, ...] for one layer after another
    lanes: Sequence[Tensor]  # of gates [N, COLUMNS*H]
    raw_ih: Tensor | None = None  # [L, N, X*H] state dtype
    raw_hh: Tensor | None = None  # [L, N, G*H]


def outputs(of: Stack, save: bool) -> Outputs:
    """Allocate what the launches of a forward write."""
    (L, D, B, H, _, P), rows, cell = of.shape, of.rows.shape, of.prepared.cell
    columns = of.prepared.columns * H
    gates = of.x.new_empty(L if save else D, *rows, columns)
    out = Outputs(
        y=of.x.new_empty(*rows, D * P),
        h=of.x.new_empty(L // D - 1, *rows, D * P),
        c=(c := of.c0.new_empty(L, *(rows if save else (B,)), cell.states * H)),
        kept=c,
        gates=gates,
        lanes=gates.view(len(gates), of.rows.N, columns).unbind(),
    )
    if of.cell.layer_norm and save:
        behind = -(-(cell.by_x + cell.by_h) // cell.states)
        out.kept = of.c0.new_empty((1 + behind) * L, *rows, cell.states * H)
        out.c, out.raw_ih, out.raw_hh = planes(out.kept, L, cell)
    return out


def biases(of: Stack) -> tuple[Tensor, ...]:
    """Return each lane's bias [(X + OF_H) * H]: of x's parts, then of h's that stay alone.

    Of a gate that is a sum only the biases' sum appears.
    """
    layers, H, cell = of.layers, of.shape.H, of.prepared.cell
    if layers[0].b_ih is None:
        return (of.x.new_zeros((cell.by_x + cell.of_h) * H),) * len(layers)
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
    not_reset: Tensor | None = None,
    cell: str = "",
    rates: Sequence[float] = (),
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run the operator `lstm` of fused_lstm.ops."""
    with precision.matmul_as_rnn(x.dtype):
        of = parsed(
            "forward", save=save, x=x, h0=h0, c0=c0, weights=weights, dropout=dropout, seed=seed,
            fuse=fuse, directions=directions, batch_sizes=batch_sizes, not_reset=not_reset,
            cell=cell, rates=rates,
        )  # fmt: skip
        out = outputs(of, save)
        launches = forward_launches(of, out)

        def launched(x: Tensor, index: int) -> Tensor:
            multiply_x(of, out, launches[index], x, index)
            forward.forward(of.prepared.call, launches[index])
            if index + 1 == len(launches):
                return out.y
            return of.rows.of(out.h[index].view(of.rows.N, -1))

        stack.run(of.rows.of(of.x), len(launches), launched, of.drop)
        of.rows.clear(out.y)
        return forward_results(of, out, c0.dtype, save)


def forward_launches(of: Stack, out: Outputs) -> list[forward.Arguments]:
    """Return the arguments of each launch: all that is known before the first."""
    prepared, rows, bias = of.prepared, of.rows, biases(of)
    plan, count = prepared.call.plan, prepared.count
    options = option_tensors(of, "forward")
    space = launch.workspace(plan, of.x, (prepared.copies, of.shape.L, 2), count)
    if prepared.cell.by_h > 0:
        mask = options.get("h_mask_ptr")
        fed = of.h0 if mask is None else of.h0 * mask
        launch.feed(space.exchange, fed, plan, rows.offset is not None)
    lanes = launch.by_launch(
        count, c0_ptr=of.c0, c_ptr=out.c, raw_ptr=out.raw_hh, between_ptr=space.between,
        exchange_ptr=space.exchange if count == 1 else space.exchange[0],
        barrier_ptr=space.counters, **options,
    )  # fmt: skip
    layers = [out.y] if count == 1 else [*out.h.unbind(), out.y]
    return [
        forward.Arguments(
            gates_ptr=out.lanes[index * plan.layers % len(out.lanes)],
            bias_ptrs=bias[index * plan.layers : (index + 1) * plan.layers],
            h_ptr=out.h,
            y_ptr=layers[index],
            first_lane=index * plan.layers,
            **lanes[index],
            **of.arguments(index),
        )
        for index in range(count)
    ]


def multiply_x(
    of: Stack, out: Outputs, arguments: forward.Arguments, x: Tensor, index: int
) -> None:
    """Write x's part of the gates, biases included, of the lanes of a launch that read x."""
    X, of_h = of.prepared.cell.by_x, of.prepared.cell.of_h
    D, H, columns = of.shape.D, of.shape.H, of.prepared.columns
    for lane in range(D):
        number = index * of.prepared.call.plan.layers + lane
        layer, bias = of.layers[number], arguments.bias_ptrs[lane]
        gates = of.rows.of(out.lanes[number % len(out.lanes)])
        if columns > X:
            gates = gates[:, (columns - X) * H :]
        if of_h > 0:
            bias = bias[: X * H]
        if not of.cell.layer_norm:
            torch.addmm(bias, x, layer.w_ih.T, out=gates)
            continue
        by_x = x @ layer.w_ih.T
        if out.raw_ih is not None:
            of.rows.of(out.raw_ih[number]).copy_(by_x)
        x_hat, _ = normalized(by_x)
        gates.copy_(scaled(x_hat, layer.gain_ih, bias))


def forward_results(
    of: Stack, out: Outputs, dtype: torch.dtype, save: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the operator's results; dtype: of c0."""
    rows, D = of.rows, of.shape.D
    ends = [rows.ends(gradients.halves(out.y[None], D), last=True)]
    if of.shape.L > D:
        ends.insert(0, rows.ends(gradients.halves(out.h, D), last=True))
    h_n = torch.cat(ends)  # a result is never a view of another
    if not save:
        y, c = out.y, out.c
        return y, h_n, c.to(dtype), y.new_empty(0), c.new_empty(0), y.new_empty(0)
    c_n = rows.ends(gradients.by_direction(out.c, D), last=True).to(dtype, copy=True)
    return out.y, h_n, c_n, out.h, out.kept, out.gates


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
    not_reset: Tensor | None = None,
    cell: str = "",
    rates: Sequence[float] = (),
    samples: int = 0,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Run the operator `lstm_backward` of fused_lstm.ops."""
    _check_samples(samples, h0.shape[1], batch_sizes, cell)
    with precision.matmul_as_rnn(x.dtype):
        of = parsed(
            "backward", save=True, x=x, h0=h0, c0=c0, weights=weights, dropout=dropout, seed=seed,
            fuse=fuse, directions=directions, batch_sizes=batch_sizes, not_reset=not_reset,
            cell=cell, rates=rates,
        )  # fmt: skip
        dy = torch.zeros_like(y) if dy is None else dy.contiguous()
        dh_n, dc = _last_gradients(of, dh_n, dc_n)
        options = option_tensors(of, "backward")
        left = buffers(of, options, y, h, c, gates)
        launches = backward_launches(of, options, left, dy, dh_n, dc)

        def launched(dy: Tensor, index: int) -> Tensor:
            launches[index].dy_ptr = dy
            backward.backward(of.prepared.call, launches[index])
            if index == 0 and not needs_dx:
                return dy
            return gradients.of_x(left, launches[index].first_lane)

        dy = of.rows.of(dy.view(of.rows.N, -1))
        dx = stack.run_back(dy, len(launches), launched, of.drop)
        dweights, dh0 = gradients.of_weights(left, samples), gradients.of_first(left)
        dx = of.rows.filled(dx).view_as(x) if needs_dx else x.new_empty(0)
        return dx, dh0, dc.to(c0.dtype), dweights


def buffers(
    of: Stack, options: dict[str, Tensor], y: Tensor, h: Tensor, c: Tensor, gates: Tensor
) -> gradients.BackwardBuffers:
    """Allocate what the launches of a backward write, beside what the forward left."""
    kernels, rows, (L, D, _, H, _, P) = of.prepared.cell, of.rows, of.shape
    N, norm, c, raw_ih, raw_hh = rows.N, of.cell.layer_norm, c.contiguous(), None, None
    if norm:
        c, raw_ih, raw_hh = planes(c.view(-1, N, kernels.states * H), L, kernels)
    outputs = [*h.contiguous().view(-1, N, D * P).unbind(), y.contiguous().view(N, D * P)]
    dgates = of.x.new_empty(L, N, launch.gradient_columns(of.cell) * H)
    left = gradients.BackwardBuffers(
        rows=rows,
        D=D,
        layers=of.layers,
        cell=of.cell,
        kernels=kernels,
        seed=of.seed,
        not_reset=of.not_reset,
        drop=of.drop,
        c0=of.c0,
        x=rows.of(of.x),
        h0=of.h0,
        outputs=[rows.of(output) for output in outputs],
        gates=gates.contiguous(),
        c=c,
        dgates=dgates,
        by_gates=[rows.of(lane) for lane in dgates.unbind()],
        h_mask=options.get("h_mask_ptr"),
        dh_old=options.get("dh_old_ptr"),
        raw_ih=raw_ih,
        raw_hh=raw_hh,
    )
    if norm or kernels.apart:
        left.by_h = of.x.new_empty(L, N, kernels.by_h * H)
    if of.shape.projected:
        left.dh = of.x.new_empty(L, N, P)
    if "weight_ptr" in options:
        left.dweight = of.c0.new_empty(L, N, options["weight_ptr"].shape[1])
    if norm:
        left.stats = gradients.statistics(left)
        left.dseen = of.c0.new_empty(L, N, H)
    return left


def backward_launches(
    of: Stack,
    options: dict[str, Tensor],
    left: gradients.BackwardBuffers,
    dy: Tensor,
    dh_n: Tensor | None,
    dc: Tensor,
) -> list[backward.Arguments]:
    """Return the arguments of each launch, except the gradients by its output."""
    prepared, (L, _, B, _, _, P) = of.prepared, of.shape
    plan, count = prepared.call.plan, prepared.count
    partial_sums = of.c0.new_empty(plan.layers, plan.split, B, P) if plan.split > 1 else None
    space = launch.workspace(plan, of.x, (L, 2, prepared.exchanged), count)
    lanes = launch.by_launch(
        count, dh_n_ptr=of.h0 if dh_n is None else dh_n, gates_ptr=left.gates, c0_ptr=of.c0,
        c_ptr=left.c, dc_ptr=dc, dgates_ptr=left.dgates, exchange_ptr=space.exchange,
        barrier_ptr=space.counters, between_ptr=space.between, dh_ptr=left.dh,
        by_h_ptr=left.by_h, raw_ptr=left.raw_hh, stats_ptr=left.stats, dseen_ptr=left.dseen,
        dweight_ptr=left.dweight, **options,
    )  # fmt: skip
    return [
        backward.Arguments(
            dy_ptr=dy,
            partial_ptr=partial_sums,
            last=0 if dh_n is None else B,  # of dh_n: else nothing reads what stands for it
            first_lane=index * plan.layers,
            **lanes[index],
            **of.arguments(index),
        )
        for index in range(count)
    ]


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
    of: Stack, dh_n: Tensor | None, dc_n: Tensor | None
) -> tuple[Tensor | None, Tensor]:
    """Return dh [L, B, P] and dc [L, B, S*H] for the launches, which write to dc.

    Where dh_n and dc_n are None and all rows are as long, dh is None and dc has no values yet.
    """
    if dh_n is None and dc_n is None and of.rows.offset is None:
        return None, torch.empty_like(of.c0)
    dh = torch.zeros_like(of.h0) if dh_n is None else dh_n.contiguous()
    if dc_n is None:
        return dh, torch.zeros_like(of.c0)
    return dh, dc_n.to(of.c0.dtype, copy=True).contiguous()
