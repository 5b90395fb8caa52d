"""Gradients of the weights and of h0, computed after the backward launches.

They need every step's dgates, in any order, so each is one large product or sum. Names are as in
op.py; a lane's tensors have `live` rows here, as packed.LaneRows says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..call.spec import CELLS, Spec
from ..reference import Layer, stack
from ..reference.pointwise import EPS, normalized, normalized_backward, proposed, seen
from . import launch
from .cells import KernelCell
from .packed import LaneRows


@dataclass(kw_only=True, eq=False, slots=True)
class BackwardBuffers:
    """Inputs and outputs of the backward launches."""

    rows: LaneRows
    D: int
    reverse: bool  # lanes run from the last step to the first
    layers: Sequence[Layer]
    cell: Spec
    kernels: KernelCell
    not_reset: Tensor | None
    drop: stack.Drop | None
    c0: Tensor  # [L, B, S*H] state dtype
    x: Tensor  # [live, I]
    h0: Tensor  # [L, B, P]
    outputs: Sequence[Tensor]  # of each layer [live, W]
    gates: Tensor  # [L, ..., COLUMNS*H] saved, of N rows; ops.saved_dtype
    c: Tensor  # [L, ..., S*H]
    dgates: Tensor  # [L, N, X*H] by x's parts of the gates; with layer norm, by h's that stay alone
    # follow
    by_gates: Sequence[Tensor]  # of each lane, the live rows of dgates
    h_mask: Tensor | None  # as in backward.py
    dh_old: Tensor | None
    raw_ih: Tensor | None  # [L, N, X*H] what is normalized
    raw_hh: Tensor | None
    numbers: Tensor | None  # as in inner.py
    by_h: Tensor | None = None  # [L, N, G*H], where that is not dgates: by h's part of the gates
    dh: Tensor | None = None  # [L, N, P], where h is projected: the gradient by w_hr times m
    dweight: Tensor | None = None  # [L, N, .] a step's part of the gradients by weights of a unit
    stats: Tensor | None = None  # [L, N, 4] as in backward.py, with layer norm
    dseen: Tensor | None = None  # [L, N, H]

    def dgates_of(self, lane: int) -> Tensor:
        """Return the gradient by x's parts of the gates in all steps of a lane [live, X*H]."""
        found = self.by_gates[lane]
        return found if self.raw_ih is None else found[:, : self.kernels.by_x * self.H]

    def by_x(self, lane: int) -> Tensor:
        """Return the gradient by the product with w_ih in all steps of a lane [live, X*H]."""
        dgates = self.dgates_of(lane)
        if self.raw_ih is None:
            return dgates
        d = dgates * self.layers[lane].gain_ih
        return normalized_backward(d, *normalized(self.rows.of(self.raw_ih[lane]))).to(dgates.dtype)

    def by_h_gates(self, lane: int) -> Tensor:
        """Return the gradient by h's part of the gates in all steps of a lane [live, G*H]."""
        if self.by_h is None:
            return self.by_gates[lane]
        if self.raw_ih is None:
            return self.rows.of(self.by_h[lane])
        summed, _, alone = self.by_gates[lane].split(
            [n * self.H for n in (self.kernels.sums, self.kernels.of_x, self.kernels.of_h)], -1
        )
        return torch.cat([summed, alone], -1)  # by_h is by the product, before it was normalized

    @property
    def inputs(self) -> int:
        """Return how many inputs the cell has, which lie behind x and are gates in the kernels."""
        return CELLS[self.cell.cell].inputs

    @property
    def H(self) -> int:
        return self.c0.shape[-1] // self.kernels.states

    def lane_of(self, t: Tensor, lane: int) -> Tensor:
        """Return a lane of t: [L, ..., C] -> [live, C]."""
        return self.rows.of(t[lane].view(self.rows.N, -1))

    def before(self, state: Tensor, first: Tensor, lane: int) -> Tensor:
        """Return `state` [live, C] before each step of a lane, zero where the row is reset.

        first: [B, C], the state that it begins with.
        """
        d, not_reset = lane % self.D, self.not_reset
        state = self.rows.before(state, first, int(self.reverse or d == 1))
        if not_reset is None:
            return state
        kept = self.rows.of(not_reset[d].reshape(self.rows.N, 1)).view(torch.bool)
        return torch.where(kept, state, 0.0)

    def h_before(self, lane: int) -> Tensor:
        """Return the h that w_hh multiplies in all steps of a lane [live, P]."""
        index, d = divmod(lane, self.D)
        output = halves(self.outputs[index], self.D)[d]
        h = self.before(output, self.h0[lane], lane)
        return h if self.h_mask is None else (h * self.rows.each(self.h_mask[lane])).to(h.dtype)

    def c_before(self, lane: int) -> Tensor:
        """Return c before all steps of a lane [live, H]."""
        return self.before(self.lane_of(self.c, lane), self.c0[lane], lane)

    def c_made(self, lane: int) -> Tensor:
        """Return the new c of all steps of a lane [live, H], before zoneout."""
        if self.cell.zones[1] == 0:
            return self.lane_of(self.c, lane)
        gates = self.lane_of(self.gates, lane)
        if self.cell.coupled:
            i, g, o = gates.chunk(3, -1)
            gates = torch.cat([i, 1 - i, g, o], -1)
        return proposed(gates, self.c_before(lane))


def halves(y: Tensor, D: int) -> Sequence[Tensor]:
    """Return each direction's columns of y [., D * P]."""
    return y.chunk(2, -1) if D == 2 else [y]


def by_direction(t: Tensor, D: int) -> Sequence[Tensor]:
    """Return each direction's lanes of t [L, ...]."""
    return [t[::2], t[1::2]] if D == 2 else [t]


def statistics(left: BackwardBuffers) -> Tensor:
    """Return the means and deviations of all steps, of c and of w_hh's product [L, N, 4].

    Those of c have values for an LSTM alone: no other cell normalizes it.
    """
    stats = left.c.new_empty(len(left.c), left.rows.N, 4)
    for lane in range(len(stats)):
        rows = left.rows.of(stats[lane])
        at = {2: left.rows.of(left.raw_hh[lane])}
        if CELLS[left.cell.cell].is_lstm:
            at[0] = left.c_made(lane)
        for column, x in at.items():
            variance, mean = torch.var_mean(x, -1, correction=0)
            rows[:, column], rows[:, column + 1] = mean, (variance + EPS).rsqrt()
    return stats


def of_x(left: BackwardBuffers, first: int) -> Tensor:
    """Return the gradient by the input of a layer [live, .], whose first lane is number `first`."""
    dx = _of_lane(left, first)
    if left.D == 1:
        return dx
    if left.inputs:
        return dx + _of_lane(left, first + 1)
    return dx.addmm_(left.by_x(first + 1), left.layers[first + 1].w_ih)


def _of_lane(left: BackwardBuffers, lane: int) -> Tensor:
    """Return a lane's part of the gradient by its input, the cell's own inputs behind it."""
    w_ih, by_x = left.layers[lane].w_ih, left.by_x(lane)
    if not left.inputs:
        return by_x @ w_ih
    own, units = by_x[:, len(w_ih) :].split(left.H, -1), left.cell.units
    if units is not None:
        own = [t[:, :n] for t, n in zip(own, units.inputs, strict=True)]
    if left.x.shape[1] - w_ih.shape[1] == left.inputs:  # one number for all units
        own = [t.sum(-1, keepdim=True) for t in own]
    return torch.cat([by_x[:, : len(w_ih)] @ w_ih, *own], -1)


def of_weights(left: BackwardBuffers, samples: int = 0) -> list[Tensor]:
    """Return all weights' gradients in one list.

    With `samples` > 0 each gradient has one part a sample: [samples, ...].
    """
    found, below, own = [], left.x, partial(_rows_of, left.rows, samples)
    for lane, layer in enumerate(left.layers):
        index, d = divmod(lane, left.D)
        if index > 0 and d == 0:
            below = left.outputs[index - 1]
            below = below if left.drop is None else left.drop(below, index - 1)
        dgates = left.dgates_of(lane)
        if left.inputs:  # which nothing multiplies
            dgates, below = dgates[:, : len(layer.w_ih)], below[:, : layer.w_ih.shape[1]]
        by_x = by_h = own(dgates)
        if left.by_h is not None:
            by_h = own(left.rows.of(left.by_h[lane]))
        if layer.b_ih is not None:
            bias = by_x.sum(-2)
            apart = left.kernels.apart
            biases = [bias, own(left.by_h_gates(lane)).sum(-2) if apart else bias.clone()]
        if left.raw_ih is not None:
            by_x = left.by_x(lane)
        found += [by_x.mT @ own(below), by_h.mT @ own(left.h_before(lane))]
        if layer.b_ih is not None:
            found += biases
        if left.dh is not None:
            dh, m = left.rows.of(left.dh[lane]), _unprojected(left, lane)
            found.append(own(dh).mT @ own(m))
        if left.dweight is not None:
            dweight = left.rows.of(left.dweight[lane]).sum(0)
            if (units := left.cell.units) is not None:  # zeros behind a vector's units
                widths = CELLS[left.cell.cell].cell.widths_of("weights", left.H, units)
                vectors = zip(dweight.split(left.H), widths, strict=True)
                dweight = torch.cat([pad(v[:n], (0, left.H - n)) for v, n in vectors])
            found.append(dweight.to(dgates.dtype))
        if layer.w_inner:
            found += _of_inner(left, lane)
        if left.raw_ih is not None:
            found += _of_norms(left, lane, dgates)
    return found


def _rows_of(rows: LaneRows, samples: int, t: Tensor) -> Tensor:
    """Return t [live, C] unchanged, or, with `samples` > 0, its rows by sample [samples, ., C].

    The result by sample has zeros where a row has ended.
    """
    if samples == 0:
        return t
    return rows.padded(t).unflatten(1, (samples, -1)).transpose(0, 1).flatten(1, 2)


def _unprojected(left: BackwardBuffers, lane: int) -> Tensor:
    """Return m [live, H], the h before its projection: an LSTM's is o * tanh(c)."""
    if launch.keeps_m(left.cell, True):
        saved = left.kernels.saved * left.H
        return left.lane_of(left.gates, lane)[:, saved : saved + left.H].to(left.dh.dtype)
    o = left.lane_of(left.gates, lane)[:, -left.H :]
    added = left.layers[lane].added()
    return (o * seen(left.c_made(lane), added).tanh()).to(left.dh.dtype)


def _of_inner(left: BackwardBuffers, lane: int) -> list[Tensor]:
    """Return the gradients by the weights of products inside a step.

    The gradients by what they made are those by their biases, the last weights of a unit.
    """
    inner, H, dtype = left.kernels.inner, left.H, left.dgates.dtype
    saved = left.lane_of(left.gates, lane)
    by_products = left.rows.of(left.dweight[lane])[:, -sum(inner) * H :].to(dtype)
    units, found = left.cell.units, []
    made_by, factors = ([H] * len(inner),) * 2 if units is None else (units.products, units.factors)
    parts = by_products.split([n * H for n in inner], -1)
    for column, by, made, factor in zip(left.kernels.fed, parts, made_by, factors, strict=True):
        by = by.unflatten(-1, (-1, H))[..., :made].flatten(1)
        found.append(by.mT @ saved[:, column * H : column * H + factor].to(dtype))
    return found


def _of_norms(left: BackwardBuffers, lane: int, dgates: Tensor) -> list[Tensor]:
    """Return the gradients of both products' gains, and of c's gain and bias where c has them."""
    x_hat, h_hat = (normalized(left.rows.of(raw[lane]))[0] for raw in (left.raw_ih, left.raw_hh))
    found = [(dgates * x_hat).sum(0), (left.by_h_gates(lane) * h_hat).sum(0)]
    if left.layers[lane].gain_c is not None:
        dseen = left.rows.of(left.dseen[lane])
        found.append((dseen * normalized(left.c_made(lane))[0]).sum(0))
    if left.layers[lane].b_c is not None:
        found.append(dseen.sum(0))
    return [d.to(dgates.dtype) for d in found]


def of_first(left: BackwardBuffers) -> Tensor:
    """Return dh0 [L, B, P], through each row's first step in its lane's order of time."""
    rows, not_reset = left.rows, left.not_reset
    by_h = left.dgates if left.by_h is None else left.by_h
    first = rows.ends(by_direction(by_h, left.D), last=left.reverse)
    dh0 = left.dgates.new_empty(*first.shape[:2], left.h0.shape[2])
    for layer, dgates, of_lane in zip(left.layers, first.unbind(), dh0.unbind(), strict=True):
        torch.mm(dgates, layer.w_hh, out=of_lane)
    if left.h_mask is not None:
        dh0 = dh0 * left.h_mask
    if not_reset is not None:
        kept = [t.reshape(1, rows.N, 1) for t in not_reset]
        kept = rows.ends(kept, last=left.reverse).view(torch.bool)  # [D, B, 1]
        dh0 = torch.where(kept, dh0.view(-1, *kept.shape[:2], dh0.shape[-1]), 0.0).view_as(dh0)
    if left.dh_old is not None:
        dh0 = dh0 + left.dh_old
    return dh0.to(left.dgates.dtype)
