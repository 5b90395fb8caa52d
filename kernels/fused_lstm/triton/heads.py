"""The operators `recurrence` and `recurrence_backward` of fused_lstm.operator.ops: heads are lanes.

Heads do not depend on each other, so that a launch of forward.py and backward.py has as many as run
at once, each with its own barrier; a head that fits one program is left to it. Around the launches
x's part of the gates, the states and the gradients are rearranged: operators have heads side by
side in a row, kernels one after another.

T, B, H, N, K: time steps, batch, hidden size, heads, units of a head. R: rows of all steps. X, G:
gates that x, and that h, has a part in. S: a cell's states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..call.spec import Spec
from ..operator.recurrence import LaneCell, by_state, heads_first
from ..reference import state_dtype
from . import launch, op, precision
from .packed import LaneRows, as_bytes


@dataclass(kw_only=True, eq=False, slots=True)
class Heads:
    """Arguments of both operators, parsed before either begins."""

    planned: op.Planned
    rows: LaneRows
    weight: Tensor  # [N, G*K, K]
    not_reset: Tensor | None
    c0: Tensor  # [N, B, S*K] state dtype
    reverse: bool

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of every launch that both kernels have from the call."""
        return {
            "w_hh_ptrs": (self.weight,),
            "offset_ptr": self.rows.offset,
            "not_reset_ptr": self.not_reset,
            "T": self.rows.T,
            "B": self.rows.B,
        }

    def run(self, arguments: launch.Arguments) -> None:
        """Run all launches."""
        launches = self.planned.launches
        for index in range(self.planned.count):
            launches.run(arguments, self.rows.T, first_lane=index * launches.plan.layers)


def parsed(
    direction: str,
    *,
    save: bool,
    x: Tensor,
    c0: Tensor,
    weight_hh: Tensor,
    spec: Spec,
    reverse: bool,
    batch_sizes: Tensor | None,
    not_reset: Tensor | None,
    by_states: bool = False,
) -> Heads:
    """Return a call's arguments with its launches; x: [.., .] with the call's rows."""
    N, _, K = weight_hh.shape
    rows, dtype = LaneRows(x, len(c0), batch_sizes), weight_hh.dtype
    planned = op.plan_call(
        op.plan_of, op.settings(), direction=direction, fuse="heads", dtype=dtype,
        device=weight_hh.device, shape=op.Shape(L=N, D=1, B=rows.B, H=K, projected=0, P=K),
        cell=spec, varlen=rows.offset is not None, resets=not_reset is not None, save=save,
        states=c0.dtype, tf32=dtype == torch.float32 and precision.tf32(), reverse=reverse,
        by_states=by_states,
    )  # fmt: skip
    return Heads(
        planned=planned,
        rows=rows,
        weight=weight_hh.contiguous(),
        not_reset=as_bytes(not_reset),
        c0=heads_first(c0.to(state_dtype(dtype)), N, K).contiguous(),
        reverse=reverse,
    )


# --- forward ---


def recurrence(
    x_part: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_hh: Tensor,
    bias_m: Tensor | None,
    cell: str,
    save: bool,
    reverse: bool = False,
    batch_sizes: Tensor | None = None,
    not_reset: Tensor | None = None,
    clip: float = 0.0,
) -> tuple[Tensor, ...]:
    """Run the forward operator, as fused_lstm.operator.ops describes it."""
    of = parsed(
        "forward", save=save, x=x_part, c0=c0, weight_hh=weight_hh, spec=LaneCell(cell).spec,
        reverse=reverse, batch_sizes=batch_sizes, not_reset=not_reset,
    )  # fmt: skip
    (N, _, K), shape, rows = weight_hh.shape, x_part.shape[:-1], of.rows
    X, S, columns = of.planned.cell.by_x, of.planned.cell.states, of.planned.columns
    y = x_part.new_empty(rows.N, N * K)
    c = of.c0.new_empty(N, rows.N if save else rows.B, S * K)
    gates = y.new_empty(N, rows.N, columns * K, dtype=of.planned.saved)
    gates[..., (columns - X) * K :] = heads_first(x_part.reshape(rows.N, -1), N, K)
    bias = y.new_zeros(N, (X + of.planned.cell.of_h) * K)
    if bias_m is not None:
        bias[:, X * K :] = heads_first(bias_m, N, K)
    h_n, c_n = y.new_empty(N, rows.B, K), c0.new_empty(N, rows.B, S * K)
    launches = of.planned.launches
    space = launch.workspace(launches.plan, y, (1, N, 2), of.planned.count)
    launch.feed(space.exchange, heads_first(h0, N, K), launches.plan, rows.offset is not None)
    arguments = launches.arguments(
        gates_ptr=gates, bias_ptrs=(bias,), c0_ptr=of.c0, c_ptr=c, h_n_ptr=h_n, c_n_ptr=c_n,
        h_ptr=y, y_ptr=y, exchange_ptr=space.exchange, barrier_ptr=space.counters, top=N - 1,
        **of.arguments(),
    )  # fmt: skip
    of.run(arguments)
    rows.clear(y)
    return (
        y.view(*shape, N * K),
        by_state(h_n, 1),
        by_state(c_n, S) if of.planned.spec.has_c else c0.new_empty(0),
        c.view(N, *shape, S * K) if save else c.new_empty(0),
        gates.view(N, *shape, columns * K)
        if save and of.planned.cell.saved
        else gates.new_empty(0),
    )


# --- backward ---


def recurrence_backward(
    dy: Tensor | None,
    dh_n: Tensor | None,
    dc_n: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    weight_hh: Tensor,
    bias_m: Tensor | None,
    y: Tensor,
    c: Tensor,
    gates: Tensor,
    cell: str,
    reverse: bool = False,
    batch_sizes: Tensor | None = None,
    not_reset: Tensor | None = None,
    clip: float = 0.0,
    dc: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Run the backward operator, as fused_lstm.operator.ops describes it."""
    of = parsed(
        "backward", save=True, x=y, c0=c0, weight_hh=weight_hh, reverse=reverse,
        spec=LaneCell(cell, reverse, float(clip > 0)).spec,  # compiled once for any clip
        batch_sizes=batch_sizes, not_reset=not_reset, by_states=dc is not None,
    )  # fmt: skip
    (N, _, K), rows, kernels = weight_hh.shape, of.rows, of.planned.cell
    dgates = y.new_empty(N, rows.N, kernels.by_x * K)
    by_h = y.new_empty(N, rows.N, kernels.by_h * K) if kernels.apart else dgates
    running = torch.zeros_like(of.c0)
    if dc_n is not None and of.planned.spec.has_c:
        running.copy_(heads_first(dc_n, N, K))
    dy = torch.zeros_like(y) if dy is None else dy.contiguous()
    last = y.new_zeros(N, rows.B, K) if dh_n is None else heads_first(dh_n, N, K).contiguous()
    c = c.view(N, rows.N, -1)
    gates = gates.view(N, rows.N, -1) if kernels.saved else c
    launches, count = of.planned.launches, of.planned.count
    plan = launches.plan
    partial_sums = c.new_empty(plan.layers, plan.split, rows.B, K) if plan.split > 1 else None
    space = launch.workspace(plan, dy, (N, 2, of.planned.exchanged), count)
    arguments = launches.arguments(
        dy_ptr=dy, dh_n_ptr=last, gates_ptr=gates, c0_ptr=of.c0, c_ptr=c, dc_ptr=running,
        dstates_ptr=None if dc is None else dc.contiguous(),
        dgates_ptr=dgates, exchange_ptr=space.exchange, barrier_ptr=space.counters,
        by_h_ptr=by_h, partial_ptr=partial_sums, last=rows.B, clip=float(clip), **of.arguments(),
    )  # fmt: skip
    of.run(arguments)
    dh0, dweight = after(of, h0, y, by_h, clip)
    dbias_m = y.new_empty(0)
    if bias_m is not None:
        alone = by_h[:, : rows.live, kernels.sums * K :]
        dbias_m = by_state(alone.sum(1), kernels.of_h)
    dx = by_state(dgates, kernels.by_x)
    rows.clear(dx)
    return (
        dx.view(*y.shape[:-1], -1),
        by_state(dh0, 1),
        by_state(running, kernels.states).to(c0.dtype),
        dweight,
        dbias_m,
    )


def after(of: Heads, h0: Tensor, y: Tensor, by_h: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Return what needs no order in time: the gradients by h0 [N, B, K] and by weight_hh.

    by_h: [N, R, G*K], the gradient by h's part of the gates in all steps.
    """
    (N, _, K), rows, R, mask = of.weight.shape, of.rows, of.rows.N, of.not_reset
    with precision.matmul_as_rnn(y.dtype):
        dh0 = rows.ends([by_h], last=of.reverse) @ of.weight
        if clip > 0:
            dh0 = dh0.clamp(-clip, clip)
        before = rows.before(rows.of(y.reshape(R, -1)), h0, int(of.reverse))
        if mask is not None:
            kept = mask.view(torch.bool).reshape(1, R, 1)
            dh0 = torch.where(rows.ends([kept], last=of.reverse), dh0, 0.0)
            before = torch.where(rows.of(kept[0]), before, 0.0)
        dweight = by_h[:, : rows.live].mT @ heads_first(before, N, K)
    return dh0, dweight
