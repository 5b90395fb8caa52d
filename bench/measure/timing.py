"""How time is taken: case after case in turn, medians and quartiles, ratios within a round.

A machine that is shared, or that warms up, is slow for seconds at a time. Cases timed one after
the other would each meet another machine; here every round times all of them, in an order drawn
anew, and a ratio is taken within a round.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch

# On a machine, or of work, so slow that `least` rounds would take longer, three must do, and what
# takes that long is warm without a round for it.
LONGEST = 20.0  # seconds

Name = TypeVar("Name")  # of a case
Run = Callable[[], object]  # the work to time
Timed = Callable[[], float]  # does what must precede the work, then the work; seconds of the work


class Lost(Exception):
    """A case cannot go on, which is no reason for the others to stop."""


class Quartiles(NamedTuple):
    """Of a sample, in its unit."""

    q1: float
    median: float
    q3: float


def quartiles(sample: Sequence[float]) -> Quartiles:
    """First quartile, median and third quartile; ValueError for an empty sample."""
    if not sample:
        raise ValueError("sample: is empty, should have at least one value")
    if len(sample) == 1:
        return Quartiles(sample[0], sample[0], sample[0])
    return Quartiles(*statistics.quantiles(sample, n=4, method="inclusive"))


def speedup(base: Sequence[float], other: Sequence[float]) -> float:
    """How many times faster `other` is than `base`: the median of the ratios within a round."""
    if len(base) != len(other) or not base:
        raise ValueError(f"base, other: got {len(base)} and {len(other)} rounds, should be equal")
    return statistics.median(b / o for b, o in zip(base, other, strict=True))


def timed(work: Run, device: torch.device, setup: Run | None = None) -> Timed:
    """A function that runs `setup` untimed and then `work`, and returns the seconds of `work`.

    On an NVIDIA or AMD GPU: device events, after the L2 cache has been overwritten. Elsewhere: the
    wall clock, which stops when the device has done the work.
    """
    clock = _events(device) if device.type == "cuda" else _wall(device)

    def once() -> float:
        if setup is not None:
            setup()
        collecting = gc.isenabled()
        gc.disable()
        try:
            return clock(work)
        finally:
            if collecting:
                gc.enable()

    return once


def _wall(device: torch.device) -> Callable[[Run], float]:
    def wait() -> None:
        if device.type != "cpu":  # another accelerator is handed the work, and does it later
            torch.accelerator.synchronize(device)

    def clock(work: Run) -> float:
        wait()
        begin = time.perf_counter()
        work()
        wait()
        return time.perf_counter() - begin

    return clock


def _events(device: torch.device) -> Callable[[Run], float]:
    l2 = torch.cuda.get_device_properties(device).L2_cache_size
    flush = torch.empty(2 * l2, dtype=torch.int8, device=device)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def clock(work: Run) -> float:
        flush.zero_()
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize(device)
        return begin.elapsed_time(end) / 1000

    return clock


def interleave(
    cases: Mapping[Name, Timed],
    seconds: float = 5.0,
    least: int = 5,
    most: int = 50,
    warmup: int = 1,
    longest: float = LONGEST,
    lost: Callable[[Name, Lost], object] | None = None,
) -> dict[Name, list[float]]:
    """Time all `cases` in every round; name -> seconds of each round.

    Args:
        seconds: no round begins later than this after the first, once `least` rounds are done.
        least, most: how many rounds there may be; three will do past `longest` seconds.
        warmup: rounds beforehand that do not count.
        lost: called with a case that raised Lost, which is then left out of this and what follows.

    The order within a round is random, from a fixed seed.
    """
    draw = random.Random(0)
    samples: dict[Name, list[float]] = {name: [] for name in cases}

    def take(name: Name) -> None:
        try:
            samples[name].append(cases[name]())
        except Lost as error:
            if lost is None:
                raise
            del samples[name]
            lost(name, error)

    done = 0
    for _ in range(warmup):
        began = time.perf_counter()
        for name in list(samples):
            take(name)
        if time.perf_counter() - began > longest / 8:
            done = 1  # so long a round is warm without another one
            break
        for sample in samples.values():
            sample.clear()
    begin = time.perf_counter()
    for number in range(done, most):
        spent = time.perf_counter() - begin
        if not samples or (
            spent > (seconds if number >= least else longest) and number >= min(least, 3)
        ):
            break
        order = list(samples)
        draw.shuffle(order)
        for name in order:
            take(name)
    return samples
