"""How the native engine's time grows, beside nn.LSTM's.

Forward and backward of an LSTM of two layers, float32: at the presets' sizes with one thread and
more, then one of T, B and H at a time with all of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from ..alone import SIZES as PRESETS
from ..alone import Local, Shape, make_problem
from ..contenders import BASE
from ..measure.timing import interleave, timed
from ..rows import CPU, DEVICE, OURS, check, show, why_not
from .native import LSTMS, SIZES

__all__ = ["DEVICE", "SECONDS", "SIZES", "run", "why_not"]

SECONDS = 1.0
START = Shape(T=20, B=20, I=200, H=200, L=2)
AXES = {
    "T": (5, 10, 20, 40, 80),
    "B": (1, 5, 10, 20, 40, 80),
    "H": (64, 128, 256, 512, 1024, 2048),
}
RACERS = {BASE: LSTMS[0], OURS: LSTMS[-1]}


def counts_up_to(threads: int) -> list[int]:
    """1, 2, 4, ... and `threads` itself, which need not be a power of two."""
    return [n for n in (2**i for i in range(threads.bit_length())) if n < threads] + [threads]


def measure(shape: Shape, threads: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    """A row for each of `threads`; all of them, and both engines, take turns.

    Raises:
        WrongAnswer: native's answer is not nn.LSTM's.
    """
    problem = make_problem(shape)
    runners = {name: Local(contender, problem) for name, contender in RACERS.items()}
    cases = {}
    for n in threads:
        torch.set_num_threads(n)
        check(runners)
        for name, runner in runners.items():
            cases[n, name] = timed(runner.step, CPU, partial(torch.set_num_threads, n))
    found = interleave(cases, seconds, least=3)
    return [
        {"what": f"{n} thread{'s' * (n > 1)}", "shape": str(shape), "threads": n}
        | {"flops": shape.flops("step"), "tokens": shape.tokens, "pages": dict.fromkeys(RACERS, 0)}
        | {"samples": {name: found[n, name] for name in RACERS}}
        for n in threads
    ]


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Everything that was measured, as it goes into the file."""
    measured = []
    for size in given.sizes:
        rows = measure(PRESETS[size], counts_up_to(given.threads), given.seconds)
        measured += [show({"axis": "threads", "size": size, **row}) for row in rows]
    for axis, values in AXES.items():
        print(f"\n{axis}, from {START}")
        for value in values:
            (row,) = measure(START.resized(axis, value), [given.threads], given.seconds)
            measured.append(show({"axis": axis, "value": value, **row}))
    return {"measured": measured}
