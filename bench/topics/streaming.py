"""One step a call, as a stream is served; the 50th and 99th percentile of a call's time.

Contenders read one row at a time and keep their state: `fused_lstm.Streaming`, the module under it,
nn.LSTM, and ONNX Runtime where it is installed. They take turns, a few calls each, and must give
what nn.LSTM gives on the whole sequence before they are timed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import fused_lstm
from lm.command import COUNT, number

from .. import peers
from ..alone import SIZES as PRESETS
from ..alone import Problem, Shape, make_problem
from ..measure.check import require_right
from ..peers.remote import to_arrays
from ..rows import CPU, DEVICE, why_not
from .native import SIZES

__all__ = ["DEVICE", "SECONDS", "SIZES", "options", "run", "why_not"]

SECONDS = 2.0
TURN = 50  # calls of one contender before the next one's
Step = Callable[[Tensor], Tensor]  # x [B, I] -> y [B, H]


def stepper(module: nn.Module) -> Step:
    """A module called on one step, which is what there is without Streaming."""
    state = None

    @torch.inference_mode()
    def step(x: Tensor) -> Tensor:
        nonlocal state
        y, state = module(x[None], state)
        return y[0]

    return step


def onnx_runtime(shape: Shape) -> Step:
    """Its session, of the same weights, fed its own last state."""
    from ..peers.onnx_runtime import build

    runtime = build(to_arrays(make_problem(shape._replace(T=1))), torch.get_num_threads())

    def step(x: Tensor) -> Tensor:
        runtime.inputs["x"] = x[None].numpy()
        y, runtime.inputs["h0"], runtime.inputs["c0"] = runtime.inference()
        return torch.from_numpy(y[0])

    return step


def contenders(problem: Problem) -> dict[str, Callable[[], Step]]:
    """Each begins a stream of B rows anew."""
    B, I, H, L = problem.case.shape[1:]
    ours = fused_lstm.LSTM(I, H, L, engine="native").eval()
    ours.load_state_dict(problem.reference.state_dict())
    found = {
        "Streaming": lambda: fused_lstm.Streaming(ours, B),
        "the module": lambda: stepper(ours),
        "nn.LSTM": lambda: stepper(problem.reference),
    }
    if peers.missing("onnxruntime", CPU) is None:
        found["ONNX Runtime"] = lambda: onnx_runtime(problem.case.shape)
    return found


def measure(shape: Shape, seconds: float) -> list[dict[str, Any]]:
    """{"shape", "contender", "calls", "p50", "p99"} of each, in seconds.

    Raises:
        WrongAnswer: a stream is not what nn.LSTM makes of the sequence.
    """
    problem = make_problem(shape)
    with torch.no_grad():
        expected = problem.reference(problem.x)[0]
    steps: dict[str, Step] = {}
    for name, begin in contenders(problem).items():
        step = steps[name] = begin()
        require_right(name, {"y": torch.stack([step(x) for x in problem.x])}, {"y": expected})
    taken: dict[str, list[float]] = {name: [] for name in steps}
    end = time.perf_counter() + seconds * len(steps)
    while time.perf_counter() < end or not all(taken.values()):
        for name, step in steps.items():
            for n in range(TURN):
                x = problem.x[n % len(problem.x)]
                begin = time.perf_counter()
                step(x)
                taken[name].append(time.perf_counter() - begin)
    return [
        {"shape": str(shape), "contender": name, "calls": len(own)}
        | {f"p{n}": sorted(own)[len(own) * n // 100] for n in (50, 99)}
        for name, own in taken.items()
    ]


def options(add: Callable) -> None:
    add("--batch-size", type=number(int, COUNT), default=1, metavar="B",
        help="rows that step together [1]")  # fmt: skip


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Everything that was measured, as it goes into the file."""
    measured = []
    for size in given.sizes:
        rows = measure(PRESETS[size]._replace(B=given.batch_size), given.seconds)
        for row in rows:
            p50, p99 = (f"{row[p] * 1e6:,.0f}" for p in ("p50", "p99"))
            print(f"{row['shape']:18}{row['contender']:14}{p50:>8} us (p50){p99:>8} us (p99)")
        measured += rows
    return {"threads": given.threads, "measured": measured}
