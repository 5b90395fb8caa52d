"""An LSTM alone: its shape, what every contender is given, and who runs it in this process.

T, B, I, H, L: time steps, batch, input size, hidden size, layers; D: directions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import fused_lstm
from lm.graph import WARM_UP, CudaGraphs
from lm.settings import PRESETS

from .contenders import BASE, NN_LSTM, Contender
from .measure.timing import Timed, timed

# What is timed. `backward` has its forward done beforehand; `step` is forward + backward.
MODES: tuple[str, ...] = ("inference", "forward", "backward", "step")
GRAPH = " graph"  # at the end of a mode's name: its work is replayed from a CUDA graph
# How a user hands the rows over: all T steps of all; a PackedSequence made beforehand; padded, to
# this project's `lengths=`; padded, and packed before and padded after the call, which is timed too
# (what nn.LSTM, which has no `lengths=`, does there as well).
FORMS = ("dense", "packed", "lengths", "padded")
SPREADS = ("equal", "uniform", "sentences")

# How many of Penn Treebank's training sentences (ptb.train.txt as Mikolov has it, without <eos>)
# have 1, 2, ... words.
SENTENCES = (
    137, 282, 309, 434, 504, 630, 739, 929, 992, 1101, 1226, 1508, 1457, 1540, 1529, 1640, 1616,
    1714, 1580, 1666, 1599, 1566, 1566, 1393, 1452, 1365, 1245, 1146, 1102, 1031, 881, 768, 696,
    581, 548, 483, 441, 384, 352, 263, 252, 237, 184, 159, 121, 99, 89, 74, 58, 56, 62, 40, 27, 29,
    27, 19, 28, 9, 14, 17, 13, 9, 8, 2, 1, 2, 2, 5, 6, 2, 1, 1, 6, 1, 3, 1, 3, 2, 0, 2, 1, 1,
)  # fmt: skip


class Shape(NamedTuple):
    """Written l2t35b20h650, with i40 before h where the input's size is another."""

    T: int
    B: int
    I: int
    H: int
    L: int

    def __str__(self) -> str:
        own = "" if self.I == self.H else f"i{self.I}"
        return f"l{self.L}t{self.T}b{self.B}{own}h{self.H}"

    def resized(self, axis: str, value: int) -> Shape:
        """With another size of one dimension; the input is as wide as the layers."""
        return self._replace(**dict.fromkeys("HI" if axis == "H" else axis, value))

    @property
    def tokens(self) -> int:
        """Words that one pass reads."""
        return self.T * self.B

    def flops(self, mode: str, tokens: int | None = None, directions: int = 1) -> int:
        """Operations of the matrix products alone; a backward pass has twice a forward's.

        `tokens`: how many there are, where rows end early.
        """
        inputs = self.I + (self.L - 1) * directions * self.H
        per_token = 8 * self.H * directions * (inputs + self.L * self.H)
        tokens = self.tokens if tokens is None else tokens
        return tokens * per_token * {"backward": 2, "step": 3}.get(mode, 1)


SIZES = {
    name: Shape(p.num_steps, p.batch_size, p.hidden_size, p.hidden_size, p.num_layers)
    for name, p in PRESETS.items()
    if name in ("small", "medium", "large")
}


def choose_sizes(names: str) -> list[str]:
    """The comma-separated `names` in the order of SIZES; ValueError for one that is not there."""
    words = [name.strip() for name in names.split(",")]
    for name in words:
        if name not in SIZES:
            raise ValueError(f"sizes: got {name!r}, should be of {', '.join(SIZES)}")
    return [name for name in SIZES if name in words]


class Case(NamedTuple):
    """What is run: a shape, one direction or both, how long the rows are, how they come."""

    shape: Shape
    bidirectional: bool = False
    spread: str = "equal"  # of SPREADS
    form: str = "dense"  # of FORMS

    def __str__(self) -> str:
        words = ["bidirectional"] * self.bidirectional
        words += [self.spread, self.form] if self.form != "dense" else []
        return "-".join([*words, str(self.shape)])

    def beside(self, tokens: int) -> Case | None:
        """What the time of a token stands beside: with `lengths=` the same rows packed and padded
        by the user, packed as many equal ones (of about so many tokens as there are), else nothing.
        """
        if self.form == "lengths":
            return self._replace(form="padded")
        if self.form == "dense" or self.spread == "equal":
            return None
        T = round(tokens / self.shape.B)
        return self._replace(shape=self.shape._replace(T=T), spread="equal")


@dataclass(frozen=True)
class Problem:
    """The same for all: `reference` is the nn.LSTM whose answer is the right one."""

    case: Case
    reference: nn.LSTM
    x: Tensor  # [T, B, I]
    h0: Tensor  # [D * L, B, H]
    c0: Tensor  # [D * L, B, H]
    dy: Tensor  # [T, B, D * H], the gradient that comes back, zero past a row's end
    lengths: Tensor  # [B] int64, on the CPU

    @property
    def device(self) -> torch.device:
        return self.x.device

    @property
    def dtype(self) -> torch.dtype:
        return self.x.dtype

    @property
    def tokens(self) -> int:
        return int(self.lengths.sum())

    def flops(self, mode: str) -> int:
        return self.case.shape.flops(mode, self.tokens, 1 + self.case.bidirectional)

    def named(self) -> dict[str, Tensor]:
        """What a peer is handed over: weights under nn.LSTM's names."""
        given = {"x": self.x, "h0": self.h0, "c0": self.c0, "dy": self.dy}
        return given | dict(self.reference.named_parameters())

    def fresh(self) -> Problem:
        """The same with another input and another gradient."""
        generator = torch.Generator().manual_seed(1)
        return fill(self.case, self.reference, self.lengths, generator)


def make_problem(
    what: Case | Shape,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Problem:
    """Weights as nn.LSTM draws them, input and gradient from a normal distribution, state zero.

    A text begins with that state, and one of the peers (haste) knows no other; that engines use
    the state they are given is for the tests.
    """
    case = Case(what) if isinstance(what, Shape) else what
    T, B, I, H, L = case.shape
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        reference = nn.LSTM(I, H, L, bidirectional=case.bidirectional).to(device, dtype)
    return fill(case, reference, lengths_of(case.spread, T, B, generator), generator)


def fill(case: Case, reference: nn.LSTM, lengths: Tensor, generator: torch.Generator) -> Problem:
    """A problem with what is drawn anew; rows are padded to the longest."""
    _, B, I, H, L = case.shape
    T, D, weight = int(lengths.max()), 1 + case.bidirectional, next(reference.parameters())
    x = torch.randn(T, B, I, generator=generator)
    dy = torch.randn(T, B, D * H, generator=generator)
    dy[torch.arange(T)[:, None] >= lengths] = 0
    h0, c0 = weight.new_zeros(2, D * L, B, H)
    return Problem(case, reference, x.to(weight), h0, c0, dy.to(weight), lengths)


def lengths_of(spread: str, T: int, B: int, generator: torch.Generator) -> Tensor:
    """B lengths of at most T; "sentences" are drawn from Penn Treebank's."""
    if spread == "equal":
        return torch.full((B,), T)
    if spread == "uniform":
        return torch.randint(1, T + 1, (B,), generator=generator)
    counts = torch.tensor(SENTENCES[:T], dtype=torch.float64)
    return torch.multinomial(counts, B, replacement=True, generator=generator) + 1


class Local:
    """An engine at a fuse level, or nn.LSTM, with a problem's weights.

    `answer` gives what is compared, `timed` what is timed: the same calls.
    """

    def __init__(self, contender: Contender, problem: Problem) -> None:
        self.contender, self.problem, self.case = contender, problem, problem.case
        self.modes = MODES
        if problem.device.type == "cuda":
            self.modes += tuple(mode + GRAPH for mode in MODES if mode != "backward")
        self.module: nn.LSTM | fused_lstm.LSTM
        if contender.label == BASE:
            self.module = flat_copy(problem.reference)
        else:
            own = {"engine": contender.engine, "fuse": contender.fuse}
            sizes = self.case.shape.I, self.case.shape.H, self.case.shape.L
            self.module = fused_lstm.LSTM(*sizes, bidirectional=self.case.bidirectional, **own)
            self.module.to(problem.x).load_state_dict(problem.reference.state_dict())
        self.weights = list(self.module.parameters())
        self.packed = self._packed(problem.x) if self.case.form == "packed" else None
        x = problem.x if self.packed is None else self.packed.data
        self.x, self.dy = x.clone().requires_grad_(), self._rows(problem.dy).clone()
        self.y: Tensor | None = None

    def _packed(self, rows: Tensor) -> PackedSequence:
        return pack_padded_sequence(rows, self.problem.lengths, enforce_sorted=False)

    def _rows(self, rows: Tensor) -> Tensor:
        return rows if self.case.form != "packed" else self._packed(rows).data

    def renew(self, problem: Problem) -> None:
        """Take another input and gradient, in the same memory: a CUDA graph reads them too."""
        with torch.no_grad():
            self.x.copy_(self._rows(problem.x))
            self.dy.copy_(self._rows(problem.dy))

    def forward(self) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Keeps what a backward pass needs."""
        state, lengths = (self.problem.h0, self.problem.c0), self.problem.lengths
        if self.packed is not None:
            y, state = self.module(PackedSequence(self.x, *self.packed[1:]), state)
            y = y.data
        elif self.case.form == "dense":
            y, state = self.module(self.x, state)
        elif self.case.form == "lengths" and isinstance(self.module, fused_lstm.LSTM):
            y, state = self.module(self.x, state, lengths=lengths)
        else:
            y, state = self.module(self._packed(self.x), state)
            y = pad_packed_sequence(y)[0]
        self.y = y
        return y, state

    def backward(self) -> tuple[Tensor, ...]:
        """Gradients of x and of every weight."""
        y, self.y = self.y, None
        assert y is not None, "a forward comes before"
        return torch.autograd.grad(y, [self.x, *self.weights], self.dy)

    def inference(self) -> Tensor:
        with torch.no_grad():
            y, _ = self.forward()
        return y

    def step(self) -> tuple[Tensor, ...]:
        self.forward()
        return self.backward()

    def answer(self) -> dict[str, Tensor]:
        found = {"inference": self.inference()}
        y, (h_n, c_n) = self.forward()
        names = ["x", *(name for name, _ in self.module.named_parameters())]
        grads = {f"{n}.grad": g for n, g in zip(names, self.backward(), strict=True)}
        found |= {"y": y, "h_n": h_n, "c_n": c_n} | grads
        return {name: tensor.detach() for name, tensor in found.items()}

    def work(self, mode: str) -> tuple[Callable[[], object], Callable[[], object] | None]:
        """What is timed in `mode`, and what has to be done before each time (or None)."""
        return getattr(self, mode), self.forward if mode == "backward" else None

    def timed(self, mode: str) -> Timed:
        work, setup = self.work(mode.removesuffix(GRAPH))
        if mode.endswith(GRAPH):
            work = captured(work)
        return timed(work, self.problem.device, setup)

    def close(self) -> None:
        """Free what it holds."""
        self.y = None


def flat_copy(reference: nn.LSTM) -> nn.LSTM:
    """nn.LSTM at its best: cuDNN gets its weights in one buffer, and copies nothing at a call."""
    module = copy.deepcopy(reference)
    module.flatten_parameters()
    return module


def captured(work: Callable[[], object]) -> Callable[[], object]:
    """What replays a CUDA graph of `work`, warmed up on the stream of the capture.

    Raises lm.command.UserError where a graph cannot hold it.
    """
    graphs = CudaGraphs()
    for _ in range(WARM_UP):
        graphs.warm_up(work)
    return graphs.capture(work)


def expected(problem: Problem) -> dict[str, Tensor]:
    """What nn.LSTM itself computes: outputs, final state and all gradients."""
    return Local(NN_LSTM, problem).answer()
