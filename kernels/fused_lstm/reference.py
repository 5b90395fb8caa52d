"""The LSTM in plain PyTorch, forward and backward by hand: the text to read first, and the oracle.

Every kernel of this project computes what stands here; docs/backward.md derives the backward.
Nothing here is in place, so autograd can differentiate all of it, the backward included. What a
cell adds to nn.LSTM's (fused_lstm.cell) is here too, where a lane has its weights or its masks.

T, B, I, H, L: time steps, batch, input size, hidden size, layers. D: directions, 1 or 2. P: the
size of h, which is H unless h is projected. A lane is one layer in one direction. Gate order i, f,
g, o.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import pointwise, stack
from .cell import NOTHING, PLAIN, Cell, Draws
from .philox import dropout_mask
from .pointwise import (
    Added,
    Pointwise,
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
from .rows import Order, Rows

__all__ = ["Layer", "by_layer", "cell", "cell_backward", "dropout_mask", "state_dtype"]


class Layer(NamedTuple):
    """One lane's weights, as nn.LSTM and fused_lstm.cell name them."""

    w_ih: Tensor  # [4H, I], or [4H, D * P] above the first layer
    w_hh: Tensor  # [4H, P]
    b_ih: Tensor | None = None  # [4H]
    b_hh: Tensor | None = None  # [4H]
    w_hr: Tensor | None = None  # [P, H], where h is projected
    w_ch: Tensor | None = None  # [3H], peepholes of i, f and o
    gain_ih: Tensor | None = None  # [4H], where W x, R h and c are normalized
    gain_hh: Tensor | None = None  # [4H]
    gain_c: Tensor | None = None  # [H]
    b_c: Tensor | None = None  # [H], with gain_c where there are biases

    def bias(self) -> Tensor | None:
        """Both biases as one [4H]: they only ever appear as a sum."""
        return None if self.b_ih is None or self.b_hh is None else self.b_ih + self.b_hh

    def added(self, mask: Tensor | None) -> Added:
        """What the pointwise part of a step has beside nn.LSTM's; mask [B, H] or None, on g."""
        return Added(self.w_ch, self.gain_c, self.b_c, mask)


def by_layer(weights: Sequence[Tensor], lanes: int, cell: Cell = PLAIN) -> Iterator[Layer]:
    """Split flat weights: a lane has nn.LSTM's, then its cell's, in the order of `Layer`."""
    per_lane = len(weights) // lanes
    bias, projected = cell.forms[per_lane]
    norm = cell.layer_norm
    has = True, True, bias, bias, projected, cell.peephole, norm, norm, norm, norm and bias
    names = [name for name, there in zip(Layer._fields, has, strict=True) if there]
    for start in range(0, len(weights), per_lane):
        own = weights[start : start + per_lane]
        yield Layer(**dict(zip(names, own, strict=True)))


# --- one lane ---


def step(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    layer: Layer,
    draws: Draws = NOTHING,
    own: Pointwise = pointwise.LSTM,
) -> tuple[Tensor, ...]:
    """x [B, I], h [B, P], c [B, H] -> h_next, c_next, activated gates [B, 4H], and any `Norms`."""
    by_x, by_h, norms = x @ layer.w_ih.T, masked(h, draws.recurrent) @ layer.w_hh.T, ()
    if layer.gain_ih is not None and layer.gain_hh is not None:
        norms = Norms(*normalized(by_x), *normalized(by_h))
        by_x, by_h = scaled(norms.x_hat, layer.gain_ih), scaled(norms.h_hat, layer.gain_hh)
    gates = by_x + by_h
    if (bias := layer.bias()) is not None:
        gates = gates + bias
    added = layer.added(draws.candidate)
    h_next, c_next, activated = own.forward(gates.to(x.dtype), c, added)
    if layer.w_hr is not None:
        h_next = h_next @ layer.w_hr.T
    h_next, c_next = zoned(h_next, h, draws.zoneout_h), zoned(c_next, c, draws.zoneout_c)
    return h_next, c_next, activated, *norms


class Norms(NamedTuple):
    """What is kept of a lane's normalized products for the backward, in the state dtype."""

    x_hat: Tensor  # [T, B, 4H], W x normalized
    x_rstd: Tensor  # [T, B, 1], 1 / its standard deviation
    h_hat: Tensor  # [T, B, 4H], R h normalized
    h_rstd: Tensor  # [T, B, 1]


def layer_forward(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    layer: Layer,
    order: Order | None = None,
    draws: Draws = NOTHING,
    own: Pointwise = pointwise.LSTM,
) -> tuple[Tensor, ...]:
    """A lane: x [T, B, I], h0 [B, P], c0 [B, H] -> h [T, B, P], c [T, B, H], gates [T, B, 4H].

    h and c are the state after each step, which of a row that has ended is its last; the gates are
    activated. A lane that normalizes gives its `Norms` too. order: the lane's steps; None is
    forwards, all rows alive. own: of the cell.
    """
    order = order or Order(range(len(x)))
    h, c, saved = h0, c0.to(state_dtype(x.dtype)), {}
    for t in order.steps:
        h_prev, c_prev = order.before(t, h, c)
        h_next, c_next, *kept = step(x[t], h_prev, c_prev, layer, draws.at(t), own)
        h, c = order.after(t, h_next, h), order.after(t, c_next, c)
        saved[t] = h, c, *kept
    return _stacked(saved)


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
    own: Pointwise = pointwise.LSTM,
) -> tuple[Tensor, Tensor, Tensor, Layer]:
    """Gradients of one lane.

    The loop over time does only what must be done in order; the gradients of the weights need
    every step's dgates and no order, so they are one large product each after the loop.

    Args:
        dy: [T, B, P], what is sent to a row that has ended is not looked at; dh_n [B, P], dc_n
            [B, H], gradients by the last state.
        x, h0, c0, layer, order, draws, own: the forward's arguments; h, c, gates, kept: its
            results.

    Returns:
        dx [T, B, I], dh0 [B, P], dc0 [B, H] and the gradients of the weights.
    """
    order = order or Order(range(len(x)))
    norms, found, last = Norms(*kept) if kept else None, {}, (h0, c0.to(c.dtype))
    for t in order.steps:
        found[t], last = order.before(t, *last), (h[t], c[t])
    h_prev, c_prev = _stacked(found)
    if draws.zoneout_c is not None:  # what a step made of c is not what it left of it
        c = pointwise.proposed(gates, c_prev, draws.candidate)
    dh, dc, made = dh_n, dc_n.to(c.dtype), {}
    for t in reversed(order.steps):
        drawn = draws.at(t)
        dh_new, dh_old = zoned_backward(order.output(t, dy[t] + dh), drawn.zoneout_h)
        dc_new, dc_old = zoned_backward(dc, drawn.zoneout_c)
        dm = dh_new if layer.w_hr is None else dh_new @ layer.w_hr  # by o * tanh(c)
        added = layer.added(drawn.candidate)
        by_gates, dc_prev, dseen = own.backward(gates[t], c_prev[t], c[t], dm, dc_new, added)
        dgates = by_h = order.output(t, by_gates)
        if norms is not None and layer.gain_hh is not None:
            by_h = normalized_backward(dgates * layer.gain_hh, norms.h_hat[t], norms.h_rstd[t])
            by_h = by_h.to(x.dtype)
        dh_prev = masked(by_h @ layer.w_hh, drawn.recurrent) + dh_old
        before = order.before(t, dh_prev, dc_prev + dc_old)
        dh, dc = order.after(t, before[0], dh), order.after(t, before[1], dc)
        made[t] = dgates, by_h, dh_new, dseen
    dgates, by_h, dh_new, dseen = _stacked(made)
    by_x = dgates
    if norms is not None and layer.gain_ih is not None:
        by_x = normalized_backward(dgates * layer.gain_ih, norms.x_hat, norms.x_rstd).to(x.dtype)
    dbias = None if layer.b_ih is None else _rows(dgates).sum(0)
    dweights = Layer(
        _rows(by_x).T @ _rows(x),
        _rows(by_h).T @ _rows(masked(h_prev, draws.recurrent)),
        dbias,
        dbias,
        None if layer.w_hr is None else _rows(dh_new).T @ _rows(_unprojected(gates, c, layer)),
        *_gradients_of_vectors(layer, norms, dgates, dseen, c_prev, c),
    )
    return by_x @ layer.w_ih, dh, dc.to(c0.dtype), dweights


def _stacked(of: dict[int, tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """What each step gave, in order of time: [T, ...] of each of its tensors."""
    return tuple(torch.stack(parts) for parts in zip(*(of[t] for t in range(len(of))), strict=True))


def _rows(of: Tensor) -> Tensor:
    """[T, B, C] -> [T * B, C]."""
    return of.flatten(0, 1)


def _unprojected(gates: Tensor, c: Tensor, layer: Layer) -> Tensor:
    """o * tanh(c) [T, B, H] again, which is cheaper than keeping it."""
    o = gates.chunk(4, dim=-1)[3]
    return (o * pointwise.seen(c, layer.added(None)).tanh()).to(gates.dtype)


def _gradients_of_vectors(
    layer: Layer,
    norms: Norms | None,
    dgates: Tensor,
    dseen: Tensor,
    c_prev: Tensor,
    c: Tensor,
) -> list[Tensor | None]:
    """Those of the peepholes, of the gains and of c's bias, in the order of `Layer`."""
    found: list[Tensor | None] = [None] * 5
    if layer.w_ch is not None:
        di, df, _, do = dgates.chunk(4, dim=-1)
        seen = torch.cat([di * c_prev, df * c_prev, do * c], dim=-1)
        found[0] = _rows(seen).sum(0)
    if norms is not None:
        found[1], found[2] = (_rows(dgates * hat).sum(0) for hat in (norms.x_hat, norms.h_hat))
        found[3] = _rows(dseen * normalized(c)[0]).sum(0)
    if layer.b_c is not None:
        found[4] = _rows(dseen).sum(0)
    return found


# --- a stack of lanes ---


def lstm(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weights: Sequence[Tensor],
    dropout: float = 0.0,
    seed: Tensor | None = None,
    directions: int = 1,
    batch_sizes: Tensor | None = None,
    keep: Tensor | None = None,
    cell: Cell = PLAIN,
) -> tuple[Tensor, Tensor, Tensor]:
    """A stack of layers, for autograd to differentiate.

    Args:
        x: [T, B, I], or packed [N, I] with batch_sizes.
        h0: [L * D, B, P]; c0: [L * D, B, H]; weights: flat, of each lane nn.LSTM's and the cell's.
        dropout: probability of dropping an element of h between two layers.
        seed: draws all masks, as `Cell.draw` takes it; needed where dropout > 0.
        directions: D.
        batch_sizes, keep: as in fused_lstm.rows.
        cell: any.

    Returns:
        y [T, B, D * P] or [N, D * P], h_n [L * D, B, P], c_n [L * D, B, H].
    """
    cell, weights = cell.four_gates(weights, c0.shape[2])
    lanes, states, (_, B, P) = list(by_layer(weights, len(h0), cell)), [], h0.shape
    own = pointwise.GRU if cell.gru else pointwise.LSTM
    if cell.rnn_tanh or cell.rnn_relu:
        own = pointwise.RNN_TANH if cell.rnn_tanh else pointwise.RNN_RELU
    rows = Rows(x, B, batch_sizes, keep)

    def sweep(x: Tensor, lane: int) -> Tensor:
        order = rows.order(lane % directions)
        draws = cell.draw(seed, lane, len(h0), rows.T, B, P, c0.shape[2])
        h, c, *_ = layer_forward(rows.pad(x), h0[lane], c0[lane], lanes[lane], order, draws, own)
        last = order.steps[-1]
        states.append((h[last], c[last].to(c0.dtype)))
        return rows.pack(h)

    def drop(y: Tensor, layer: int) -> Tensor:
        assert seed is not None
        return y * dropout_mask(seed[:1], y.shape, dropout, layer * y.numel()).to(y.dtype)

    layers = len(h0) // directions
    y = stack.run(x, layers, sweep, drop if dropout > 0 else None, directions)
    h_n, c_n = map(torch.stack, zip(*states, strict=True))
    return y, h_n, c_n
