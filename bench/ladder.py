"""`python -m bench.ladder`: what each fusion is worth on this machine, one rung at a time.

none -> pointwise -> steps -> layers -> nn.LSTM, on one preset, forward and backward; every rung is
checked against nn.LSTM and all are timed in turn.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from tqdm import tqdm

from . import machine
from .contenders import BASE, Contender, engines, why_not
from .count import KINDS, Counts, count, shares
from .local import Local
from .race import Race, line_up
from .timing import quartiles, speedup
from .work import MODES, SIZES, make_problem

LEVELS = ("none", "pointwise", "steps", "layers")
CHANGED = {
    "none": "every operation is a launch of its own",
    "pointwise": "a cell's pointwise operations are one launch",
    "steps": "all steps of a layer are one launch, their input products one product",
    "layers": "all layers are one launch",
    None: "the library's own choice",
}
SHORT = {"products": "prod", "pointwise": "point", "fused": "fused", "copies": "copy"}


class Rung:
    """One row: a contender, its rounds in seconds, and what its run consists of."""

    def __init__(self, contender: Contender, sample: list[float], counts: Counts) -> None:
        self.contender, self.sample, self.counts = contender, sample, counts
        self.time = quartiles(sample)
        self.shares = shares(counts.seconds, self.time.median)


def rungs_on(device: torch.device) -> list[Contender]:
    """From the loop upwards, and nn.LSTM last: what runs on `device` and has levels."""
    found = [c for c in engines() if c.fuse is not None and why_not(c, device) is None]
    found.sort(key=lambda c: LEVELS.index(c.fuse))
    return found + [c for c in engines() if c.label == BASE]


def climb(
    preset: str, device: torch.device, mode: str = "step", seconds: float = 15.0, bar: Any = None
) -> list[Rung]:
    """Check, time and count every rung; `bar` is a tqdm of 100 parts.

    Raises:
        WrongAnswer: a rung's answer is not nn.LSTM's.
    """
    contenders = rungs_on(device)
    bar = tqdm(total=100, disable=True) if bar is None else bar
    say = _Bar(bar)
    race = line_up(make_problem(SIZES[preset], device), contenders, say.checking)
    try:
        for failure in race.failed.values():
            raise failure
        samples = race.time(mode, seconds, tick=say.timing, least=5)
        return [_rung(c, samples[c.label], race, mode, say) for c in contenders]
    finally:
        race.close()


def _rung(contender: Contender, sample: list[float], race: Race, mode: str, say: _Bar) -> Rung:
    say.counting(contender.label)
    runner = race.runners[contender.label]
    assert isinstance(runner, Local)
    work, setup = runner.work(mode)
    return Rung(contender, sample, count(work, race.work.device, setup))


class _Bar:
    """Checking takes the bar to 20, timing to 80, counting to 100."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar

    def checking(self, label: str) -> None:
        self._show(f"checking {label}", min(self.bar.n + 3, 20))

    def timing(self, done: float) -> None:
        self._show("timing in turn", 20 + 60 * done)

    def counting(self, label: str) -> None:
        self._show(f"counting {label}", min(max(self.bar.n, 80) + 4, 100))

    def _show(self, what: str, at: float) -> None:
        self.bar.set_description(what, refresh=False)
        self.bar.update(max(round(at) - self.bar.n, 0))


# --- what it prints ---


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
        gain = "" if below is None else f"{speedup(below.sample, rung.sample):.2f}"
        lines.append(
            f"{rung.contender.label:<18} {f'{median:.2f} ({q1:.2f}-{q3:.2f})':<24}"
            f" {rung.counts.launches:>8} {moved:>8}  {parts}"
            f"  {gain:>7} {speedup(loop.sample, rung.sample):>7.2f}"
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
        gains.append(f"{rung.contender.fuse} {speedup(below.sample, rung.sample):.2f}x")
        below = rung
    first = f"nn.LSTM is {speedup(loop.sample, base.sample):.2f}x as fast as the step loop here"
    if not own:
        return f"{first}; no engine of this project's own runs here."
    top = own[-1]
    return (
        f"{first}; fused one after the other, {', '.join(gains)}, the loop becomes"
        f" {speedup(loop.sample, top.sample):.2f}x as fast, which is"
        f" {speedup(base.sample, top.sample):.2f}x nn.LSTM's speed."
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"bench.ladder: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = _Parser(prog="python -m bench.ladder", description=__doc__, allow_abbrev=False)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--preset", default="small", choices=SIZES, help="[small]")
    parser.add_argument("--device", default=default, help=f"such as cpu or cuda:1 [{default}]")
    parser.add_argument("--mode", default="step", choices=MODES, help="forward and backward [step]")
    parser.add_argument("--seconds", type=float, default=15.0, help="of timing, about [15]")
    given = parser.parse_args(argv)
    try:
        device = torch.device(given.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        parser.error(f"--device {given.device}: {str(error).splitlines()[0]}")
    if not given.seconds > 0:
        parser.error(f"--seconds must be more than 0, got {given.seconds:g}")
    print(machine.in_a_line(machine.describe(device)))
    print(f"{given.preset}: {SIZES[given.preset]}, {given.mode}, float32\n", flush=True)
    with tqdm(total=100, leave=False, disable=None, bar_format="{l_bar}{bar}|") as bar:
        rungs = climb(given.preset, device, given.mode, given.seconds, bar)
    print(table(rungs))
    print(
        "\nMB: operands of all launches. prod, point: products and pointwise work in launches of"
        "\ntheir own; fused: both in one launch; copy: moving data; over: what no launch accounts"
        "\nfor (Python, autograd, the dispatcher).\n"
    )
    print(sentence(rungs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
