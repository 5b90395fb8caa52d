"""Each kernel of fused_lstm.ops beside its twin, the same function in plain PyTorch.

A pair is a `Call` of fused_lstm.derivatives, which says how autograd uses it. It holds what a
kernel takes beside tensors, puts these in the order of the kernel, and knows which outputs a
backward needs. Shapes as in fused_lstm.ops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from . import cell as cells
from . import reference
from .derivatives import filled


@dataclass(slots=True, eq=False)
class Cell:
    ops: SimpleNamespace
    inputs: int = 2
    results: int = 2

    @property
    def kernel(self):
        return self.ops.cell.default

    def arguments(self, gates, c):
        return (gates, c), {}

    def twin(self, gates, c):
        return reference.cell(gates, c)

    def kept(self, h, c_next):
        return (c_next,)

    def backward(self, needed):
        return CellBackward(self.ops)


@dataclass(slots=True, eq=False)
class CellBackward:
    ops: SimpleNamespace
    inputs: int = 4

    @property
    def kernel(self):
        return self.ops.cell_backward.default

    def arguments(self, dh, dc_next, gates, c, c_next):
        dh = torch.zeros_like(c_next, dtype=gates.dtype) if dh is None else dh
        dc_next = torch.zeros_like(c_next) if dc_next is None else dc_next
        return (gates, c, c_next, dh, dc_next), {}

    def twin(self, dh, dc_next, gates, c, c_next):
        outputs, pullback = torch.func.vjp(reference.cell, gates, c)
        return pullback(filled((dh, dc_next), outputs))


def named_lanes(directions, batch_sizes, keep, cell: cells.Cell, precision=None) -> dict:
    """The operator's arguments by name; none where all are as usual, which is faster."""
    others = cell.arguments()
    if precision is not None:
        others = others | {"precision": precision}
    if directions == 1 and batch_sizes is None and keep is None:
        return others
    return {"directions": directions, "batch_sizes": batch_sizes, "keep": keep} | others


@dataclass(slots=True, eq=False)
class LSTM:
    ops: SimpleNamespace
    dropout: float
    fuse: str
    save: bool
    directions: int
    inputs: int
    cell: cells.Cell = cells.PLAIN
    precision: str | None = None
    results: int = 3

    @property
    def kernel(self):
        return self.ops.lstm.default

    def arguments(self, x, h0, c0, *rest):
        *weights, seed, batch_sizes, keep = rest
        inputs = x, h0, c0, weights, self.dropout, seed, self.fuse, self.save
        return inputs, named_lanes(self.directions, batch_sizes, keep, self.cell, self.precision)

    def twin(self, x, h0, c0, *rest):
        *weights, seed, batch_sizes, keep = rest
        lanes = self.directions, batch_sizes, keep
        return reference.lstm(x, h0, c0, weights, self.dropout, seed, *lanes, self.cell)

    def kept(self, y, h_n, c_n, h, c, gates):
        return y, h, c, gates

    def backward(self, needed):
        return LSTMBackward(self, needed[0], 3 + self.inputs)

    def together(self, apply, n, in_dims, tensors):
        """Under vmap: samples are rows of one batch, where nothing but rows differs."""
        if not self.are_rows(in_dims, tensors):
            return None
        *inputs, keep = tensors
        rows = map(partial(as_rows, n, 1), inputs[:3], in_dims[:3])
        keep = as_rows(n, 2, keep, in_dims[-1])
        y, h_n, c_n, *saved = apply(self, *rows, *inputs[3:], keep)
        places = 1, 1, 1, *[2 if self.save else None] * 3
        outputs = zip((y, h_n, c_n, *saved), places, strict=True)
        return tuple(of if d is None else of.unflatten(d, (n, -1)) for of, d in outputs), places

    def are_rows(self, in_dims, tensors) -> bool:
        """Whether a vmap gives each sample its own x, and all the same weights and masks."""
        *weights, _seed, _batch_sizes = in_dims[3:-1]
        plain = tensors[-2] is None and self.dropout == 0 and not self.cell.on
        return plain and in_dims[0] is not None and all(d is None for d in weights)


@dataclass(slots=True, eq=False)
class LSTMBackward:
    forward: LSTM
    needs_dx: bool
    inputs: int

    def kernel(self, *arguments, **lanes):
        dx, *others, dweights = self.forward.ops.lstm_backward.default(*arguments, **lanes)
        return dx if self.needs_dx else None, *others, *dweights

    def arguments(self, dy, dh_n, dc_n, x, h0, c0, *rest):
        *rest, y, h, c, gates = rest
        (*inputs, save), lanes = self.forward.arguments(x, h0, c0, *rest)
        if not save:  # an outer transform wanted what nobody here knew of
            y, _, _, h, c, gates = self.forward.kernel(*inputs, True, **lanes)
        return (dy, dh_n, dc_n, *inputs, y, h, c, gates, self.needs_dx), lanes

    def twin(self, dy, dh_n, dc_n, x, h0, c0, *rest):
        weights, constants = rest[: self.inputs - 6], rest[self.inputs - 6 : -4]

        def forward(*tensors):
            return self.forward.twin(*tensors, *constants)

        outputs, pullback = torch.func.vjp(forward, x, h0, c0, *weights)
        return pullback(filled((dy, dh_n, dc_n), outputs))

    def together(self, apply, n, in_dims, tensors):
        """Under vmap: one sweep over all samples' rows, weights' gradients sample by sample."""
        if not self.forward.are_rows(in_dims[3:-4], tensors[3:-4]):
            return None
        given = map(partial(as_rows, n), self.places(), tensors, in_dims)
        dx, *others = apply(PerSample(self, n), *given)
        states = (t if t is None else t.unflatten(1, (n, -1)) for t in (dx, *others[:2]))
        outputs = *states, *others[2:]
        places = None if dx is None else 1, 1, 1, *[0] * len(others[2:])
        return outputs, places

    def places(self) -> list[int | None]:
        """Which dimension of each tensor is the rows'; None of those that have none."""
        return [*[1] * 6, *[None] * (self.inputs - 6 + 2), 2, 1, 2, 2, 2]


@dataclass(slots=True, eq=False)
class PerSample:
    """An `LSTMBackward` of n samples' rows side by side; their weights' gradients stay apart."""

    of: LSTMBackward
    n: int

    @property
    def inputs(self):
        return self.of.inputs

    def arguments(self, *tensors):
        return tensors, {}

    def kernel(self, *tensors):
        arguments, lanes = self.of.arguments(*tensors)
        return self.of.kernel(*arguments, **lanes, samples=self.n)

    def twin(self, *tensors):
        pairs = list(zip(tensors, self.of.places(), strict=True))
        dims = tuple(p if has_rows(t, p) else None for t, p in pairs)
        apart = [t if p is None else t.unflatten(p, (self.n, -1))
                 for (t, _), p in zip(pairs, dims, strict=True)]  # fmt: skip
        places = 1, 1, 1, *[0] * (self.inputs - 6)
        dx, dh0, dc0, *dweights = torch.func.vmap(self.of.twin, dims, places)(*apart)
        return *(t.flatten(1, 2) for t in (dx, dh0, dc0)), *dweights


def has_rows(tensor: Tensor | None, place: int | None) -> bool:
    """Whether it has a dimension of rows: what a forward has not kept has one dimension."""
    return tensor is not None and place is not None and tensor.dim() > 1


def as_rows(n: int, place: int | None, tensor: Tensor | None, dim: int | None) -> Tensor | None:
    """An argument of a vmap of n samples, its dimension of rows n times as long."""
    if tensor is None or place is None or not has_rows(tensor, place):
        return tensor
    if dim is None:
        tensor = tensor.unsqueeze(place).expand(*tensor.shape[:place], n, *tensor.shape[place:])
    else:
        tensor = tensor.movedim(dim, place)
    return tensor.flatten(place, place + 1)


@dataclass(slots=True, eq=False)
class Dropout:
    ops: SimpleNamespace
    p: float
    first: int

    @property
    def kernel(self):
        return self.ops.dropout.default

    def arguments(self, x, seed):
        return (x, self.p, seed, self.first), {}

    def transposed(self):
        return self  # x times a mask


@dataclass(slots=True, eq=False)
class RowLosses:
    """A softmax layer's loss of each row; `run` as fused_lstm.ops has linear_cross_entropy."""

    run: Callable
    ignore_index: int
    inputs: int = 3
    results: int = 1

    def kernel(self, *tensors):
        return self.run(*tensors, None, self.ignore_index)[:1]

    def arguments(self, hidden, weight, bias, target):
        return (hidden, weight, bias, target), {}

    def twin(self, hidden, weight, bias, target):
        weight, bias = (t if t is None else t.to(hidden.dtype) for t in (weight, bias))
        logits = F.linear(hidden, weight, bias).to(reference.state_dtype(hidden.dtype))
        options = {"reduction": "none", "ignore_index": self.ignore_index}
        return (F.cross_entropy(logits, target, **options),)

    def kept(self, losses):
        return ()

    def backward(self, needed):
        return RowLossesBackward(self)


@dataclass(slots=True, eq=False)
class RowLossesBackward:
    forward: RowLosses
    inputs: int = 4

    def kernel(self, dlosses, *tensors):
        _, *grads = self.forward.run(*tensors, dlosses, self.forward.ignore_index)
        inputs = zip(grads, tensors[:3], strict=True)
        return tuple(None if t is None else grad.to(t.dtype) for grad, t in inputs)

    def arguments(self, dlosses, *tensors):
        return (dlosses, *tensors), {}

    def twin(self, dlosses, hidden, weight, bias, target):
        given = [t for t in (hidden, weight, bias) if t is not None]

        def forward(*given):
            return self.forward.twin(*given, *[None] * (3 - len(given)), target)

        _, pullback = torch.func.vjp(forward, *given)
        return pullback((dlosses,))
