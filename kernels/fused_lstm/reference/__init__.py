"""Every cell in plain PyTorch, and the LSTM's backward by hand: read this first.

Every kernel of this project computes these functions, and the tests compare it with them.
docs/backward.md derives the backward. No operation is in place, so autograd can differentiate the
backward too. The options of a cell are included.

T, B, I, H, L: time steps, batch, input size, hidden size, layers. D: directions, 1 or 2. P: the
size of h, which is H unless h is projected. G: gates. A lane is one layer in one direction. Gate
order i, f, g, o; of a GRU r, z, n; of an sLSTM i, f, z, o. N, K: heads, and the H / N units of
each. Of an sLSTM c is [.., 3H]: c, n and m side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..call.record import Call
from ..call.rows import Order, Padding
from ..call.spec import (
    CELLS,
    PLAIN,
    RECURRENT,
    ZONEOUT_C,
    ZONEOUT_H,
    Spec,
    Units,
    completed,
    is_reversed,
)
from ..philox import dropout_mask
from . import pointwise, stack
from .pointwise import (
    OptionTensors,
    cell,
    cell_backward,
    masked,
    normalized,
    normalized_backward,
    scaled,
    state_dtype,
    zoned,
    zoned_backward,
)

__all__ = ["Layer", "by_layer", "cell", "cell_backward", "dropout_mask", "state_dtype"]


class Layer(NamedTuple):
    """The weights of a lane."""

    w_ih: Any  # [G*H, I], or [G*H, D * P] above the first layer; None: x is W x
    w_hh: Tensor  # [G*H, P], or of N > 1 heads [N, G*K, K]
    b_ih: Tensor | None = None  # [G*H]; an sLSTM's only one
    b_hh: Tensor | None = None  # [G*H]
    w_hr: Tensor | None = None  # [P, H], where h is projected
    w_ch: Tensor | None = None  # [3H], peepholes of i, f and o; coupled [2H], of i and o
    gain_ih: Tensor | None = None  # [G*H], where W x, R h and c are normalized
    gain_hh: Tensor | None = None  # [G*H]
    gain_c: Tensor | None = None  # [H], of an LSTM
    b_c: Tensor | None = None  # [H], with gain_c where there are biases
    # [n*H, H] each, of products inside a custom cell's step
    w_inner: tuple[Tensor, ...] | None = None

    def bias(self) -> Tensor | None:
        """Return the sum of an LSTM's biases [4H]; nothing needs them apart."""
        if self.b_ih is None or self.b_hh is None:
            return self.b_ih
        return self.b_ih + self.b_hh

    def added(self, coupled: bool = False) -> OptionTensors:
        """Return the tensors of an LSTM's options."""
        w_ch = self.w_ch
        if coupled and w_ch is not None:
            of_i, of_o = w_ch.chunk(2)
            w_ch = torch.cat([of_i, -of_i, of_o])
        return OptionTensors(w_ch, self.gain_c, self.b_c)


FIELDS = {
    "weight_ih": "w_ih", "weight_hh": "w_hh", "bias_ih": "b_ih", "bias_hh": "b_hh",
    "weight_hr": "w_hr", "weight_ch": "w_ch", "gain_ih": "gain_ih", "gain_hh": "gain_hh",
    "gain_c": "gain_c", "bias_c": "b_c", "bias": "b_ih",
}  # fmt: skip


def by_layer(weights: Sequence[Tensor], lanes: int, spec: Spec = PLAIN) -> list[Layer]:
    """Split a call's weights into lanes, each in the order of `Spec.weights`."""
    per_lane = len(weights) // lanes
    names = spec.weight_names
    if len(names) != per_lane:
        names = completed(spec, lanes, len(weights), 1).weight_names
    fields, layers = [FIELDS[name] for name in names if name in FIELDS], []
    for start in range(0, len(weights), per_lane):
        lane, inner = start + len(fields), start + per_lane
        own = dict(zip(fields, weights[start:lane], strict=True))
        layers.append(Layer(**own, w_inner=tuple(weights[lane:inner]) or None))
    return layers


# --- masks ---


class Draws(NamedTuple):
    """The masks of a lane, or of one of its steps; None where no mask is drawn."""

    zoneout_h: Tensor | float | None = None  # [T, B, P], 1 where a unit keeps its h; or how likely
    zoneout_c: Tensor | float | None = None  # [T, B, H], the same for c
    recurrent: Tensor | None = None  # [B, P], multiplies h(t-1) before R

    def at(self, t: int) -> Draws:
        """Return the masks of step t."""
        h, c = (of[t] if isinstance(of, Tensor) else of for of in (self.zoneout_h, self.zoneout_c))
        return Draws(h, c, self.recurrent)


NOTHING = Draws()


def draw(
    spec: Spec, seed: Tensor | None, lane: int, lanes: int, T: int, B: int, P: int, H: int
) -> Draws:
    """Return the masks of lane number `lane` of `lanes`.

    seed: [1] int64, or None outside training. Where a call is a chunk of a longer one it is [2]:
    the chunk's seed, and the longer call's, which draws the masks that are the same at every step.
    A unit's counter is its place in [lanes, T, B, P or H], or in [B, lanes, P] where one mask
    serves all steps. B counts rows by falling length where lengths differ.
    """

    def mask(kind: int, p: float, *shape: int) -> Tensor | None:
        if seed is None or p == 0:
            return None
        return dropout_mask(seed[:1], shape, p, kind + lane * prod(shape))

    def zones(kind: int, p: float, *shape: int) -> Tensor | float | None:
        dropped = mask(kind, p, *shape)
        if dropped is None:
            return p or None
        return (dropped == 0).to(torch.float32)

    recurrent = None
    if seed is not None and spec.recurrent_dropout > 0:
        shape = B, lanes, P
        recurrent = dropout_mask(seed[-1:], shape, spec.recurrent_dropout, RECURRENT)[:, lane]
    of_h = zones(ZONEOUT_H, spec.zones[0], T, B, P)
    return Draws(
        of_h,
        zones(ZONEOUT_C, spec.zones[1], T, B, H) if spec.has_c else of_h,
        recurrent,
    )


# --- the recurrent product, in N blocks where there are heads ---


def by_head(gates: Tensor, N: int, K: int) -> Tensor:
    """Return gates [.., G*H] as [.., N, G*K], those of a head together; H is N*K."""
    return gates.unflatten(-1, (-1, N, K)).transpose(-3, -2).flatten(-2)


def by_gate(gates: Tensor, K: int) -> Tensor:
    """Return gates [.., N, G*K] as [.., G*H]: undo `by_head`."""
    return gates.unflatten(-1, (-1, K)).transpose(-3, -2).flatten(-3)


def recurrent_product(h: Tensor, w_hh: Tensor) -> Tensor:
    """Return R h [B, G*H] of h [B, P] and w_hh [G*H, P] or [N, G*K, K]."""
    if w_hh.dim() == 2:
        return h @ w_hh.T
    N, _, K = w_hh.shape
    return by_gate(torch.einsum("bnk,njk->bnj", h.unflatten(-1, (N, K)), w_hh), K)


def recurrent_product_backward(dgates: Tensor, w_hh: Tensor) -> Tensor:
    """Return the gradient by h [B, P] of dgates [B, G*H]."""
    if w_hh.dim() == 2:
        return dgates @ w_hh
    N, _, K = w_hh.shape
    return torch.einsum("bnj,njk->bnk", by_head(dgates, N, K), w_hh).flatten(-2)


def recurrent_product_by_weight(dgates: Tensor, h: Tensor, w_hh: Tensor) -> Tensor:
    """Return the gradient by w_hh, of its shape, of dgates [T * B, G*H] and h [T * B, P]."""
    if w_hh.dim() == 2:
        return dgates.T @ h
    N, _, K = w_hh.shape
    return torch.einsum("bnj,bnk->njk", by_head(dgates, N, K), h.unflatten(-1, (N, K)))


def clipped(gradient: Tensor, limit: float) -> Tensor:
    """Return a gradient cut to [-limit, limit], which may be more than its dtype has."""
    if limit > torch.finfo(gradient.dtype).max:
        return gradient
    return gradient.clamp(-limit, limit)


class ClippedGradient(torch.autograd.Function):
    """apply(h, limit) -> h, whose gradient is cut to [-limit, limit]."""

    generate_vmap_rule = True

    @staticmethod
    def forward(h, limit):
        return h.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.limit = inputs[1]

    @staticmethod
    def backward(ctx, dh):
        return clipped(dh, ctx.limit), None

    @staticmethod
    def jvp(ctx, tangent, _):
        return tangent.clone()


# --- a cell's inputs, which lie behind x and are not multiplied ---


def input_product(x: Tensor, layer: Layer, spec: Spec, bias: Tensor | None = None) -> Tensor:
    """Return x's part of all gates [.., G*H], those of a cell's inputs, the last ones, as given."""
    kind, I = CELLS[spec.cell], layer.w_ih.shape[1]
    made = F.linear(x[..., :I] if kind.inputs else x, layer.w_ih, bias)
    if not kind.inputs:
        return made
    widths = kind.cell.widths_of("inputs", *units_of(layer, spec))
    return torch.cat([made, spread(x[..., I:], widths)], -1)


def units_of(layer: Layer, spec: Spec) -> tuple[int, Units]:
    """Return how many units h has, and other values of a custom cell's step."""
    kind = CELLS[spec.cell]
    of_x, w_hh = kind.gates - kind.inputs, layer.w_hh.flatten(0, -2)  # of all heads
    H = spec.num_heads * w_hh.shape[1] if layer.w_hr is None else layer.w_hr.shape[1]
    rows, count = (layer.w_ih, of_x) if of_x else (w_hh, kind.of_h)
    return H, units_of_products(layer, kind.cell, len(rows) // count if count else H)


def units_of_products(layer: Layer, cell: Any, gates: int) -> Units:
    """Return how many units the values of a step have; gates: those of a gate."""
    matrices, columns = layer.w_inner or (), cell.products.values()
    made = tuple(len(w) // n for w, n in zip(matrices, columns, strict=True))
    return Units(gates, made, tuple(w.shape[1] for w in matrices))


def spread(given: Tensor, widths: Sequence[int]) -> Tensor:
    """Return inputs [.., their units], given one number of each, or as many as of units."""
    if given.shape[-1] != len(widths):
        return given
    each = given.split(1, -1)
    return torch.cat([
        e.expand(*e.shape[:-1], units) for e, units in zip(each, widths, strict=True)
    ], -1)  # fmt: skip


def as_wide(layer: Layer, spec: Spec) -> Layer:
    """Return a lane whose bias_ih has zeros for a cell's inputs."""
    count = CELLS[spec.cell].inputs
    if not count or layer.b_ih is None:
        return layer
    H, _ = units_of(layer, spec)
    return layer._replace(b_ih=F.pad(layer.b_ih, (0, count * H)))


# --- one lane ---

Made = dict[int, tuple[Tensor, ...]]  # a step -> the state after it, and what else it returned


def sweep(step: Callable[..., tuple[Tensor, ...]], order: Order, h0: Tensor, c0: Tensor) -> Made:
    """Run a lane's steps in their order.

    Args:
        step: (t, h, c) -> h_next [B, P], c_next [B, H], and what else is wanted of the step.
        order: the lane's steps; a row that has ended keeps its state.
        h0, c0: [B, P] and [B, H], the latter in the state dtype.
    """
    h, c, made = h0, c0, {}
    for t in order.steps:
        h_next, c_next, *kept = step(t, *order.before(t, h, c))
        h, c = order.after(t, h_next, h), order.after(t, c_next, c)
        made[t] = h, c, *kept
    return made


def in_time(made: Mapping[int, Sequence[Tensor]], n: int) -> Tensor:
    """Stack the n-th tensor of each step in order of time, [T, ...]."""
    return torch.stack([made[t][n] for t in range(len(made))])


class Norms(NamedTuple):
    """A lane's normalized products for the backward, in the state dtype."""

    x_hat: Tensor  # [T, B, G*H], W x normalized
    x_rstd: Tensor  # [T, B, 1], 1 / its standard deviation
    h_hat: Tensor  # [T, B, G*H], R h normalized
    h_rstd: Tensor  # [T, B, 1]


def sums(by_x: Tensor, by_h: Tensor, layer: Layer, spec: Spec) -> Tensor:
    """Return the gates before activation, given W x and R h [B, G*H].

    A coupled LSTM has four, i, -i, g, o: 1 - sigma(a) is sigma(-a). What is of h alone comes first,
    then sums, then what is of x alone. A GRU has four, m, r, z, n, where m = R_n h + b_hn is h's
    part of n, which r multiplies.
    """
    kind = CELLS[spec.cell]
    if kind.apart or kind.of_h != kind.gates:
        if layer.b_ih is not None and layer.b_hh is not None:
            b_ih = F.pad(layer.b_ih, (0, by_x.shape[-1] - len(layer.b_ih)))  # inputs have none
            by_x, by_h = by_x + b_ih, by_h + layer.b_hh
        columns = kind.sums * (by_h.shape[-1] // kind.of_h if kind.of_h else 0)
        summed = by_x[..., :columns] + by_h[..., :columns]
        return torch.cat([by_h[..., columns:], summed, by_x[..., columns:]], dim=-1)
    gates = by_x + by_h
    if (bias := layer.bias()) is not None:
        gates = gates + bias
    if spec.coupled:
        i, g, o = gates.chunk(3, -1)
        gates = torch.cat([i, -i, g, o], dim=-1)
    return gates


def sums_backward(dgates: Tensor, spec: Spec) -> Tensor:
    """Return the gradient of an LSTM's `sums` by W x, and by R h, [..., G*H]."""
    if spec.coupled:
        di, df, dg, do = dgates.chunk(4, -1)
        dgates = torch.cat([di - df, dg, do], dim=-1)
    return dgates


def step(
    x: Tensor, h: Tensor, c: Tensor, layer: Layer, draws: Draws = NOTHING, spec: Spec = PLAIN
) -> tuple[Tensor, ...]:
    """Run a step: x [B, I], h [B, P], c [B, H] -> h_next, c_next, activated gates, any `Norms`."""
    fed = masked(h, draws.recurrent)
    if spec.recurrent_clip is not None:
        fed = ClippedGradient.apply(fed, spec.recurrent_clip)
    by_x = x if layer.w_ih is None else x @ layer.w_ih.T
    by_h, norms = recurrent_product(fed, layer.w_hh), ()
    if layer.gain_ih is not None and layer.gain_hh is not None:
        norms = Norms(*normalized(by_x), *normalized(by_h))
        by_x, by_h = scaled(norms.x_hat, layer.gain_ih), scaled(norms.h_hat, layer.gain_hh)
    gates = sums(by_x, by_h, layer, spec)
    gates = gates.to(x.dtype)
    if CELLS[spec.cell].is_lstm:
        added = layer.added(spec.coupled)
        h_next, c_next, gates = pointwise.forward(gates, c, added)
    else:
        h_next, c_next = told(gates, c, layer, spec)
    if layer.w_hr is not None:
        h_next = h_next @ layer.w_hr.T
    h_next, c_next = zoned(h_next, h, draws.zoneout_h), zoned(c_next, c, draws.zoneout_c)
    return h_next, c_next, gates, *norms


def told(gates: Tensor, c: Tensor, layer: Layer, spec: Spec) -> tuple[Tensor, Tensor]:
    """Run a cell that is told as a function: gates [B, G*H], as `sums` has them -> h, c_next."""
    cell = CELLS[spec.cell].cell
    states = c.chunk(len(cell.states), -1) if cell.states else ()
    H = c.shape[-1] // max(len(states), 1)
    units = units_of_products(layer, cell, H)
    widths = cell.widths_of_columns(gates.shape[-1], H, units)
    parts = gates.to(c.dtype).split(widths, -1)
    units = units._replace(gates=widths[0] if len(widths) > len(cell.inputs) else H)
    w, vectors = layer.w_ch, ()
    if w is not None:
        vectors = w.to(c.dtype).chunk(len(cell.vectors))
    columns, matrices = list(cell.products.values()), layer.w_inner or ()
    of_states = [H] * len(states)
    if any(n != H for n in (*units.products, *units.factors, units.gates)):
        of_states = cell.widths_of("states", H, units)
        of_vectors = cell.widths_of("weights", H, units)
        states = [t[..., :n] for n, t in zip(of_states, states, strict=True)]
        vectors = [t[:n] for n, t in zip(of_vectors, vectors, strict=True)]

    def product(k: int, value: Tensor) -> list[Tensor]:
        made = value.to(matrices[k].dtype) @ matrices[k].T
        return list(made.to(c.dtype).chunk(columns[k], -1))

    h, after = cell.step(parts, states, vectors, product)
    rows = gates.shape[:-1]
    h = h.expand(*rows, H)  # what is one number of a row, too
    after = [a.expand(*rows, n) for n, a in zip(of_states, after, strict=True)]
    after = [a if n == H else F.pad(a, (0, H - n)) for n, a in zip(of_states, after, strict=True)]
    return h.to(gates.dtype), torch.cat(after, -1) if after else h


def layer_forward(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    layer: Layer,
    order: Order | None = None,
    draws: Draws = NOTHING,
    spec: Spec = PLAIN,
) -> tuple[Tensor, ...]:
    """Run a lane: x [T, B, I], h0 [B, P], c0 [B, H] -> h [T, B, P], c [T, B, H], gates [T, B, 4H].

    h and c are the state after each step; a row that has ended keeps its last. An LSTM's gates are
    activated, four of them with coupled gates too; other cells' are sums, as `sums` returns them.
    With layer norm the lane's `Norms` follow. order: the lane's steps; None is forwards with all
    rows alive.
    """
    order = order or Order(range(len(x)))
    run = lambda t, h, c: step(x[t], h, c, layer, draws.at(t), spec)  # noqa: E731
    return _stacked(sweep(run, order, h0, c0.to(state_dtype(x.dtype))))


def layer_backward(
    dy: Tensor,
    dh_n: Tensor,
    dc_n: Tensor,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    layer: Layer,
    h: Tensor,
    c: Tensor,
    gates: Tensor,
    *kept: Tensor,
    order: Order | None = None,
    draws: Draws = NOTHING,
    spec: Spec = PLAIN,
) -> tuple[Tensor, Tensor, Tensor, Layer]:
    """Return the gradients of one lane of an LSTM.

    The loop over time computes only what depends on the step after it. The gradients of the weights
    need every step's dgates in no order: each is one large product after the loop.

    Args:
        dy: [T, B, P], ignored where a row has ended.
        dh_n, dc_n: [B, P] and [B, H], the gradients by the last state.
        x, h0, c0, layer, order, draws, spec: the arguments of `layer_forward`.
        h, c, gates, kept: the results of `layer_forward`.

    Returns:
        dx [T, B, I], dh0 [B, P], dc0 [B, H] and the gradients of the weights.
    """
    order = order or Order(range(len(x)))
    norms, before, last = Norms(*kept) if kept else None, {}, (h0, c0.to(c.dtype))
    for t in order.steps:
        before[t], last = order.before(t, *last), (h[t], c[t])
    h_prev, c_prev = _stacked(before)
    if draws.zoneout_c is not None:  # c is after zoneout: compute c before it
        c = pointwise.proposed(gates, c_prev)
    dh, dc, made = dh_n, dc_n.to(c.dtype), {}
    for t in reversed(order.steps):
        drawn = draws.at(t)
        dh_new, dh_old = zoned_backward(order.output(t, dy[t] + dh), drawn.zoneout_h)
        dc_new, dc_old = zoned_backward(dc, drawn.zoneout_c)
        dm = dh_new if layer.w_hr is None else dh_new @ layer.w_hr  # by o * tanh(c)
        added = layer.added(spec.coupled)
        by_gates, dc_prev, dseen = pointwise.backward(gates[t], c_prev[t], c[t], dm, dc_new, added)
        dgates = order.output(t, by_gates)
        by_h = sums_backward(dgates, spec)
        if norms is not None and layer.gain_hh is not None:
            by_h = normalized_backward(by_h * layer.gain_hh, norms.h_hat[t], norms.h_rstd[t])
            by_h = by_h.to(x.dtype)
        through = recurrent_product_backward(by_h, layer.w_hh)
        if spec.recurrent_clip is not None:
            through = clipped(through, spec.recurrent_clip)
        dh_prev = masked(through, drawn.recurrent) + dh_old
        crossed = order.before(t, dh_prev, dc_prev + dc_old)
        dh, dc = order.after(t, crossed[0], dh), order.after(t, crossed[1], dc)
        made[t] = dgates, by_h, dh_new, dseen
    dgates, by_h, dh_new, dseen = _stacked(made)
    by_x = of_x = of_h = sums_backward(dgates, spec)
    if norms is not None and layer.gain_ih is not None:
        by_x = normalized_backward(of_x * layer.gain_ih, norms.x_hat, norms.x_rstd).to(x.dtype)
    dweights = Layer(
        None if layer.w_ih is None else _rows(by_x).T @ _rows(x),
        recurrent_product_by_weight(
            _rows(by_h), _rows(masked(h_prev, draws.recurrent)), layer.w_hh
        ),
        _rows(of_x).sum(0) if layer.b_ih is not None else None,
        _rows(of_h).sum(0) if layer.b_hh is not None else None,
        None if layer.w_hr is None else _rows(dh_new).T @ _rows(_unprojected(gates, c, layer)),
        None if layer.w_ch is None else _of_peepholes(dgates, c_prev, c, spec.coupled),
        None if norms is None else _rows(of_x * norms.x_hat).sum(0),
        None if norms is None else _rows(of_h * norms.h_hat).sum(0),
        None if layer.gain_c is None else _rows(dseen * normalized(c)[0]).sum(0),
        None if layer.b_c is None else _rows(dseen).sum(0),
    )
    return by_x if layer.w_ih is None else by_x @ layer.w_ih, dh, dc.to(c0.dtype), dweights


def _stacked(of: Made) -> tuple[Tensor, ...]:
    """Stack all tensors of the steps in order of time, [T, ...] each."""
    return tuple(in_time(of, n) for n in range(len(of[0])))


def _rows(of: Tensor) -> Tensor:
    """Flatten [T, B, C] to [T * B, C]."""
    return of.flatten(0, 1)


def _unprojected(gates: Tensor, c: Tensor, layer: Layer) -> Tensor:
    """Compute o * tanh(c) [T, B, H] again, which costs less than storing it."""
    o = gates.chunk(4, dim=-1)[3]
    return (o * pointwise.seen(c, layer.added()).tanh()).to(gates.dtype)


def _of_peepholes(dgates: Tensor, c_prev: Tensor, c: Tensor, coupled: bool) -> Tensor:
    """Return the gradient by weight_ch."""
    di, df, _, do = dgates.chunk(4, dim=-1)
    if coupled:
        return _rows(torch.cat([(di - df) * c_prev, do * c], dim=-1)).sum(0)
    return _rows(torch.cat([di * c_prev, df * c_prev, do * c], dim=-1)).sum(0)


# --- a stack of lanes ---


def run(call: Call) -> tuple[Tensor, ...]:
    """Run a call in plain PyTorch, which autograd can differentiate.

    Returns:
        y [T, B, D * P] or [N, D * P], h_n [L * D, B, P], c_n [L * D, B, H], and the state after
        every step: h of the layers below the last [L - 1, ..., D * P], c of all [L * D, ..., H].
    """
    spec, h0, c0, seed = call.spec, call.h0, call.c0, call.seed
    layers, (lanes, B, P) = by_layer(call.weights, len(h0), spec), h0.shape
    rows = Padding(call.x, B, call.batch_sizes, call.not_reset)

    def sweep(x: Tensor, lane: int) -> stack.Swept:
        order, layer = rows.order(is_reversed(spec, lane)), layers[lane]
        drawn = draw(spec, seed, lane, lanes, rows.T, B, P, c0.shape[2])
        if CELLS[spec.cell].custom:  # which has no other engine where there is no compiler
            x, layer = input_product(x, layer, spec), layer._replace(w_ih=None)
        h, c, *_ = layer_forward(rows.pad(x), h0[lane], c0[lane], layer, order, drawn, spec)
        end = order.steps[-1]
        return stack.Swept(rows.pack(h), rows.pack(c), h[end], c[end])

    def drop(y: Tensor, layer: int) -> Tensor:
        assert seed is not None
        return y * dropout_mask(seed[:1], y.shape, spec.dropout, layer * y.numel()).to(y.dtype)

    return stack.run_lanes(spec, call.x, c0.dtype, sweep, drop if spec.dropout > 0 else None)


def lstm(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weights: Sequence[Tensor],
    dropout: float = 0.0,
    seed: Tensor | None = None,
    directions: int = 1,
    batch_sizes: Tensor | None = None,
    not_reset: Tensor | None = None,
    cell: Spec = PLAIN,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a call of `cell` in plain PyTorch, its arguments named as the operator's.

    Returns y, h_n and c_n.
    """
    spec = completed(cell, len(h0), len(weights), directions, dropout, seed is not None)
    call = Call(spec, x, h0, c0, weights, seed=seed, batch_sizes=batch_sizes, not_reset=not_reset)
    y, h_n, c_n, *_ = run(call)
    return y, h_n, c_n
