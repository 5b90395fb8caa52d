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

# How many of Penn Treebank's training sentences (ptb.train.txt as Mikolov has it, without <eos>)
# have 1, 2, ... words.
SENTENCES = (
    137, 282, 309, 434, 504, 630, 739, 929, 992, 1101, 1226, 1508, 1457, 1540, 1529, 1640, 1616,
    1714, 1580, 1666, 1599, 1566, 1566, 1393, 1452, 1365, 1245, 1146, 1102, 1031, 881, 768, 696,
    581, 548, 483, 441, 384, 352, 263, 252, 237, 184, 159, 121, 99, 89, 74, 58, 56, 62, 40, 27, 29,
    27, 19, 28, 9, 14, 17, 13, 9, 8, 2, 1, 2, 2, 5, 6, 2, 1, 1, 6, 1, 3, 1, 3, 2, 0, 2, 1, 1,
)  # fmt: skip


class Case(NamedTuple):
    """What is run: a shape, one direction or both, how long the rows are, how they come."""

    shape: Shape
    bidirectional: bool = False
    spread: str = "equal"  # of SPREADS
    form: str = "dense"  # of FORMS

    def __str__(self) -> str:
        words = [self.spread, self.form] if self.form != "dense" else ["bidirectional"]
        return "-".join([*words, f"t{self.shape.T}", f"h{self.shape.H}"])

    def beside(self, tokens: int) -> Case | None:
        """What the time of a token stands beside: with `lengths=` packed rows, packed as many equal
        ones (of about so many tokens as there are), else nothing.
        """
        if self.form == "lengths":
            return self._replace(form="packed")
        if self.form == "dense" or self.spread == "equal":
            return None
        T = round(tokens / self.shape.B)
        return self._replace(shape=self.shape._replace(T=T), spread="equal")


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
    """B lengths of at most T; "sentences" are drawn from Penn Treebank's."""
    if spread == "equal":
        return torch.full((B,), T)
    if spread == "uniform":
        return torch.randint(1, T + 1, (B,), generator=generator)
    counts = torch.tensor(SENTENCES[:T], dtype=torch.float64)
    return torch.multinomial(counts, B, replacement=True, generator=generator) + 1


def make_sentences(
    case: Case, device: torch.device, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Sentences:
    most, B, I, H, L = case.shape
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        reference = nn.LSTM(I, H, L, bidirectional=case.bidirectional).to(device, dtype)
    lengths = lengths_of(case.spread, most, B, generator)
    T = int(lengths.max())  # rows are padded to the longest
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
