"""One step a call, as a stream is served: contenders read one row at a time, and keep their state.

`fused_lstm.Streaming`, the module under it, nn.LSTM, and ONNX Runtime and OpenVINO where they are
installed. Each must give what nn.LSTM gives on the sequence of its calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fused_lstm

from . import peers
from .cases import Problem, make_problem
from .contenders import Contender
from .core import Group, InBursts, Record, Timed, measure, timed
from .peers.remote import Remote
from .suites import Options, Suite, absent, facts_of

CHECKED = 3  # calls, all on one x
PEERS = ("onnxruntime", "openvino")
Step = Callable[[Tensor], Tensor]  # x [B, I] -> y [B, H]


class Stream:
    """Work: an LSTM alone whose x [1, B, I] is read again and again."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.device, self.dtype, self.named = problem.device, problem.dtype, problem.named

    def expected(self) -> dict[str, Tensor]:
        """Return y [CHECKED, B, H] of as many calls."""
        with torch.no_grad():
            return {"stream": self.problem.reference(self.problem.x.expand(CHECKED, -1, -1))[0]}

    def fresh(self) -> None:
        """Return None: what a call gives depends on all before it."""


class Caller:
    """A contender in this process. `begin` starts a stream of B rows anew."""

    modes = ("call",)

    def __init__(self, begin: Callable[[], Step], stream: Stream) -> None:
        self.begin, self.x = begin, stream.problem.x[0]

    def answer(self) -> dict[str, Tensor]:
        """Return y of the first calls."""
        step = self.begin()
        return {"stream": torch.stack([step(self.x).clone() for _ in range(CHECKED)])}

    def timed(self, mode: str) -> Timed:
        """Return what makes a call and returns its seconds."""
        step = self.begin()
        return timed(lambda: step(self.x), self.x.device)

    def close(self) -> None:
        """Do nothing: it holds no process."""


def stepper(module: nn.Module) -> Step:
    """Return a module called on one step, which is what there is without Streaming."""
    state = None

    @torch.inference_mode()
    def step(x: Tensor) -> Tensor:
        nonlocal state
        y, state = module(x[None], state)
        return y[0]

    return step


def run(name: str, suite: Suite, options: Options) -> Iterator[Record]:
    """Yield a record for each contender and stream."""
    for case in suite.cases:
        problem = make_problem(replace(case, shape=case.shape._replace(T=1)))
        stream = Stream(problem)
        _, B, I, H, L = case.shape
        ours = fused_lstm.LSTM(I, H, L).eval()
        ours.load_state_dict(problem.reference.state_dict())
        build: dict[str, Callable[[], Any]] = {
            "cudnn": lambda p=problem, s=stream: Caller(lambda: stepper(p.reference), s),
            "module": lambda o=ours, s=stream: Caller(lambda: stepper(o), s),
            "streaming": lambda o=ours, s=stream, B=B: Caller(
                lambda: fused_lstm.Streaming(o, B), s
            ),
        }
        whys = {peer: peers.missing(peer, options.device) for peer in PEERS}
        for peer in (peer for peer, why in whys.items() if not why):
            build[peer] = partial(Remote, Contender(peer, peer, peer=True), stream)
        whys = {peer: why for peer, why in whys.items() if why}
        yield from absent(name, case.name, "call", whys, options.device)
        group = Group(stream, build)
        for label, runner in group.runners.items():
            group.runners[label] = InBursts(runner, suite.calls)

        def extra(
            label: str, mode: str, seconds: list[float], group=group, problem=problem
        ) -> dict:
            runner: Any = group.runners[label]
            return facts_of(problem, "inference") | runner.percentiles(mode, len(seconds))

        yield from measure(name, case.name, group, suite.modes, suite.pace, extra=extra)
        group.close()
