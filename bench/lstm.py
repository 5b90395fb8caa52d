"""An LSTM alone, in this process: nn.LSTM, or an engine at a fuse level.

The modes that are timed: inference, without gradients; forward, which keeps what a backward needs;
backward, its forward done beforehand; step, forward and backward. On a CUDA device also some of
them replayed from a CUDA graph.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import fused_lstm

from .cases import DTYPES, GATES, Case, Shape
from .contenders import BASE, NN_LSTM, Contender, entered
from .core import Run, Runner, Task, Turn, timed
from .peers.remote import Remote

# --- the problem ---

RESET = 0.01  # of all steps, in the form "resets"
# How many of Penn Treebank's training sentences (ptb.train.txt as Mikolov has it, without <eos>)
# have 1, 2, ... words.
SENTENCES = (
    137, 282, 309, 434, 504, 630, 739, 929, 992, 1101, 1226, 1508, 1457, 1540, 1529, 1640, 1616,
    1714, 1580, 1666, 1599, 1566, 1566, 1393, 1452, 1365, 1245, 1146, 1102, 1031, 881, 768, 696,
    581, 548, 483, 441, 384, 352, 263, 252, 237, 184, 159, 121, 99, 89, 74, 58, 56, 62, 40, 27, 29,
    27, 19, 28, 9, 14, 17, 13, 9, 8, 2, 1, 2, 2, 5, 6, 2, 1, 1, 6, 1, 3, 1, 3, 2, 0, 2, 1, 1,
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """A problem, the same for all contenders. `reference` is the nn.LSTM whose answer is right."""

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

    def in_dtype(self, dtype: torch.dtype) -> Problem:
        """Return the same problem with tensors and weights in another dtype."""
        tensors = {name: getattr(self, name).to(dtype) for name in ("x", "h0", "c0", "dy")}
        return replace(self, reference=copy.deepcopy(self.reference).to(dtype), **tensors)

    def expected(self) -> dict[str, Tensor]:
        """Return what nn.LSTM computes: outputs, final state and all gradients.

        It computes them in float32 at least, and they are rounded to the problem's dtype. Its own
        gradients in bfloat16 can be wrong: see bench/gradients.py.
        """
        wide = self if self.dtype.itemsize >= 4 else self.in_dtype(torch.float32)
        answer = Local(NN_LSTM, wide).answer()
        return {name: value.to(self.dtype) for name, value in answer.items()}


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


# --- a contender ---

MODES: tuple[str, ...] = ("inference", "forward", "backward", "step")
GRAPH = " graph"  # at the end of a mode's name: its work is replayed from a CUDA graph
WARM_UP = 3  # calls before a capture: engines compile and allocate, and so do cuBLAS and cuDNN


class Local(Runner):
    """A contender with a problem's weights."""

    def __init__(self, contender: Contender, problem: Problem) -> None:
        self.contender, self.problem, self.case = contender, problem, problem.case
        self.device, self.modes = problem.device, MODES
        if problem.device.type == "cuda":
            self.modes += tuple(mode + GRAPH for mode in MODES if mode != "backward")
        self.module: Any  # nn.LSTM or nn.GRU, or fused_lstm's
        if contender.label == BASE:
            self.module = copy.deepcopy(problem.reference)
            self.module.flatten_parameters()  # one buffer for cuDNN, which copies none at a call
        else:
            _, _, I, H, L = self.case.shape
            ways = {"engine": contender.engine, "fuse": contender.fuse}
            kind = fused_lstm.GRU if self.case.cell == "gru" else fused_lstm.LSTM
            self.module = kind(I, H, L, bidirectional=self.case.bidirectional, **ways)
            self.module.to(problem.x).load_state_dict(problem.reference.state_dict())
        self.weights = list(self.module.parameters())
        self.packed = self._packed(problem.x) if self.case.form == "packed" else None
        x, dy = problem.x, problem.dy
        if self.packed is not None:
            x, dy = self.packed.data, self._packed(dy).data
        self.x, self.dy = x.clone().requires_grad_(), dy.clone()
        self.y: Tensor | None = None

    def _packed(self, rows: Tensor) -> PackedSequence:
        return pack_padded_sequence(rows, self.problem.lengths, enforce_sorted=False)

    def forward(self) -> tuple[Tensor, Any]:
        """Run the layers, keeping what a backward needs; return y and the last state."""
        state: Any = (self.problem.h0, self.problem.c0)
        lengths = self.problem.lengths
        form, ours = self.case.form, isinstance(self.module, fused_lstm.LSTM | fused_lstm.GRU)
        if self.case.cell == "gru":
            state = self.problem.h0
        if self.packed is not None:
            y, state = self.module(PackedSequence(self.x, *self.packed[1:]), state)
            y = y.data
        elif form == "dense":
            y, state = self.module(self.x, state)
        elif form == "lengths" and ours:
            y, state = self.module(self.x, state, lengths=lengths)
        elif form == "resets" and ours:
            y, state = self.module(self.x, state, resets=self.problem.resets)
        elif form == "resets":
            y, state = self._step_by_step(state)
        else:
            y, state = self.module(self._packed(self.x), state)
            y = pad_packed_sequence(y)[0]
        self.y = y
        return y, state

    def _step_by_step(self, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Call nn.LSTM on one step after another, its state zero where a row begins anew."""
        rows = []
        for x, reset in zip(self.x, self.problem.resets, strict=True):
            h, c = (s.masked_fill(reset[:, None], 0) for s in state)
            y, state = self.module(x[None], (h, c))
            rows.append(y)
        return torch.cat(rows), state

    def backward(self) -> tuple[Tensor, ...]:
        """Return gradients of x and of every weight."""
        y, self.y = self.y, None
        assert y is not None, "a forward comes before"
        return torch.autograd.grad(y, [self.x, *self.weights], self.dy)

    def inference(self) -> Tensor:
        """Return y, keeping nothing."""
        with torch.no_grad():
            y, _ = self.forward()
        return y

    def step(self) -> tuple[Tensor, ...]:
        """Run forward and backward."""
        self.forward()
        return self.backward()

    def answer(self) -> dict[str, Tensor]:
        """Return y, of inference too, the final state and all gradients."""
        inference = self.inference()
        y, state = self.forward()
        names = ["x", *(name for name, _ in self.module.named_parameters())]
        grads = {f"{n}.grad": g for n, g in zip(names, self.backward(), strict=True)}
        states = (state,) if self.case.cell == "gru" else state
        tensors = (
            {"inference": inference, "y": y}
            | dict(zip(("h_n", "c_n"), states, strict=False))
            | grads
        )
        return {name: tensor.detach() for name, tensor in tensors.items()}

    def work(self, mode: str) -> tuple[Run, Run | None]:
        """Return what is timed in `mode`, and what has to be done before each time, or None."""
        return getattr(self, mode), self.forward if mode == "backward" else None

    def timed(self, mode: str) -> Turn:
        """Return what takes a turn, from a CUDA graph where the mode says so."""
        if not mode.endswith(GRAPH):
            return super().timed(mode)
        return timed(captured(self.work(mode.removesuffix(GRAPH))[0]), self.device)

    def facts(self, mode: str, rounds: int) -> dict[str, Any]:
        """Return "memory", on a GPU: bytes at a call's peak above those before it."""
        if self.device.type != "cuda" or mode.endswith(GRAPH):
            return {}
        work, setup = self.work(mode)
        if setup is not None:
            setup()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        work()
        return {"memory": torch.cuda.max_memory_allocated(self.device) - before}

    def close(self) -> None:
        """Free what it holds."""
        self.y = None


def captured(work: Callable[[], object]) -> Callable[[], object]:
    """Return what replays a CUDA graph of `work`, warmed up on the stream of the capture."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        work()
    return graph.replay


def tasks(suite: Any, options: Any) -> Iterator[Task]:
    """Yield an LSTM alone of each case and dtype."""
    for case in suite.cases:
        for dtype in suite.dtypes:
            problem = make_problem(case, options.device, DTYPES[dtype])
            able, whys = entered(suite.contenders(), options, case.name, dtype)
            build = {c.label: partial(Remote if c.peer else Local, c, problem) for c in able}
            yield Task(case.name, problem, build, whys, dtype)
