"""One step a call, as a stream is served: contenders read one row at a time, and keep their state.

`fused_lstm.Streaming`, the module under it, nn.LSTM, and ONNX Runtime and OpenVINO where they are
installed. Each must give what nn.LSTM gives on the sequence of its calls.

`prepared_tasks` compares Streaming of weights packed once, in each dtype, with ONNX Runtime.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fused_lstm

from .contenders import BASE, Contender, why_not
from .core import Run, Runner, Task
from .lstm import Problem, make_problem
from .peers.remote import Remote

CHECKED = 3  # calls, all on one x
PEERS = [Contender(name, name, peer=True) for name in ("onnxruntime", "openvino")]
Step = Callable[[Tensor], Tensor]  # x [B, I] -> y [B, H]


class Stream(Problem):
    """An LSTM alone whose x [1, B, I] is read again and again."""

    def expected(self) -> dict[str, Tensor]:
        """Return y [CHECKED, B, H] of as many calls."""
        with torch.no_grad():
            return {"stream": self.reference(self.x.expand(CHECKED, -1, -1))[0]}


class Bytes(Stream):
    """A stream of whose products a peer rounds the factors to bytes."""

    products = "int8"


class Caller(Runner):
    """A contender in this process. `begin` starts a stream of B rows anew."""

    modes = ("call",)

    def __init__(self, begin: Callable[[], Step], stream: Stream) -> None:
        self.begin, self.x = begin, stream.x[0]

    def answer(self) -> dict[str, Tensor]:
        """Return y of the first calls."""
        step = self.begin()
        return {"stream": torch.stack([step(self.x).clone() for _ in range(CHECKED)])}

    def work(self, mode: str) -> tuple[Run, Run | None]:
        """Return a call."""
        return partial(self.begin(), self.x), None


def stepper(module: nn.Module) -> Step:
    """Return a module called on one step, which is what there is without Streaming."""
    state = None

    @torch.inference_mode()
    def step(x: Tensor) -> Tensor:
        nonlocal state
        y, state = module(x[None], state)
        return y[0]

    return step


def tasks(suite: Any, options: Any) -> Iterator[Task]:
    """Yield a stream of each case."""
    for case in suite.cases:
        stream = Stream(**vars(make_problem(case.resized("T", 1))))
        _, B, I, H, L = case.shape
        ours = fused_lstm.LSTM(I, H, L).eval()
        ours.load_state_dict(stream.reference.state_dict())
        begin: dict[str, Callable[[], Step]] = {
            BASE: partial(stepper, stream.reference),
            "module": partial(stepper, ours),
            "streaming": partial(fused_lstm.Streaming, ours, B),
        }
        whys = {peer.label: why for peer in PEERS if (why := why_not(peer, options.device))}
        build: dict[str, Any] = {n: partial(Caller, start, stream) for n, start in begin.items()}
        build |= {p.label: partial(Remote, p, stream) for p in PEERS if p.label not in whys}
        yield Task(case.name, stream, build, whys)


INT8 = Contender("onnxruntime-int8", "onnxruntime-int8", peer=True)
DTYPES = torch.float32, torch.bfloat16, torch.int8


def prepared(module: fused_lstm.LSTM, dtype: torch.dtype, B: int) -> Step:
    """Return a stream of B rows through a module's weights, packed in a dtype."""
    return fused_lstm.Streaming(fused_lstm.prepare(copy.deepcopy(module), dtype), B)


def prepared_tasks(suite: Any, options: Any) -> Iterator[Task]:
    """Yield a stream of each case through packed weights, and through ONNX Runtime's."""
    for case in suite.cases:
        problem = vars(make_problem(case.resized("T", 1)))
        stream = Stream(**problem)
        _, B, I, H, L = case.shape
        ours = fused_lstm.LSTM(I, H, L).eval()
        ours.load_state_dict(stream.reference.state_dict())
        begin: dict[str, Callable[[], Step]] = {BASE: partial(stepper, stream.reference)}
        begin |= {
            f"prepared-{str(dtype).removeprefix('torch.')}": partial(prepared, ours, dtype, B)
            for dtype in DTYPES
        }
        build: dict[str, Any] = {n: partial(Caller, start, stream) for n, start in begin.items()}
        whys = {}
        for peer, work, dtype in (PEERS[0], stream, "float32"), (INT8, Bytes(**problem), "int8"):
            if why := why_not(peer, options.device, dtype):
                whys[peer.label] = why
            else:
                build[peer.label] = partial(Remote, peer, work)
        yield Task(case.name, stream, build, whys, rounded_to=torch.bfloat16)
