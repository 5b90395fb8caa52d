"""Cases: shapes that people know, by name, and the input and weights of an LSTM alone.

T, B, I, H, L: time steps, batch, input size, hidden size, layers; D: directions.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# How the rows come: all T steps of all; a PackedSequence made beforehand; padded, to this project's
# `lengths=`; padded, and packed before and padded after the call, which is timed too (what nn.LSTM,
# which has no `lengths=`, does for `lengths` as well); with states that begin anew, `resets=`
# (nn.LSTM, which has none, is called step by step).
FORMS = ("dense", "packed", "lengths", "padded", "resets")
SPREADS = ("equal", "uniform", "sentences")
GATES = {"lstm": 4, "gru": 3}
RESET = 0.01  # of all steps, in the form "resets"

# How many of Penn Treebank's training sentences (ptb.train.txt as Mikolov has it, without <eos>)
# have 1, 2, ... words.
SENTENCES = (
    137, 282, 309, 434, 504, 630, 739, 929, 992, 1101, 1226, 1508, 1457, 1540, 1529, 1640, 1616,
    1714, 1580, 1666, 1599, 1566, 1566, 1393, 1452, 1365, 1245, 1146, 1102, 1031, 881, 768, 696,
    581, 548, 483, 441, 384, 352, 263, 252, 237, 184, 159, 121, 99, 89, 74, 58, 56, 62, 40, 27, 29,
    27, 19, 28, 9, 14, 17, 13, 9, 8, 2, 1, 2, 2, 5, 6, 2, 1, 1, 6, 1, 3, 1, 3, 2, 0, 2, 1, 1,
)  # fmt: skip


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Shape(NamedTuple):
    """The sizes of a call; written l2t35b20h650, with i40 before h where I is not H."""

    T: int
    B: int
    I: int
    H: int
    L: int

    def __str__(self) -> str:
        width = "" if self.I == self.H else f"i{self.I}"
        return f"l{self.L}t{self.T}b{self.B}{width}h{self.H}"

    def resized(self, axis: str, value: int) -> Shape:
        """Return it with another size of one dimension; the input is as wide as the layers."""
        return self._replace(**dict.fromkeys("HI" if axis == "H" else axis, value))

    @property
    def tokens(self) -> int:
        """Return the words that one pass reads."""
        return self.T * self.B

    def flops(
        self, mode: str, tokens: int | None = None, directions: int = 1, gates: int = 4
    ) -> int:
        """Return the operations of the matrix products alone; a backward has twice a forward's.

        `tokens` says how many there are, where rows end early.
        """
        inputs = self.I + (self.L - 1) * directions * self.H
        per_token = 2 * gates * self.H * directions * (inputs + self.L * self.H)
        tokens = self.tokens if tokens is None else tokens
        return tokens * per_token * {"backward": 2, "step": 3}.get(mode, 1)


@dataclass(frozen=True)
class Case:
    """A call: its shape, one direction or both, how long the rows are, how they come."""

    name: str
    shape: Shape
    source: str = ""  # who else measures it
    bidirectional: bool = False
    spread: str = "equal"  # of SPREADS
    form: str = "dense"  # of FORMS
    cell: str = "lstm"  # or "gru"
    loss: str = "all"  # steps whose outputs it reads: all, or the last

    def __str__(self) -> str:
        return self.name

    def resized(self, axis: str, value: int) -> Case:
        """Return it with another size of one dimension, named after that."""
        return replace(self, name=f"{axis}={value}", shape=self.shape.resized(axis, value))


PTB = "Zaremba et al. 2014, Penn Treebank"
BENCHDNN = "oneDNN, benchdnn/inputs/rnn"
NAMED = [
    Case("small", Shape(20, 20, 200, 200, 2), PTB),
    Case("medium", Shape(35, 20, 650, 650, 2), PTB),
    Case("large", Shape(35, 20, 1500, 1500, 2), PTB),
    Case("flashrnn", Shape(1024, 16, 768, 768, 1), "FlashRNN, figure 1 (one head)"),
    Case("gnmt", Shape(50, 64, 512, 512, 1), f"{BENCHDNN}: GNMT's encoder"),
    Case("gnmt-bidir", Shape(50, 64, 256, 256, 1), f"{BENCHDNN}: GNMT's encoder", True),
    Case("deepspeech2", Shape(50, 64, 1760, 1760, 1), f"{BENCHDNN}: DeepSpeech 2 (there a GRU)"),
    Case("rnn-t", Shape(1, 256, 1024, 1024, 1), f"{BENCHDNN}: RNN-T, lstm_3"),
    Case("deepbench-512", Shape(25, 16, 512, 512, 1), "DeepBench, training"),
    Case("deepbench-256", Shape(150, 32, 256, 256, 1), "DeepBench, training"),
    Case("deepbench-server", Shape(25, 1, 1024, 1024, 1), "DeepBench, inference"),
    Case("time-series", Shape(100, 32, 1, 64, 1), "one number a step, as forecasters read it"),
    Case("rl", Shape(128, 32, 256, 256, 1), "a rollout whose episodes end in it", form="resets"),
    Case("streaming", Shape(1, 1, 80, 256, 2), "one frame a call"),
]
CASES = {case.name: case for case in NAMED}


def choose(names: str) -> list[Case]:
    """Return the comma-separated `names` in the order of CASES; ValueError for an unknown one."""
    words = [name.strip() for name in names.split(",")]
    for name in words:
        if name not in CASES:
            raise ValueError(f"cases: got {name!r}; expected of {', '.join(CASES)}")
    return [case for name, case in CASES.items() if name in words]


def grid(count: int, seed: int, most: float = 1e10) -> list[Case]:
    """Return calls of one layer drawn at random, sizes log-uniform: an LSTM, a GRU, in turns.

    T is 1 to 400, where 1 has a third, B 1 to 256, H and I, which are equal, 16 to 2048. `most` is
    the operations of a call, at most.
    """
    draw, cases = random.Random(seed), []
    while len(cases) < count:
        T, B, H = (round(2 ** draw.uniform(0, math.log2(n))) for n in (400, 256, 128))
        shape = Shape(1 if draw.random() < 1 / 3 else T, B, 16 * H, 16 * H, 1)
        cell = ("lstm", "gru")[len(cases) % 2]
        if shape.flops("inference", gates=GATES[cell]) <= most:
            name = f"{cell} T={shape.T} B={shape.B} H={shape.H}"
            cases.append(Case(name, shape, f"drawn, seed {seed}", cell=cell))
    return cases


# --- an LSTM alone ---


@dataclass(frozen=True)
class Problem:
    """The same for all contenders: `reference` is the nn.LSTM whose answer is the right one."""

    case: Case
    reference: nn.LSTM | nn.GRU
    x: Tensor  # [T, B, I]
    h0: Tensor  # [D * L, B, H]
    c0: Tensor  # [D * L, B, H]
    dy: Tensor  # [T, B, D * H], the gradient that comes back, zero where the loss reads nothing
    lengths: Tensor  # [B] int64, on the CPU
    resets: Tensor  # [T, B] bool

    @property
    def device(self) -> torch.device:
        """Return where the tensors lie."""
        return self.x.device

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of input and weights."""
        return self.x.dtype

    @property
    def tokens(self) -> int:
        """Return the steps of all rows together."""
        return int(self.lengths.sum())

    def flops(self, mode: str) -> int:
        """Return the operations of a call's matrix products."""
        directions, gates = 1 + self.case.bidirectional, GATES[self.case.cell]
        return self.case.shape.flops(mode, self.tokens, directions, gates)

    def facts(self, mode: str) -> dict[str, Any]:
        """Return what a record says of it."""
        return {
            "shape": self.case.shape._asdict(), "form": self.case.form,
            "bidirectional": self.case.bidirectional, "tokens": self.tokens, "cell": self.case.cell,
            "loss": self.case.loss,
            "flops": self.flops(mode),
        }  # fmt: skip

    def named(self) -> dict[str, Tensor]:
        """Return what a peer is handed: weights under nn.LSTM's names."""
        tensors = {"x": self.x, "h0": self.h0, "c0": self.c0, "dy": self.dy}
        return tensors | dict(self.reference.named_parameters())

    def expected(self) -> dict[str, Tensor]:
        """Return what nn.LSTM computes: outputs, final state and all gradients."""
        from .contenders import NN_LSTM
        from .lstm import Local

        return Local(NN_LSTM, self).answer()


def make_problem(
    case: Case | Shape,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Problem:
    """Return a problem: weights as nn.LSTM draws them, normal input and gradient, state zero.

    A text begins with that state, and one of the peers (haste) knows no other; that engines use
    the state that they get is for the tests.
    """
    case = Case(str(case), case) if isinstance(case, Shape) else case
    T, B, I, H, L = case.shape
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kind = nn.GRU if case.cell == "gru" else nn.LSTM
        reference = kind(I, H, L, bidirectional=case.bidirectional).to(device, dtype)
    lengths = lengths_of(case.spread, T, B, generator)
    T, D = int(lengths.max()), 1 + case.bidirectional  # rows are padded to the longest
    x = torch.randn(T, B, I, generator=generator)
    dy = torch.randn(T, B, D * H, generator=generator)
    dy[torch.arange(T)[:, None] >= lengths] = 0
    if case.loss == "last":
        dy[torch.arange(T)[:, None] < lengths - 1] = 0
    resets = (torch.rand(T, B, generator=generator) < RESET).to(device)
    h0, c0 = torch.zeros(2, D * L, B, H).to(device, dtype)
    x, dy = x.to(device, dtype), dy.to(device, dtype)
    return Problem(case, reference, x, h0, c0, dy, lengths, resets)


def lengths_of(spread: str, T: int, B: int, generator: torch.Generator) -> Tensor:
    """Return B lengths of at most T; "sentences" are drawn from Penn Treebank's."""
    if spread == "equal":
        return torch.full((B,), T)
    if spread == "uniform":
        return torch.randint(1, T + 1, (B,), generator=generator)
    counts = torch.tensor(SENTENCES[:T], dtype=torch.float64)
    return torch.multinomial(counts, B, replacement=True, generator=generator) + 1
