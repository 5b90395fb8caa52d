"""An LSTM as taggers and speech use it: both directions, rows of unequal length.

A form is how a user hands the rows over: "dense" (all T steps of all rows), "packed" (a
PackedSequence made beforehand) or "lengths" (padded, to this project's `lengths=`; nn.LSTM, which
has none, packs, runs and pads, and is timed with that).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import fused_lstm

from .contenders import BASE, Contender
from .local import flat_copy
from .timing import Timed, timed
from .work import Shape

FORMS = ("dense", "packed", "lengths")
SPREADS = ("equal", "uniform", "sentences")


class Case(NamedTuple):
    """What is run: a shape, one direction or both, how long the rows are, how they come."""

    shape: Shape
    bidirectional: bool = False
    spread: str = "equal"  # of SPREADS
    form: str = "dense"  # of FORMS

    def __str__(self) -> str:
        words = [self.spread, self.form] if self.form != "dense" else ["bidirectional"]
        return "-".join([*words, f"t{self.shape.T}", f"h{self.shape.H}"])


@dataclass(frozen=True)
class Sentences:
    """A case with its weights, input and incoming gradient, the same for all."""

    case: Case
    reference: nn.LSTM
    x: Tensor  # [T, B, I]
    dy: Tensor  # [T, B, D * H], zero past a row's end
    lengths: Tensor  # [B] int64, on the CPU

    @property
    def device(self) -> torch.device:
        return self.x.device

    @property
    def tokens(self) -> int:
        return int(self.lengths.sum())


def lengths_of(spread: str, T: int, B: int, generator: torch.Generator) -> Tensor:
    """B lengths of at most T; "sentences" are Penn Treebank's, about: 21 words, 10 either way."""
    if spread == "equal":
        return torch.full((B,), T)
    if spread == "uniform":
        found = torch.randint(1, T + 1, (B,), generator=generator)
    else:
        words = torch.randn(B, generator=generator) * 10 + 21
        found = (words * T / 60).round().long().clamp(1, T)
    found[0] = T  # so that both are padded to the same
    return found


def make_sentences(
    case: Case, device: torch.device, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Sentences:
    T, B, I, H, L = case.shape
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        reference = nn.LSTM(I, H, L, bidirectional=case.bidirectional).to(device, dtype)
    lengths = lengths_of(case.spread, T, B, generator)
    x = torch.randn(T, B, I, generator=generator)
    dy = torch.randn(T, B, H * (1 + case.bidirectional), generator=generator)
    dy[torch.arange(T)[:, None] >= lengths] = 0
    return Sentences(case, reference, x.to(device, dtype), dy.to(device, dtype), lengths)


class Tagger:
    """One module on a case. `answer` gives what is compared, `timed` what is timed."""

    modes = ("inference", "step")

    def __init__(self, contender: Contender, work: Sentences) -> None:
        self.work, case = work, work.case
        if contender.label == BASE:
            self.module = flat_copy(work.reference)
        else:
            own = {"engine": contender.engine, "fuse": contender.fuse}
            sizes = case.shape.I, case.shape.H, case.shape.L
            self.module = fused_lstm.LSTM(*sizes, bidirectional=case.bidirectional, **own)
            self.module.to(work.x).load_state_dict(work.reference.state_dict())
        self.takes_lengths = isinstance(self.module, fused_lstm.LSTM)
        self.x = work.x.clone().requires_grad_()
        if case.form == "packed":
            self.packed = pack_padded_sequence(work.x, work.lengths, enforce_sorted=False)
            self.x = self.packed.data.clone().requires_grad_()
            self.dy = pack_padded_sequence(work.dy, work.lengths, enforce_sorted=False).data
        else:
            self.dy = work.dy

    def forward(self) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        form, lengths = self.work.case.form, self.work.lengths
        if form == "packed":
            y, state = self.module(PackedSequence(self.x, *self.packed[1:]))
            return y.data, state
        if form == "dense":
            return self.module(self.x)
        if self.takes_lengths:
            return self.module(self.x, lengths=lengths)
        y, state = self.module(pack_padded_sequence(self.x, lengths, enforce_sorted=False))
        return pad_packed_sequence(y)[0], state

    def inference(self) -> Tensor:
        with torch.no_grad():
            return self.forward()[0]

    def step(self) -> tuple[Tensor, ...]:
        y, _ = self.forward()
        return torch.autograd.grad(y, [self.x, *self.module.parameters()], self.dy)

    def answer(self) -> dict[str, Tensor]:
        y, (h_n, c_n) = self.forward()
        found = {"y": y, "h_n": h_n, "c_n": c_n, "inference": self.inference()}
        names = ["x", *(name for name, _ in self.module.named_parameters())]
        grads = dict(zip(names, self.step(), strict=True))
        return {n: t.detach() for n, t in found.items()} | {
            f"{n}.grad": g for n, g in grads.items()
        }

    def timed(self, mode: str) -> Timed:
        return timed({"inference": self.inference, "step": self.step}[mode], self.work.device)

    def close(self) -> None: ...


def expected(work: Sentences) -> dict[str, Tensor]:
    """What nn.LSTM computes."""
    return Tagger(Contender(BASE, "cudnn", None), work).answer()
