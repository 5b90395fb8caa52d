"""All of nn.LSTM's options at once, with lengths and resets: a call, and what nn.LSTM makes of it.

nn.LSTM has no lengths and no resets. It packs, runs and pads for the one; for the other it runs
each row's pieces between two resets by themselves.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import fused_lstm
from tolerance import assert_close

KINDS = ("plain", "unbatched", "packed", "unsorted", "lengths")


class Case(NamedTuple):
    """kind: how input comes; "unsorted" is a PackedSequence too. lengths: of the rows, or None."""

    kind: str = "plain"
    T: int = 5
    B: int = 3
    I: int = 3
    H: int = 4
    L: int = 2
    bias: bool = True
    batch_first: bool = False
    bidirectional: bool = False
    proj_size: int = 0
    state: bool = True
    resets: bool = False
    seed: int = 0

    @property
    def ragged(self) -> bool:
        return self.kind in ("packed", "unsorted", "lengths")

    @property
    def options(self) -> dict:
        names = ("bias", "batch_first", "bidirectional", "proj_size")
        return {"num_layers": self.L} | {name: getattr(self, name) for name in names}


class Inputs(NamedTuple):
    """Time first, with a batch, padded: what both calls are made of."""

    x: Tensor  # [T, B, I]
    h0: Tensor | None
    c0: Tensor | None
    lengths: Tensor  # [B]
    resets: Tensor  # [T, B]


def make_inputs(case: Case, dtype: torch.dtype) -> Inputs:
    generator = torch.Generator().manual_seed(case.seed)

    def randn(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=dtype)

    T, B = case.T, 1 if case.kind == "unbatched" else case.B
    lanes = case.L * (1 + case.bidirectional)
    lengths = torch.full((B,), T)
    if case.ragged:
        lengths = torch.randint(1, T + 1, (B,), generator=generator)
        if case.kind != "lengths":
            lengths[0] = T  # or there would be fewer steps
        if case.kind == "packed":
            lengths = lengths.sort(descending=True).values
    h0 = c0 = None
    if case.state:
        h0, c0 = randn(lanes, B, case.proj_size or case.H), randn(lanes, B, case.H)
    resets = torch.rand(T, B, generator=generator) < (0.3 if case.resets else -1)
    return Inputs(randn(T, B, case.I), h0, c0, lengths, resets)


def make_modules(case: Case, engine: str, fuse: str | None, dtype: torch.dtype) -> tuple:
    """nn.LSTM and ours with the same weights."""
    torch.manual_seed(case.seed)
    theirs = nn.LSTM(case.I, case.H, dtype=dtype, **case.options)
    options = {"dtype": dtype, "engine": engine, "fuse": fuse, **case.options}
    ours = fused_lstm.LSTM(case.I, case.H, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def call(module: fused_lstm.LSTM, case: Case, given: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Ours on input as `case` says it comes; y padded [T, B, D * P] again, h_n, c_n with B."""
    x, h0, c0, lengths, resets = given
    state = None if h0 is None else (h0, c0)
    options = {}
    if case.kind in ("packed", "unsorted"):
        kind = {"enforce_sorted": case.kind == "packed", "batch_first": case.batch_first}
        ordered = x.transpose(0, 1) if case.batch_first else x
        packed = pack_padded_sequence(ordered, lengths, **kind)
        if case.resets:
            ordered = resets.T if case.batch_first else resets
            options["resets"] = pack_padded_sequence(ordered, lengths, **kind).data
        y, (h_n, c_n) = module(packed, state, **options)
        assert isinstance(y, PackedSequence)
        return pad_packed_sequence(y)[0], h_n, c_n
    if case.kind == "unbatched":
        x, resets = x[:, 0], resets[:, 0]
        state = None if state is None else tuple(s[:, 0] for s in state)
    elif case.batch_first:
        x, resets = x.transpose(0, 1), resets.T
    if case.kind == "lengths":
        options["lengths"] = lengths
    if case.resets:
        options["resets"] = resets
    y, (h_n, c_n) = module(x, state, **options)
    if case.kind == "unbatched":
        return y[:, None], h_n[:, None], c_n[:, None]
    return y.transpose(0, 1) if case.batch_first else y, h_n, c_n


def expected(module: nn.LSTM, case: Case, given: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """The same by nn.LSTM, of one row after another where rows are ragged or begin anew."""
    x, h0, c0, lengths, resets = given
    D, T, B = 1 + case.bidirectional, *x.shape[:2]
    lanes, P = case.L * D, case.proj_size or case.H
    if h0 is None:
        h0, c0 = x.new_zeros(lanes, B, P), x.new_zeros(lanes, B, case.H)
    rows = [_row(module, x[:n, b], h0[:, b], c0[:, b], resets[:n, b], D)
            for b, n in enumerate(lengths.tolist())]  # fmt: skip
    y = torch.stack([torch.cat([y, y.new_zeros(T - len(y), D * P)]) for y, _, _ in rows], 1)
    return y, *(torch.stack([row[n] for row in rows], 1) for n in (1, 2))


def _row(module, x, h0, c0, resets, D):
    """x [T, I], h0, c0 [L * D, ...] of one row, piece by piece."""
    batch_first, module.batch_first = module.batch_first, False
    begins = [0, *(t for t in range(1, len(x)) if resets[t]), len(x)]
    outputs, lasts = [], []
    for begin, end in pairwise(begins):
        comes = [begin == 0 and not resets[0], end == len(x)][:D]  # whose state is the given one
        mask = torch.tensor(comes).repeat(len(h0) // D)[:, None]
        y, last = module(x[begin:end], tuple(torch.where(mask, s, 0.0) for s in (h0, c0)))
        outputs.append(y)
        lasts.append(last)
    module.batch_first = batch_first
    forward = torch.tensor([True, False][:D]).repeat(len(h0) // D)[:, None]
    last = (torch.where(forward, lasts[-1][n], lasts[0][n]) for n in (0, 1))
    return torch.cat(outputs), *last


def run(function, module: nn.Module, case: Case, given: Inputs) -> dict[str, Tensor]:
    """y, h_n, c_n and the gradients of all that has one, by name, by a loss that weighs each."""
    leaves = {name: t for name, t in zip("xhc", given, strict=False) if t is not None}
    leaves = {name: t.detach().requires_grad_() for name, t in leaves.items()}
    module.zero_grad()
    outputs = function(module, case, Inputs(*map(leaves.get, "xhc"), *given[3:]))
    weights = [torch.linspace(-1, 1, o.numel(), dtype=o.dtype).cos().view_as(o) for o in outputs]
    sum((o * w).sum() for o, w in zip(outputs, weights, strict=True)).backward()
    found = dict(zip(("y", "h_n", "c_n"), (o.detach() for o in outputs), strict=True))
    found |= {f"{name}.grad": t.grad for name, t in leaves.items()}
    return found | {f"{name}.grad": p.grad for name, p in module.named_parameters()}


def check(case: Case, engine: str, fuse: str | None, dtype: torch.dtype = torch.float64) -> None:
    """Ours gives what nn.LSTM gives, value by value and gradient by gradient."""
    if engine == "triton":  # whose interpreter takes as long for each step
        case = case._replace(T=min(case.T, 3))
    theirs, ours = make_modules(case, engine, fuse, dtype)
    given = make_inputs(case, dtype)
    wanted, found = run(expected, theirs, case, given), run(call, ours, case, given)
    for name, value in wanted.items():
        assert_close(found[name], value, name)
