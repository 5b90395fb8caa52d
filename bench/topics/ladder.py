"""What each fusion is worth on this machine, one rung at a time.

none -> pointwise -> steps -> layers -> nn.LSTM, on a preset, forward and backward; every rung is
checked against nn.LSTM and all are timed in turn.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..alone import MODES, Case
from ..alone import SIZES as PRESETS
from ..contenders import NN_LSTM, Contender, engines
from ..contenders import why_not as cannot
from ..measure.counts import KINDS, Counts, shares
from ..measure.timing import quartiles
from ..report.results import LEVELS
from ..suite import Session

SIZES, SECONDS = ("small",), 15.0
CHANGED = {
    "none": "every operation is a launch of its own",
    "pointwise": "a cell's pointwise operations are one launch",
    "steps": "all steps of a layer are one launch, their input products one product",
    "layers": "all layers are one launch",
    None: "the library's own choice",
}
LEGEND = """
A rung is one way to run the same LSTM, a fusion more than the rung above it. MB: operands of all
launches, what they read and write. prod, point: products and pointwise work in launches of their
own; fused: both in one launch; copy: moving data; over: what the run took beyond its launches
(Python, autograd, the dispatcher). x below: to the rung above.
"""
SHORT = {"products": "prod", "pointwise": "point", "fused": "fused", "copies": "copy"}


class Rung:
    """One row: a contender, its rounds in seconds, and what its run consists of."""

    def __init__(self, contender: Contender, sample: list[float], counts: Counts) -> None:
        self.contender, self.sample, self.counts = contender, sample, counts
        self.time = quartiles(sample)
        self.shares = shares(counts.seconds)


def rungs_on(device: torch.device) -> list[Contender]:
    """From the loop upwards, and nn.LSTM last: what runs on `device` and has levels."""
    found = [c for c in engines() if c.fuse is not None and cannot(c, device) is None]
    found.sort(key=lambda c: LEVELS.index(c.fuse))
    return [*found, NN_LSTM]


def climb(preset: str, device: torch.device, mode: str, seconds: float) -> list[Rung]:
    """Check, time and count every rung.

    Raises:
        WrongAnswer: a rung's answer is not nn.LSTM's.
    """
    contenders, session = rungs_on(device), Session(device, torch.float32, seconds)
    try:
        group = session.alone(Case(PRESETS[preset]), mode, contenders)
    finally:
        session.close()
    for failure in group.failed.values():
        raise failure
    return [Rung(c, group.samples[c.label], group.counts[c.label]) for c in contenders]


# --- what it prints ---


def faster(base: Rung, other: Rung) -> float:
    """How many times as fast, of medians, so that it agrees with the times beside it."""
    return base.time.median / other.time.median


def table(rungs: Sequence[Rung]) -> str:
    """The rungs as text, a line each, and below it what changed at each."""
    loop, below = rungs[0], None
    kinds = "  ".join(f"{name:>5}" for name in (*SHORT.values(), "over"))
    lines = [
        f"{'rung':<18} {'ms (quartiles)':<24} {'launches':>8} {'MB':>8}  {kinds}"
        f"  {'x below':>7} {'x loop':>7}"
    ]
    for rung in rungs:
        q1, median, q3 = (1000 * t for t in rung.time)
        moved = "-" if rung.counts.bytes is None else f"{rung.counts.bytes / 1e6:.1f}"
        parts = "  ".join(f"{100 * rung.shares.get(kind, 0):4.0f}%" for kind in KINDS)
        gain = "" if below is None else f"{faster(below, rung):.2f}"
        lines.append(
            f"{rung.contender.label:<18} {f'{median:.2f} ({q1:.2f}-{q3:.2f})':<24}"
            f" {rung.counts.launches:>8} {moved:>8}  {parts}"
            f"  {gain:>7} {faster(loop, rung):>7.2f}"
        )
        below = rung
    lines.append("")
    for rung in rungs:
        lines.append(f"{rung.contender.label:<18} {CHANGED[rung.contender.fuse]}")
    return "\n".join(lines)


def sentence(rungs: Sequence[Rung]) -> str:
    """The question's answer for this machine."""
    loop, *own, base = rungs
    gains, below = [], loop
    for rung in own:
        gains.append(f"{rung.contender.fuse} {faster(below, rung):.2f}x")
        below = rung
    first = f"nn.LSTM is {faster(loop, base):.2f}x as fast as the step loop here"
    if not own:
        return f"{first}; no engine of this project's own runs here."
    top = own[-1]
    return (
        f"{first}; fused one after the other, {', '.join(gains)}, the loop becomes"
        f" {faster(loop, top):.2f}x as fast, which is"
        f" {faster(base, top):.2f}x nn.LSTM's speed."
    )


def options(add: Callable) -> None:
    add("--mode", default="step", choices=MODES, help="forward and backward [step]")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Everything that was measured, as it goes into the file."""
    measured = []
    for size in given.sizes:
        print(
            f"{size}: {PRESETS[size]}, {given.mode}, float32; {given.seconds:g} s and more\n",
            flush=True,
        )
        rungs = climb(size, given.device, given.mode, given.seconds)
        print(table(rungs), LEGEND, sentence(rungs), sep="\n")
        about = {"size": size, "mode": given.mode}
        measured += [about | {"label": r.contender.label, "samples": r.sample} for r in rungs]
    return {"measured": measured}
