"""The operators `recurrence` and `recurrence_backward` of fused_lstm.ops: heads are lanes.

Heads do not depend on each other, so that a launch of forward.py and backward.py has as many as run
at once, each with its own barrier; a head that fits one program is left to it. Around the launches
x's part of the gates, the states and the gradients are rearranged: operators have heads side by
side in a row, kernels one after another.

T, B, H, N, K: time steps, batch, hidden size, heads, units of a head. R: rows of all steps. X, G:
gates that x, and that h, has a part in. S: a cell's states.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..recurrence import Cell, by_state, heads_first
from ..reference import state_dtype
from ..spec import Spec
from . import backward, devices, forward, launch, tuned
from . import precision as switches
from .choice import choose
from .packed import Rows, not_reset
from .plan import Plan


def plan_of(direction: str, weight_hh: Tensor, B: int, tf32: bool) -> Plan:
    """Return the launch for these weights [N, G*K, K] and B rows of batch."""
    N, columns, K = weight_hh.shape
    card = tuned.measured(devices.current(weight_hh.device))
    chosen = choose(
        direction, hidden=K, batch=B, layers=1, heads=N, dtype=launch.NAMES[weight_hh.dtype],
        device=card, tf32=tf32, gates=columns // K,
    )  # fmt: skip
    return tuned.of(chosen, card)


@lru_cache(4096)
def call_of(
    plan: Plan, cell: Spec, save: bool, varlen: bool, resets: bool, reverse: bool, width: int
) -> launch.Call:
    """Return a plan's launches, made once for all calls that are alike."""
    return launch.call(
        plan, cell, save=save, varlen=varlen, resets=resets, reverse=reverse, width=width
    )


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
    keep: Tensor | None = None,
    clip: float = 0.0,
    precision: str | None = None,
) -> tuple[Tensor, ...]:
    """Run the forward operator, as fused_lstm.ops describes it."""
    N, _, K = weight_hh.shape
    shape, B, dtype = x_part.shape[:-1], len(h0), x_part.dtype
    state, spec, rows = state_dtype(dtype), Cell(cell).spec, Rows(x_part, B, batch_sizes)
    kernels, R = launch.kernel_cell(spec), rows.N
    tf32 = dtype == torch.float32 and switches.tf32()
    plan, mask = plan_of("forward", weight_hh, B, tf32), not_reset(keep)
    varlen = rows.offset is not None
    call = call_of(plan, spec, save, varlen, mask is not None, reverse, N * K)
    columns, X, S = kernels.columns, kernels.by_x, kernels.states

    y = x_part.new_empty(R, N * K)
    c = x_part.new_empty(N, R if save else B, S * K, dtype=state)
    # An sLSTM's gradients by i are differences.
    gates = x_part.new_empty(N, R, columns * K, dtype=state if S > 1 else dtype)
    gates[..., (columns - X) * K :] = heads_first(x_part.reshape(R, -1), N, K)
    first_states = heads_first(c0.to(state), N, K).contiguous()
    bias = x_part.new_zeros(N, (X + kernels.of_h) * K)
    if bias_m is not None:
        bias[:, X * K :] = heads_first(bias_m, N, K)
    count, weight = N // plan.layers, weight_hh.contiguous()
    exchange, _, counters = launch.workspace(plan, x_part, (1, N, 2), count)
    fed = heads_first(h0, N, K)
    fed = switches.rounded(fed) if plan.rounds else fed
    launch.first_rows(exchange, N, B, K, 2 if varlen else 1).copy_(fed)
    for index in range(count):
        lanes = slice(index * plan.layers, (index + 1) * plan.layers)
        tensors = forward.Tensors(
            gates[lanes], None, (weight[lanes],), None, (bias[lanes],), first_states[lanes],
            c[lanes], y, y[:, lanes.start * K :], exchange[0, lanes], counters[index], rows.offset,
            mask,
        )  # fmt: skip
        forward.forward(call, tensors, rows.T)
    if rows.live < R:
        y[rows.live :].zero_()
    last = rows.ends([c], last=not reverse) if save else c
    return (
        y.view(*shape, N * K),
        rows.ends([y[None]], last=not reverse)[0],
        by_state(last, S).to(c0.dtype) if spec.has_c else c0.new_empty(0),
        c.view(N, *shape, S * K) if save else c.new_empty(0),
        gates.view(N, *shape, columns * K) if save and kernels.saved else gates.new_empty(0),
    )


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
    keep: Tensor | None = None,
    clip: float = 0.0,
    precision: str | None = None,
) -> tuple[Tensor, ...]:
    """Run the backward operator, as fused_lstm.ops describes it."""
    N, _, K = weight_hh.shape
    shape, B, state, rows = y.shape[:-1], len(h0), c.dtype, Rows(y, len(h0), batch_sizes)
    spec, R = Cell(cell, reverse, float(clip > 0)).spec, rows.N  # compiled once for any clip
    kernels, tf32 = launch.kernel_cell(spec), y.dtype == torch.float32 and switches.tf32()
    plan, mask = plan_of("backward", weight_hh, B, tf32), not_reset(keep)
    call = call_of(plan, spec, True, rows.offset is not None, mask is not None, reverse, N * K)
    X, G = kernels.by_x, kernels.by_h

    dgates = y.new_empty(N, R, X * K)
    by_h = y.new_empty(N, R, G * K) if kernels.apart else dgates
    dc = c.new_zeros(N, B, kernels.states * K)
    if dc_n is not None and spec.has_c:
        dc.copy_(heads_first(dc_n, N, K))
    by_y = torch.zeros_like(y) if dy is None else dy.contiguous()
    last = y.new_zeros(N, B, K) if dh_n is None else heads_first(dh_n, N, K).contiguous()
    first_states = heads_first(c0.to(state), N, K).contiguous()
    count, weight = N // plan.layers, weight_hh.contiguous()
    partial_sums = c.new_empty(plan.layers, plan.split, B, K) if plan.split > 1 else None
    exchanged = launch.exchanged(plan, spec)
    exchange, _, counters = launch.workspace(plan, y, (N, 2, exchanged), count)
    c, gates = c.view(N, R, -1), gates.view(N, R, -1) if kernels.saved else c
    for index in range(count):
        lanes = slice(index * plan.layers, (index + 1) * plan.layers)
        tensors = backward.Tensors(
            by_y.view(R, -1)[:, lanes.start * K :], last[lanes], gates[lanes], None,
            (weight[lanes],), None, first_states[lanes], c[lanes], dc[lanes], dgates[lanes],
            exchange[lanes], partial_sums, counters[index], rows.offset, mask, by_h=by_h[lanes],
        )  # fmt: skip
        backward.backward(call, tensors, rows.T, clip=float(clip))

    # What needs no order in time: the gradients of weights, and by h0 of the rows that begin.
    live = by_h[:, : rows.live]
    with switches.matmul_as_rnn(y.dtype):
        dh0 = rows.ends([by_h], last=reverse) @ weight
        if clip > 0:
            dh0 = dh0.clamp(-clip, clip)
        before = rows.before(rows.of(y.reshape(R, -1)), h0, int(reverse))
        if mask is not None:
            kept = mask.view(torch.bool).reshape(1, R, 1)
            dh0 = torch.where(rows.ends([kept], last=reverse), dh0, 0.0)
            before = torch.where(rows.of(kept[0]), before, 0.0)
        dweight = live.mT @ heads_first(before, N, K)
    dbias_m = y.new_empty(0)
    if bias_m is not None:
        dbias_m = by_state(live[..., kernels.sums * K :].sum(1), kernels.of_h)
    dx = by_state(dgates, X)
    if rows.live < R:
        dx[rows.live :].zero_()
    return (
        dx.view(*shape, X * N * K),
        by_state(dh0, 1),
        by_state(dc, kernels.states).to(c0.dtype),
        dweight,
        dbias_m,
    )
