"""`python -m bench.streaming`: one step a call, as a stream is served; p50 and p99 of a call.

Contenders read one row at a time and keep their state: `fused_lstm.Streaming`, the module under it,
nn.LSTM, and ONNX Runtime where it is installed. They take turns, a few calls each, and must give
what nn.LSTM gives on the whole sequence before they are timed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

import fused_lstm

from . import peers
from .check import require_right
from .cpu import CPU, common_parser, may_run, save
from .machine import describe, in_a_line
from .peers.remote import to_arrays
from .work import SIZES, Problem, Shape, make_problem

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


def onnx_runtime(problem: Problem) -> Step:
    """Its session fed its own last state."""
    from .peers.onnx_runtime import build

    runtime = build(to_arrays(problem), torch.get_num_threads())

    def step(x: Tensor) -> Tensor:
        runtime.inputs["x"] = x[None].numpy()
        y, runtime.inputs["h0"], runtime.inputs["c0"] = runtime.inference()
        return torch.from_numpy(y[0])

    return step


def contenders(problem: Problem) -> dict[str, Callable[[], Step]]:
    """Each begins a stream of B rows anew."""
    B, I, H, L = problem.shape[1:]
    ours = fused_lstm.LSTM(I, H, L, engine="native").eval()
    ours.load_state_dict(problem.reference.state_dict())
    found = {
        "Streaming": lambda: fused_lstm.Streaming(ours, B),
        "the module": lambda: stepper(ours),
        "nn.LSTM": lambda: stepper(problem.reference),
    }
    if peers.missing("onnxruntime", CPU) is None:
        found["ONNX Runtime"] = lambda: onnx_runtime(one_step(problem))
    return found


def one_step(problem: Problem) -> Problem:
    shape = problem.shape._replace(T=1)
    return Problem(shape, problem.reference, problem.x[:1], problem.h0, problem.c0, problem.dy[:1])


def measure(shape: Shape, seconds: float) -> list[dict]:
    """{"hidden", "batch", "contender", "calls", "p50", "p99"} of each, in seconds.

    Raises:
        WrongAnswer: a stream is not what nn.LSTM makes of the sequence.
    """
    problem = make_problem(shape)
    with torch.no_grad():
        expected = problem.reference(problem.x)[0]
    steps, taken = {}, {}
    for name, begin in contenders(problem).items():
        step = begin()
        require_right(name, {"y": torch.stack([step(x) for x in problem.x])}, {"y": expected})
        steps[name], taken[name] = step, []
    end = time.perf_counter() + seconds * len(steps)
    while time.perf_counter() < end or not all(taken.values()):
        for name, step in steps.items():
            taken[name] += turn(step, problem.x)
    return [
        {"hidden": shape.H, "batch": shape.B, "contender": name, "calls": len(own)}
        | {f"p{n}": sorted(own)[len(own) * n // 100] for n in (50, 99)}
        for name, own in taken.items()
    ]


def turn(step: Step, xs: Tensor) -> list[float]:
    """Seconds of each of TURN calls."""
    taken = []
    for n in range(TURN):
        x = xs[n % len(xs)]
        begin = time.perf_counter()
        step(x)
        taken.append(time.perf_counter() - begin)
    return taken


def table(found: Sequence[dict]) -> list[str]:
    """Markdown: a row for each contender, p50 and p99 of a call in microseconds at each size."""
    sizes = sorted({row["hidden"] for row in found})
    lines = ["| us a step, p50 / p99 |" + "".join(f" H={size} |" for size in sizes)]
    lines.append("|---|" + "---:|" * len(sizes))
    for name in dict.fromkeys(row["contender"] for row in found):
        own = {row["hidden"]: row for row in found if row["contender"] == name}
        cells = (f" {own[s]['p50'] * 1e6:,.0f} / {own[s]['p99'] * 1e6:,.0f} |" for s in sizes)
        lines.append(f"| {name} |" + "".join(cells))
    return lines


def run(given: argparse.Namespace) -> dict:
    """Everything that was measured, as it goes into the file."""
    machine, found = describe(CPU), []
    print(f"{in_a_line(machine)}\nnative: {machine['engines']['native']}", flush=True)
    torch.set_num_threads(given.threads)
    for size in given.size or list(SIZES):
        found += measure(SIZES[size]._replace(B=given.batch_size), given.seconds)
    print("\n" + "\n".join(table(found)))
    return {"machine": machine, "threads": given.threads, "measured": found}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = common_parser("streaming", __doc__, seconds=2.0)
    add = parser.add_argument
    add("--size", action="append", choices=list(SIZES), help="only this one; may be given again")
    add("--batch-size", type=int, default=1, metavar="B", help="rows that step together [1]")
    given = parser.parse_args(argv)
    if not may_run("streaming", given):
        return 2
    save(run(given), given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
