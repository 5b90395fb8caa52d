"""`python -m bench.cpu_scaling`: how the native engine's time grows, beside nn.LSTM's.

Forward and backward of an LSTM of two layers, float32: at the presets' sizes with one thread and
more, then one of T, B and H at a time with all of them. The time for a token, T * B of them, says
whether T and B cost what they should: in proportion. See bench.cpu for how times are taken.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

import torch

from .cpu import CPU, LSTMS, OURS, RUNGS, STOCK, checked, common_parser, may_run, save
from .local import Local
from .machine import describe, in_a_line
from .timing import interleave, quartiles, timed
from .work import SIZES, Shape, make_problem

LAYERS = 2
START = {"T": 20, "B": 20, "H": 200}
AXES = {
    "T": (5, 10, 20, 40, 80),
    "B": (1, 5, 10, 20, 40, 80),
    "H": (64, 128, 256, 512, 1024, 2048),
}
RACERS = {STOCK: LSTMS[0], OURS: RUNGS[-1]}


def shape_at(axis: str, value: int) -> Shape:
    at = START | {axis: value}
    return Shape(at["T"], at["B"], at["H"], at["H"], LAYERS)


def counts_up_to(threads: int) -> list[int]:
    """1, 2, 4, ... and `threads` itself, which need not be a power of two."""
    return [n for n in (2**i for i in range(threads.bit_length())) if n < threads] + [threads]


def measure(shape: Shape, threads: Sequence[int], seconds: float) -> list[dict]:
    """A row for each of `threads`; all of them, and both engines, take turns.

    A row is {"shape", "threads", "flops", "seconds": name -> quartiles}.

    Raises:
        WrongAnswer: native's answer is not nn.LSTM's.
    """
    problem = make_problem(shape)
    runners = {name: Local(contender, problem) for name, contender in RACERS.items()}
    cases = {}
    for n in threads:
        torch.set_num_threads(n)
        checked(runners)
        for name, runner in runners.items():
            cases[f"{name} {n}"] = timed(runner.step, CPU, partial(torch.set_num_threads, n))
    samples = interleave(cases, seconds, least=3)
    return [
        {
            "shape": shape._asdict(),
            "threads": n,
            "flops": shape.flops("step"),
            "seconds": {name: quartiles(samples[f"{name} {n}"])._asdict() for name in RACERS},
        }
        for n in threads
    ]


# --- what is printed ---

HEADER = (
    f"{'':10}{'threads':>7}  {'native ms (quartiles)':26}{'GF/s':>5}{'us/token':>10}"
    f"  {'nn.LSTM ms':>11}{'GF/s':>6}{'ratio':>7}  {'x 1 thread: native, nn.LSTM'}"
)


def line(label: str, row: dict, single: dict | None = None) -> str:
    """A row as text; with `single`, its fellow of one thread, how many times faster it is."""
    ours, stock = (row["seconds"][name] for name in (OURS, STOCK))
    q1, median, q3 = (1000 * ours[key] for key in ("q1", "median", "q3"))
    token = 1e6 * ours["median"] / (row["shape"]["T"] * row["shape"]["B"])
    found = (
        f"{label:10}{row['threads']:>7}  {f'{median:.2f} ({q1:.2f} to {q3:.2f})':26}"
        f"{rate(row, OURS):>5.0f}{token:>10.2f}"
        f"  {1000 * stock['median']:>11.2f}{rate(row, STOCK):>6.0f}"
        f"{stock['median'] / ours['median']:>7.2f}"
    )
    if single is None:
        return found
    gains = (single["seconds"][n]["median"] / row["seconds"][n]["median"] for n in (OURS, STOCK))
    return found + "  " + ", ".join(f"{gain:.2f}" for gain in gains)


def rate(row: dict, name: str) -> float:
    """10^9 operations of the matrix products a second."""
    return row["flops"] / row["seconds"][name]["median"] / 1e9


def run(given: argparse.Namespace) -> dict:
    """Everything that was measured, as it goes into the file."""
    machine, found = describe(CPU), []
    print(f"{in_a_line(machine)}\nnative: {machine['engines']['native']}\n\n{HEADER}")
    for size, shape in SIZES.items():
        rows = measure(shape, counts_up_to(given.threads), given.seconds)
        for row in rows:
            print(line(size, row, rows[0]), flush=True)
        found += [{"axis": "threads", "size": size, **row} for row in rows]
    for axis, values in AXES.items():
        others = " ".join(f"{name}={size}" for name, size in START.items() if name != axis)
        print(f"\n{axis}, at {others}")
        for value in values:
            (row,) = measure(shape_at(axis, value), [given.threads], given.seconds)
            print(line(f"{axis}={value}", row), flush=True)
            found.append({"axis": axis, "value": value, **row})
    return {"machine": machine, "measured": found}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    given = common_parser("cpu_scaling", __doc__, seconds=1.0).parse_args(argv)
    if not may_run("cpu_scaling", given):
        return 2
    torch.set_num_threads(given.threads)
    save(run(given), given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
