"""Recurrent layers alone: nn.LSTM or nn.GRU, every engine at every level, and other systems.

A problem has the weights that nn.LSTM draws, an input, and the gradient that comes back. What is
right is nn.LSTM's answer in float64.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import fused_lstm

from .cases import GATES, Case, Shape
from .contenders import BASE, NN_LSTM, Contender, entered
from .core import Call, Work, differentiable
from .peers.remote import Remote

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
    """A problem, the same for all contenders. `reference` is the nn.LSTM that has the weights."""

    case: Case
    reference: nn.LSTM | nn.GRU
    x: Tensor  # [T, B, I]
    h0: Tensor  # [D * L, B, H]
    c0: Tensor  # [D * L, B, H]
    dy: Tensor  # [T, B, D * H], the gradient that comes back, zero where the loss reads nothing
    lengths: Tensor  # [B] int64, on the CPU
    resets: Tensor  # [T, B] bool

    @property
    def state(self) -> Any:
        """Return the state before the first step, as the layer takes it."""
        return self.h0 if self.case.cell == "gru" else (self.h0, self.c0)

    def flops(self, mode: str) -> int:
        """Return the operations of a call's matrix products."""
        directions, gates = 1 + self.case.bidirectional, GATES[self.case.cell]
        return self.case.shape.flops(mode, int(self.lengths.sum()), directions, gates)

    def facts(self) -> dict[str, Any]:
        """Return what its records say."""
        c = self.case
        return {
            "shape": c.shape._asdict(), "form": c.form, "bidirectional": c.bidirectional,
            "tokens": int(self.lengths.sum()), "cell": c.cell, "loss": c.loss, "call": c.call,
            "heads": c.heads, "denormals": os.environ.get("FUSED_LSTM_DENORMALS", "flush"),
        }  # fmt: skip

    def named(self) -> dict[str, Tensor]:
        """Return what a peer is handed: weights under nn.LSTM's names."""
        tensors = {"x": self.x, "h0": self.h0, "c0": self.c0, "dy": self.dy}
        tensors |= {"resets": self.resets} if self.case.form == "resets" else {}
        return tensors | dict(self.reference.named_parameters())

    def in_dtype(self, dtype: torch.dtype) -> Problem:
        """Return the same problem with tensors and weights in another dtype."""
        tensors = {name: getattr(self, name).to(dtype) for name in ("x", "h0", "c0", "dy")}
        return replace(self, reference=copy.deepcopy(self.reference).to(dtype), **tensors)

    def exact(self) -> Problem:
        """Return the same problem in float64; in float32 where that takes too much of a GPU."""
        T, B, _, H, L = self.case.shape
        large = self.x.is_cuda and 8 * GATES[self.case.cell] * T * B * H * L > 2**32
        return self.in_dtype(torch.float32 if large else torch.float64)

    def expected(self) -> dict[str, Tensor]:
        """Return what nn.LSTM computes exactly, rounded: outputs, last state, gradients."""
        answer = local(NN_LSTM, self.exact()).answer()
        return {name: value.to(self.x.dtype) for name, value in answer.items()}


def make_problem(
    case: Case | Shape,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Problem:
    """Return a problem: weights as nn.LSTM draws them, normal input and gradient, state zero.

    A text begins with that state; that engines use the state that they get is for the tests.
    """
    case = Case(str(case), case) if isinstance(case, Shape) else case
    T, B, I, H, L = case.shape
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kind = nn.GRU if case.cell == "gru" else nn.LSTM
        reference = kind(I, H, L, bidirectional=case.bidirectional).to(device, dtype)
    if case.heads > 1:  # nn.LSTM has them dense, zero outside of the blocks
        head = torch.arange(H, device=device) // (H // case.heads)
        for name, weight in reference.named_parameters():
            if "weight_hh" in name:
                weight.data *= head.repeat(GATES[case.cell])[:, None] == head
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


def module_of(contender: Contender, problem: Problem) -> Any:
    """Return nn.LSTM or nn.GRU, or fused_lstm's, with a problem's weights."""
    if contender.label == BASE:
        module = copy.deepcopy(problem.reference)
        module.flatten_parameters()  # one buffer for cuDNN, which copies none at a call
        return module
    _, _, I, H, L = problem.case.shape
    kind = fused_lstm.GRU if problem.case.cell == "gru" else fused_lstm.LSTM
    ways = {"engine": contender.engine, "fuse": contender.fuse, "num_heads": problem.case.heads}
    ours = kind(I, H, L, bidirectional=problem.case.bidirectional, **ways).to(problem.x)
    weights = problem.reference.state_dict()
    ours.load_state_dict({n: in_blocks(n, w, problem.case.heads) for n, w in weights.items()})
    return ours


def in_blocks(name: str, weight: Tensor, heads: int) -> Tensor:
    """Return a weight as ours has it in heads: of dense recurrent ones the blocks [N, G*K, K]."""
    if heads == 1 or "weight_hh" not in name or weight.dim() == 3:
        return weight
    N, K = heads, weight.shape[1] // heads
    each = weight.view(-1, N, K, N, K).diagonal(dim1=1, dim2=3)  # [G, K, K, N]
    return each.permute(3, 0, 1, 2).reshape(N, -1, K)


def step_by_step(module: nn.Module, x: Tensor, resets: Tensor, state: Any) -> tuple[Tensor, Any]:
    """Call nn.LSTM on one step after another, its state zero where a row begins anew."""
    rows = []
    for row, reset in zip(x, resets, strict=True):
        h, c = (s.masked_fill(reset[:, None], 0) for s in state)
        y, state = module(row[None], (h, c))
        rows.append(y)
    return torch.cat(rows), state


def run_of(module: Any, problem: Problem, ours: bool) -> tuple[Callable[[], Any], Tensor, Tensor]:
    """Return what runs a module on a problem, in its case's form; the leaf x, and dy."""
    form, state, lengths, resets = problem.case.form, problem.state, problem.lengths, problem.resets

    def packed(rows: Tensor) -> PackedSequence:
        return pack_padded_sequence(rows, lengths, enforce_sorted=False)

    if form == "packed":
        rows = packed(problem.x)
        x, dy = rows.data.clone().requires_grad_(), packed(problem.dy).data

        def of_packed() -> Any:
            y, last = module(PackedSequence(x, *rows[1:]), state)
            return y.data, last

        return of_packed, x, dy
    x = problem.x.clone().requires_grad_()

    def padded() -> Any:
        y, last = module(packed(x), state)
        return pad_packed_sequence(y)[0], last

    runs: dict[tuple[str, bool], Callable[[], Any]] = {
        ("lengths", True): lambda: module(x, state, lengths=lengths),
        ("lengths", False): padded,
        ("padded", True): padded,
        ("padded", False): padded,
        ("resets", True): lambda: module(x, state, resets=resets),
        ("resets", False): lambda: step_by_step(module, x, resets, state),
    }
    return runs.get((form, ours), lambda: module(x, state)), x, problem.dy.clone()


def local(contender: Contender, problem: Problem) -> Call:
    """Return the call of a contender in this process."""
    module = module_of(contender, problem)
    run, x, dy = run_of(module, problem, contender.label != BASE)
    leaves = {"x": x} | dict(module.named_parameters())
    call, heads = differentiable(run, leaves, dy, problem.x.device), problem.case.heads
    answer = call.answer
    call.answer = lambda: {name: in_blocks(name, t, heads) for name, t in answer().items()}
    return call


def peer(contender: Contender, problem: Problem, dtype: str = "", **more: Any) -> Call:
    """Return the call of a peer, in a process of its own."""
    dtype = dtype or str(problem.x.dtype).removeprefix("torch.")
    return Remote(contender.engine, problem.named(), problem.x.device, dtype).call(**more)


def make(contender: Contender, problem: Problem) -> Callable[[], Call]:
    """Return what makes a contender's call."""
    return partial(peer if contender.peer else local, contender, problem)


def work_of(problem: Problem, calls: Mapping[str, Callable[[], Call]], **more: Any) -> Work:
    """Return the work of these contenders on a problem."""
    fields: dict[str, Any] = {"expected": problem.expected, "facts": problem.facts()}
    flops = problem.flops if problem.case.heads == 1 else None  # contenders' differ in heads
    return Work(calls, flops=flops, **fields | more)


def setup(case: Case, o: Any) -> Work:
    """Return the contenders on a case: nn.LSTM, and who was asked for."""
    problem = make_problem(case, o.device, o.dtype)
    able, absent = entered(o.contenders(), o, case.name)
    return work_of(problem, {c.label: make(c, problem) for c in able}, absent=absent)
