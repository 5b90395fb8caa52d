"""The operators `lstm` and `lstm_backward` of operator.ops: large products around the launches.

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
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..call.spec import CELLS, RECURRENT, Spec, Units, cell_of
from ..operator.ops import saved_dtype
from ..reference import Layer, as_wide, by_layer, spread, stack, state_dtype
from ..reference.pointwise import normalized, scaled
from . import devices, gradients, launch, philox, precision, rounding, tuned
from .cells import KernelCell
from .choice import choose
from .packed import LaneRows, as_bytes
from .plan import Plan

OF_NCCL = 8  # multiprocessors that a plan leaves to NCCL's kernels

# --- the launches of a call, before its tensors ---


class Shape(NamedTuple):
    L: int  # of heads their number
    D: int
    B: int
    H: int  # of a head
    projected: int  # P where h is projected, else 0
    P: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Planned:
    """The launches of an operator's call, and what else does not depend on its tensors."""

    launches: launch.Launches
    spec: Spec
    shape: Shape
    order: tuple[Any, ...]  # of a lane's weights: of each field of Layer the number
    fields: Callable[[tuple], tuple]  # Layer's but the last, of a lane's weights and None behind
    cell: KernelCell
    count: int  # of launches
    rounds_before: bool  # whether weights are rounded to TF32 before the launches
    copies: int  # of the exchange: 2 where the lane above does not read what w_hh is fed
    slots: int  # of a lane's exchange in the forward
    columns: int  # of the buffer of x's parts and of what is saved
    exchanged: int  # columns of the backward's exchange
    saved: torch.dtype  # of what a step saves beside c
    is_fused: bool  # one launch has all lanes
    reverse: bool  # lanes run from the last step to the first


@lru_cache(4096)
def plan_call(
    make_plan: Callable[..., Plan],
    settings: tuple,  # on which `make_plan` depends
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
    states: torch.dtype,
    dropout: float = 0.0,
    draws: bool = False,
    many_steps: bool = False,
    reverse: bool = False,
    by_states: bool = False,
    order: tuple[Any, ...] = (),
) -> Planned:
    """Return the launches of a call, made once for all calls that are alike.

    fuse: as the operator's, or "heads". states: the dtype of c0, in which the forward's kernel
    stores c_n: a launch's kernel is one for all calls that are alike. many_steps: whether there are
    rounding.STEPS or more. reverse: lanes run from the last step to the first. by_states: of a
    backward, whether there are gradients by every state. order: as Planned has it.
    """
    kernels, norm = launch.kernel_cell(cell), launch.norms(cell)
    if fuse == "layers" and (kernels.of_x != kernels.of_h or kernels.meetings):
        fuse = "steps"  # a wave multiplies x by as many rows as h, and does not meet inside a step
    plan = make_plan(
        fuse, direction, dtype, device, shape, norm=norm, gates=kernels.by_h, inner=kernels.inner,
        inside=kernels.inside(direction), tf32=tf32,
    )  # fmt: skip
    inside = dropout if plan.kind == "layers" else 0.0  # between lanes of a launch
    rounds_before = plan.rounds and plan.streams and many_steps
    recurrent = draws and cell.recurrent_dropout > 0
    return Planned(
        launches=launch.launches(
            plan, cell, save=save or bool(kernels.meetings), p=inside, varlen=varlen, resets=resets,
            draws=draws, rounded=rounds_before, reverse=reverse,
            width=shape.L * shape.P if fuse == "heads" else 0, by_states=by_states,
        ),
        spec=cell,
        shape=shape,
        order=order,
        fields=itemgetter(*[-1 if n is None else n for n in order[:-1]]) if order else tuple,
        cell=kernels,
        count=shape.L // plan.layers,
        rounds_before=rounds_before,
        copies=2 if inside > 0 or (recurrent and plan.kind == "layers") else 1,
        slots=launch.slots(plan, cell),
        columns=launch.columns(cell, shape.projected > 0),
        exchanged=launch.exchanged(plan, cell),
        saved=saved_dtype("triton", cell, dtype),
        is_fused=plan.kind == "layers",
        reverse=reverse,
    )  # fmt: skip


class Key(NamedTuple):
    """Hold what the launches of a call of `lstm` depend on, as it is quickly compared."""

    make_plan: Callable[..., Plan]
    settings: tuple  # on which `make_plan` depends
    direction: str
    save: bool
    tf32: bool
    dtype: torch.dtype
    device: torch.device
    h0: torch.Size
    c0: torch.Size
    states: torch.dtype  # c0's
    weights: int  # how many there are
    of_lane: tuple[torch.Size, ...]  # the shapes of the first lane's
    dropout: float
    fuse: str
    directions: int
    varlen: bool
    resets: bool
    draws: bool
    many_steps: bool
    by_states: bool
    cell: str
    rates: tuple[float, ...]


@lru_cache(4096)
def planned_for(key: Key) -> Planned:
    """Return the launches of all calls of `lstm` that are alike."""
    spec = cell_of(key.cell, key.rates)
    (numbered, *_) = by_layer(range(key.weights), key.h0[0], spec)
    w_hr = None if numbered.w_hr is None else key.of_lane[numbered.w_hr]
    shape = _shape(key.h0, key.c0, w_hr, abs(key.directions), spec.c_parts)
    spec = _with_units(spec, shape.H, [key.of_lane[n] for n in numbered.w_inner or ()])
    return plan_call(
        key.make_plan, key.settings, direction=key.direction, fuse=key.fuse, dtype=key.dtype,
        device=key.device, shape=shape, cell=spec, varlen=key.varlen, resets=key.resets,
        save=key.save, tf32=key.tf32, states=key.states, dropout=key.dropout, draws=key.draws,
        many_steps=key.many_steps, by_states=key.by_states, reverse=key.directions < 0,
        order=tuple(numbered),
    )  # fmt: skip


def _with_units(spec: Spec, H: int, inner: list[torch.Size]) -> Spec:
    """Return a spec with the units of a step's values; inner: the shapes of its products' weights.

    Raises:
        ValueError: a value has more than H.
    """
    kind = CELLS[spec.cell]
    made = tuple(shape[0] // columns for shape, columns in zip(inner, kind.inner, strict=True))
    factors = tuple(shape[1] for shape in inner)
    if all(n == H for n in (*made, *factors)):
        return spec
    if (most := max(*made, *factors)) > H:
        raise ValueError(f"weights: got {most} units of a product; expected at most {H}, h's")
    units = Units(H, made, factors, narrow=True)
    inputs = kind.cell.widths_of("inputs", H, units)
    return replace(spec, units=units._replace(inputs=tuple(inputs)))


def settings() -> tuple[bool, bool, frozenset[Plan]]:
    """Return what plans depend on: whether algorithms are deterministic, whether NCCL runs, and the
    plans that a GPU has refused.
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return (
        torch.are_deterministic_algorithms_enabled(), distributed, frozenset(launch.REFUSED)
    )  # fmt: skip


def card_of(device: torch.device) -> devices.Device:
    """Return the card that plans are made for: this one, without what NCCL needs."""
    card = tuned.measured(devices.current(device))
    if settings()[1]:
        # All programs of a launch start at once or not at all: they would wait for a reduction.
        card = replace(card, sms=card.sms - OF_NCCL)
    return card


def plan_of(
    fuse: str,
    direction: str,
    dtype: torch.dtype,
    device: torch.device,
    shape: Shape,
    *,
    norm: int,
    gates: int,
    inner: tuple[int, ...] = (),
    inside: int = 0,
    tf32: bool,
) -> Plan:
    """Return the launch for these tensors: of all lanes, both of a layer, one, or some heads."""
    card, (*_, refused) = card_of(device), settings()
    chosen = choose(
        direction, hidden=shape.H, batch=shape.B, layers=shape.L if fuse == "layers" else 1,
        directions=shape.D, dtype=launch.NAMES[dtype], device=card, tf32=tf32,
        projected=shape.projected, norm=norm, gates=gates, inner=inner, inside=inside,
        heads=shape.L if fuse == "heads" else 0, refused=refused,
    )  # fmt: skip
    timed = tuned.of(chosen, card)
    return chosen if timed in refused else timed


# --- a call's arguments ---


# A kernel's arguments -> the field of each lane's Layer.
WEIGHTS = {f"{name}_ptrs": name for name in ("w_ih", "w_hh", "w_hr")}


@dataclass(kw_only=True, eq=False, slots=True)
class Parsed:
    """Arguments of both operators, parsed before either begins."""

    planned: Planned
    rows: LaneRows
    layers: list[Layer]
    multiplied: list[Layer]  # as the launches multiply by their weights: rounded, or the same
    seed: Tensor | None
    not_reset: Tensor | None
    drop: stack.Drop | None
    x: Tensor  # [N, I]
    h0: Tensor  # [L, B, P]
    c0: Tensor  # [L, B, S*H] state dtype

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that both kernels have from the call."""
        return {
            "offset_ptr": self.rows.offset,
            "not_reset_ptr": self.not_reset,
            "seed_ptr": self.seed,
            "T": self.rows.T,
            "B": self.rows.B,
        }

    def weights(self, index: int) -> dict[str, Any]:
        """Return the arguments of launch number `index` that the one before does not have."""
        lanes = self.planned.launches.plan.layers
        layers = self.multiplied[index * lanes : (index + 1) * lanes]
        found: dict[str, Any] = {"first_lane": index * lanes}
        for argument, name in WEIGHTS.items():
            if getattr(layers[0], name) is not None:
                found[argument] = tuple([getattr(layer, name) for layer in layers])
        if layers[0].w_inner:  # as `_multiplied` joins them
            found["w_inner_ptrs"] = tuple([layer.w_inner[0] for layer in layers])
        return found


def parsed(
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
    not_reset: Tensor | None,
    cell: str,
    rates: Sequence[float],
    by_states: bool = False,
) -> Parsed:
    """Return a call's arguments, checked, with its launches."""
    # A tensor's `len` is Python, and its shape is not.
    T, each = (x if batch_sizes is None else batch_sizes).shape[0], len(weights) // h0.shape[0]
    planned = planned_for(Key(
        make_plan=plan_of, settings=settings(), direction=direction, save=save,
        tf32=x.dtype == torch.float32 and precision.tf32(), dtype=x.dtype, device=x.device,
        h0=h0.shape, c0=c0.shape, states=c0.dtype, weights=len(weights),
        of_lane=tuple([w.shape for w in weights[:each]]), dropout=dropout, fuse=fuse,
        directions=directions, varlen=batch_sizes is not None, resets=not_reset is not None,
        draws=seed is not None, many_steps=T >= rounding.STEPS, by_states=by_states, cell=cell,
        rates=tuple(rates),
    ))  # fmt: skip
    shape, rows = planned.shape, LaneRows(x, h0.shape[1], batch_sizes)
    weights = [w.contiguous() for w in weights]
    layers = []
    for first in range(0, len(weights), each):
        lane = (*weights[first : first + each], None)
        layer = planned.fields(lane)
        inner = planned.order[-1]
        layers.append(Layer(*layer, inner and tuple([lane[n] for n in inner])))
    drop = None
    if dropout > 0:
        drop = partial(philox.apply, dropout, seed, rows.N * shape.D * shape.P)
    return Parsed(
        planned=planned,
        rows=rows,
        layers=layers,
        multiplied=_multiplied(layers, planned),
        seed=seed,
        not_reset=as_bytes(not_reset),
        drop=drop,
        x=x.contiguous().view(rows.N, x.shape[-1]),
        h0=h0.contiguous(),
        c0=c0.to(state_dtype(x.dtype)).contiguous(),
    )


def _multiplied(layers: list[Layer], planned: Planned) -> list[Layer]:
    """Return the layers with the weights that the launches multiply by, rounded to TF32 or not.

    Those of products inside a step lie one behind the other.
    """
    if not (planned.rounds_before or layers[0].w_inner):
        return layers
    each: list[dict[str, Tensor]] = []
    for lane, layer in enumerate(layers):
        each.append({"w_hh": layer.w_hh})
        if layer.w_hr is not None:
            each[-1]["w_hr"] = layer.w_hr
        if layer.w_inner:
            each[-1]["w_inner"] = torch.cat(_of_all_units(layer.w_inner, planned))
        if planned.is_fused and lane > 0:
            each[-1]["w_ih"] = layer.w_ih
    found = [w for weights in each for w in weights.values()]
    multiplied = iter(rounding.rounded(found) if planned.rounds_before else found)
    made = []
    for layer, weights in zip(layers, each, strict=True):
        new: dict[str, Any] = dict(zip(weights, multiplied, strict=False))
        if "w_inner" in new:
            new["w_inner"] = (new["w_inner"],)
        made.append(layer._replace(**new))
    return made


def _of_all_units(weights: Sequence[Tensor], planned: Planned) -> Sequence[Tensor]:
    """Return products' weights [columns * H, H]: zeros behind the units that values have."""
    units, H = planned.spec.units, planned.shape.H
    if units is None:
        return weights
    wide = []
    for w, made, factor in zip(weights, units.products, units.factors, strict=True):
        each = w.view(-1, made, factor)
        wide.append(pad(each, (0, H - factor, 0, H - made)).flatten(0, 1))
    return wide


def _shape(
    h0: torch.Size, c0: torch.Size, w_hr: torch.Size | None, directions: int, states: int
) -> Shape:
    lanes, B, columns = c0
    P, H = (columns // states,) * 2 if w_hr is None else w_hr
    for name, state, size in (("c0", c0, states * H), ("h0", h0, P)):
        if state != (lanes, B, size):
            by = "as c0" if w_hr is None else "by weight_hr"
            raise ValueError(f"{name}: got shape {[*state]}; expected {[lanes, B, size]}, {by}")
    return Shape(L=lanes, D=directions, B=B, H=H, projected=0 if w_hr is None else P, P=P)


# --- buffers ---


def option_tensors(of: Parsed, direction: str) -> dict[str, Tensor]:
    """Return the tensors of all lanes that only options of a cell need, as a kernel's arguments."""
    cell, (L, _, B, H, _, P) = of.planned.spec, of.planned.shape
    tensors: dict[str, Tensor] = {}
    if of.layers[0].w_ch is not None:
        tensors["weight_ptr"] = torch.stack([w.w_ch for w in of.layers])
    plan = of.planned.launches.plan
    if totals := of.planned.cell.totals:
        tensors["shares_ptr"] = of.c0.new_empty(L, totals, plan.parts, B)
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
        zeros = of.c0.new_zeros(H)
        gains = [(w.gain_hh, w.gain_c, w.b_c) for w in of.layers]
        tensors["gain_ptr"] = torch.stack(
            [torch.cat([zeros if w is None else w for w in each]).to(zeros.dtype) for each in gains]
        )
        tensors["shares_ptr"] = of.c0.new_empty(L, 4 * plan.parts * B)
    return tensors


def planes(c: Tensor, L: int, cell: KernelCell) -> tuple[Tensor, Tensor, Tensor]:
    """Return c and the raw products by x [L, N, X*H] and by h [L, N, G*H].

    With layer norm these lie behind c, in as many planes of its size as they take.
    """
    N, H = c.shape[1:-1].numel(), c.shape[-1] // cell.states
    behind, of_x = c[L:].flatten(), L * N * cell.by_x * H
    by_h = behind[of_x : of_x + L * N * cell.by_h * H]
    return c[:L], behind[:of_x].view(L, N, -1), by_h.view(L, N, -1)


def numbers_behind(c: Tensor, L: int, count: int) -> Tensor:
    """Return the numbers of a row that a step saves [L, N, count], in planes behind those of c."""
    N = c.shape[1:-1].numel()
    return c[L:].flatten()[: L * N * count].view(L, N, count)


def biases(of: Parsed) -> tuple[Tensor, ...]:
    """Return each lane's bias [(X + OF_H) * H]: of x's parts, then of h's that stay alone.

    Of a gate that is a sum only the biases' sum appears.
    """
    layers, H, cell = of.layers, of.planned.shape.H, of.planned.cell
    if layers[0].b_ih is None:
        return (of.x.new_zeros((cell.by_x + cell.of_h) * H),) * len(layers)
    if not cell.apart:
        return tuple(torch._foreach_add([w.b_ih for w in layers], [w.b_hh for w in layers]))
    both, layers = cell.sums * H, [as_wide(layer, of.planned.spec) for layer in layers]
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
    """Run the operator `lstm` of fused_lstm.operator.ops."""
    with precision.matmul_as_rnn(x.dtype):
        of = parsed(
            "forward", save, x, h0, c0, weights, dropout, seed, fuse, directions, batch_sizes,
            not_reset, cell, rates,
        )  # fmt: skip
        planned, rows = of.planned, of.rows
        launches, (L, D, B, H, _, P) = planned.launches, planned.shape
        wide, columns = planned.cell.states * H, planned.columns * H
        keep = save or bool(planned.cell.meetings)  # phases read what earlier ones have saved
        y = of.x.new_empty(*rows.shape, D * P)
        h = of.x.new_empty(L // D - 1, *rows.shape, D * P)
        h_n, c_n = torch.empty_like(of.h0), c0.new_empty(c0.shape)
        c = kept = of.c0.new_empty(L, *(rows.shape if keep else (B,)), wide)
        raw_ih = raw_hh = None
        if save and planned.spec.layer_norm:
            behind = -(-(planned.cell.by_x + planned.cell.by_h) // planned.cell.states)
            kept = of.c0.new_empty((1 + behind) * L, *rows.shape, wide)
            c, raw_ih, raw_hh = planes(kept, L, planned.cell)
        numbers = None
        if count := sum(planned.cell.numbers):
            kept = of.c0.new_empty((1 + -(-count // wide)) * L, *rows.shape, wide)
            c, numbers = kept[:L], numbers_behind(kept, L, count)
        dtype = planned.saved if keep else x.dtype
        gates = of.x.new_empty(L if keep else D, *rows.shape, columns, dtype=dtype)
        lanes = gates.view(-1, rows.N, columns).unbind()

        options = option_tensors(of, "forward")
        sizes = planned.copies, L, planned.slots
        space = launch.workspace(launches.plan, of.x, sizes, planned.count)
        if planned.cell.by_h > 0:
            mask = options.get("h_mask_ptr")
            fed = of.h0 if mask is None else of.h0 * mask
            varlen = rows.offset is not None
            launch.feed(space.exchange, fed, launches.plan, varlen, planned.slots)
        bias, each = biases(of), launches.plan.layers
        arguments = launches.arguments(
            gates_ptr=gates, c0_ptr=of.c0, c_ptr=c, h_n_ptr=h_n, c_n_ptr=c_n, h_ptr=h, y_ptr=y,
            exchange_ptr=space.exchange, barrier_ptr=space.counters, between_ptr=space.between,
            raw_ptr=raw_hh, numbers_ptr=numbers, top=L - 1, **options, **of.arguments(),
        )  # fmt: skip

        def launched(x: Tensor, index: int) -> Tensor:
            first = index * each
            for lane in range(first, first + D):
                of_x = None if raw_ih is None else raw_ih[lane]
                multiply_x(of, x, lane, lanes[lane % len(lanes)], bias[lane], of_x)
            given = of.weights(index)
            launches.run(arguments, rows.T, bias_ptrs=bias[first : first + each], **given)
            return rows.of(h[index].view(rows.N, -1)) if index + 1 < planned.count else y

        stack.run(rows.of(of.x), planned.count, launched, of.drop)
        rows.clear(y)
    if not save:
        return y, h_n, c_n, y.new_empty(0), c.new_empty(0), y.new_empty(0)
    return y, h_n, c_n, h, kept, gates


def multiply_x(
    of: Parsed, x: Tensor, lane: int, gates: Tensor, bias: Tensor, raw: Tensor | None
) -> None:
    """Write x's part of a lane's gates [N, COLUMNS*H], biases included.

    raw: [N, X*H] out, with layer norm: what is normalized.
    """
    planned, layer, gates = of.planned, of.layers[lane], of.rows.of(gates)
    X, H = planned.cell.by_x, planned.shape.H
    if planned.columns > X:
        gates = gates[:, (planned.columns - X) * H :]
    if planned.cell.of_h > 0:
        bias = bias[: X * H]
    if count := CELLS[planned.spec.cell].inputs:  # behind x, and not multiplied
        own, I = (X - count) * H, layer.w_ih.shape[1]
        widths = [H] * count if (units := planned.spec.units) is None else units.inputs
        given = spread(x[:, I:], widths)
        if units is not None:
            given = torch.cat([pad(t, (0, H - t.shape[1])) for t in given.split(widths, 1)], 1)
        gates[:, own:].copy_(given)
        gates, bias, x = gates[:, :own], bias[:own], x[:, :I]
    if not planned.spec.layer_norm:
        if gates.dtype == x.dtype:
            torch.addmm(bias, x, layer.w_ih.T, out=gates)
        else:
            gates.copy_(torch.addmm(bias, x, layer.w_ih.T))
        return
    by_x = x @ layer.w_ih.T
    if raw is not None:
        of.rows.of(raw).copy_(by_x)
    x_hat, _ = normalized(by_x)
    gates.copy_(scaled(x_hat, layer.gain_ih, bias))


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
    dh: Tensor | None = None,
    dc: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Run the operator `lstm_backward` of fused_lstm.operator.ops."""
    _check_samples(samples, h0.shape[1], batch_sizes, cell)
    by_states = dh is not None or dc is not None
    with precision.matmul_as_rnn(x.dtype):
        of = parsed(
            "backward", True, x, h0, c0, weights, dropout, seed, fuse, directions, batch_sizes,
            not_reset, cell, rates, by_states,
        )  # fmt: skip
        launches = of.planned.launches
        dy = torch.zeros_like(y) if dy is None else dy.contiguous()
        dh_n, running = _last_gradients(of, dh_n, dc_n)
        options = option_tensors(of, "backward")
        left = buffers(of, options, y, h, c, gates)
        arguments = backward_arguments(of, options, left, dh_n, running)
        below = ()
        if by_states:
            arguments.set({"dstates_ptr": _by_states(left, dc)}, launch.positions("backward"))
            dy = dy.view(of.rows.N, -1)
            below = h.new_zeros(h.shape) if dh is None else dh
            below = below.reshape(-1, *dy.shape).unbind()
            if of.planned.is_fused:  # each lane reads its own
                dy = torch.stack([*below, dy])
        for index in reversed(range(of.planned.count)):
            if below and index + 1 < of.planned.count:
                dy = dy + of.rows.of(below[index])
            launches.run(arguments, of.rows.T, dy_ptr=dy, **of.weights(index))
            if index > 0 or needs_dx:
                dy = gradients.of_x(left, index * launches.plan.layers)
            if index > 0 and of.drop is not None:
                dy = of.drop(dy, index - 1)
        dweights, dh0 = gradients.of_weights(left, samples), gradients.of_first(left)
        dx = of.rows.filled(dy).view_as(x) if needs_dx else x.new_empty(0)
        return dx, dh0, running.to(c0.dtype), dweights


def buffers(
    of: Parsed, options: dict[str, Tensor], y: Tensor, h: Tensor, c: Tensor, gates: Tensor
) -> gradients.BackwardBuffers:
    """Allocate what the launches of a backward write, beside what the forward left."""
    kernels, spec, rows = of.planned.cell, of.planned.spec, of.rows
    (L, D, _, H, projected, P), N, norm = of.planned.shape, rows.N, spec.layer_norm
    c, raw_ih, raw_hh = c.contiguous(), None, None
    if norm:
        c, raw_ih, raw_hh = planes(c.view(-1, N, kernels.states * H), L, kernels)
    numbers = None
    if count := sum(kernels.numbers):
        c = c.view(-1, N, kernels.states * H)
        c, numbers = c[:L], numbers_behind(c, L, count)
    outputs = [*h.contiguous().view(-1, N, D * P).unbind(), y.contiguous().view(N, D * P)]
    dgates = of.x.new_empty(L, N, launch.gradient_columns(spec) * H)
    left = gradients.BackwardBuffers(
        rows=rows,
        D=D,
        reverse=of.planned.reverse,
        layers=of.layers,
        cell=spec,
        kernels=kernels,
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
        numbers=numbers,
    )
    if norm or kernels.apart:
        left.by_h = of.x.new_empty(L, N, kernels.by_h * H)
    if projected:
        left.dh = of.x.new_empty(L, N, P)
    if "weight_ptr" in options:
        left.dweight = of.c0.new_empty(L, N, options["weight_ptr"].shape[1])
    if norm:
        left.stats = gradients.statistics(left)
        left.dseen = of.c0.new_empty(L, N, H)
    return left


def backward_arguments(
    of: Parsed,
    options: dict[str, Tensor],
    left: gradients.BackwardBuffers,
    dh_n: Tensor | None,
    dc: Tensor,
) -> launch.Arguments:
    """Return the arguments of all launches."""
    planned, (L, _, B, _, _, P) = of.planned, of.planned.shape
    plan = planned.launches.plan
    partial_sums = of.c0.new_empty(plan.layers, plan.split, B, P) if plan.split > 1 else None
    by = None
    if plan.inside:
        by = of.c0.new_empty(L, B, (1 + len(plan.inner)) * P + planned.cell.totals)
    space = launch.workspace(plan, of.x, (L, 2, planned.exchanged), planned.count)
    return planned.launches.arguments(
        dh_n_ptr=of.h0 if dh_n is None else dh_n, gates_ptr=left.gates, c0_ptr=of.c0,
        c_ptr=left.c, dc_ptr=dc, dgates_ptr=left.dgates, exchange_ptr=space.exchange,
        barrier_ptr=space.counters, between_ptr=space.between, dh_ptr=left.dh,
        by_h_ptr=left.by_h, raw_ptr=left.raw_hh, stats_ptr=left.stats, dseen_ptr=left.dseen,
        dweight_ptr=left.dweight, partial_ptr=partial_sums, by_ptr=by, numbers_ptr=left.numbers,
        last=0 if dh_n is None else B,  # of dh_n: else nothing reads what stands for it
        **options, **of.arguments(),
    )  # fmt: skip


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


def _by_states(left: gradients.BackwardBuffers, dc: Tensor | None) -> Tensor:
    """Return the gradients by each lane's states after every step [L, N, S*H], given dc."""
    if dc is None:
        return torch.zeros_like(left.c)
    return dc.reshape(-1, left.rows.N, dc.shape[-1])[: len(left.c)].contiguous()


def _last_gradients(
    of: Parsed, dh_n: Tensor | None, dc_n: Tensor | None
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
