"""One way to measure: answers checked first, rounds taken in turn, a record for each measurement.

A machine that is shared, or that warms up, is slow for seconds at a time. Contenders timed one
after the other would each meet another machine. So every round times all of them, in an order drawn
anew, and a ratio compares times of the same rounds.
"""

from __future__ import annotations

import dataclasses
import datetime
import gc
import json
import math
import random
import re
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import machine

Run = Callable[[], object]  # the work to time
# At least so many calls in a row, and more until so many seconds have passed: the seconds of each.
Turn = Callable[[int, float], list[float]]
CPU = torch.device("cpu")
BUSY = 0.1  # of all cores' time: above it the machine had other work
FEWEST = 10  # rounds of a 95% interval
ENOUGH = 1000  # calls of a 99th percentile: ten of them are above it
REST = 0.1  # seconds before a turn of several calls: another's threads spin for a while

# --- the record of a measurement ---


@dataclass(frozen=True)
class Record:
    """One contender in one mode on one case: a line of a results file.

    Records of one `group` took turns, so round n of one is paired with round n of another. Where
    `why` says why there is no time, `seconds` is empty.
    """

    suite: str
    case: str
    contender: str
    mode: str
    seconds: Sequence[float] = ()  # of each round
    dtype: str = "float32"
    threads: int = 1
    device: str = "cpu"
    error: float | None = None  # largest error of the answer, relative to its largest value
    memory: int | None = None  # bytes at the peak of a call, beyond those before it
    foreign: float = 0.0  # part of all cores' time that other work took meanwhile
    group: str = ""
    why: str = ""
    machine: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    date: str = ""
    commit: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)  # such as shape, tokens, flops, p99

    @property
    def median(self) -> float:
        """Return the median round in seconds; NaN where there is none."""
        return statistics.median(self.seconds) if self.seconds else math.nan

    def line(self) -> dict[str, Any]:
        """Return the fields, the quartiles and, beside them, what `extra` has."""
        values = dataclasses.asdict(self) | {"seconds": rounded(self.seconds)}
        extra = values.pop("extra")
        if self.seconds:
            values |= zip(("q1", "median", "q3"), quartiles(self.seconds), strict=True)
            values["rounds"] = len(self.seconds)
        return values | extra

    @classmethod
    def of_line(cls, line: Mapping[str, Any]) -> Record:
        """Return the record that gave a line."""
        fields = {f.name: line[f.name] for f in dataclasses.fields(cls) if f.name in line}
        made = {"q1", "median", "q3", "rounds"}
        extra = {name: line[name] for name in line if name not in fields.keys() | made}
        return cls(**fields, extra=extra)


def rounded(seconds: Iterable[float]) -> list[float]:
    """Return them with six digits each, as a file has them."""
    return [float(f"{second:.6g}") for second in seconds]


RESULTS = Path(__file__).parent / "results"


def check_committed(path: Path, commit: str) -> None:
    """Raise ValueError where a results file of the project would get rows of no committed tree."""
    if path.resolve().is_relative_to(RESULTS) and not re.fullmatch("[0-9a-f]{7,40}", commit):
        raise ValueError(
            f"commit: got {commit or 'none'!r} for {path}; expected a tree without changes: commit"
            " it, or write to a file outside bench/results"
        )


def save(path: Path, records: Iterable[Record], append: bool = False) -> None:
    """Write a line of JSON for each record; ValueError as by check_committed."""
    records = list(records)
    for commit in {record.commit for record in records}:
        check_committed(path, commit)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a" if append else "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record.line()) + "\n" for record in records)


# --- times, ratios, intervals ---


def quartiles(sample: Sequence[float]) -> tuple[float, float, float]:
    """Return first quartile, median and third quartile; ValueError for an empty sample."""
    if not len(sample):
        raise ValueError("sample: got no value; expected at least one")
    q1, median, q3 = np.quantile(sample, (0.25, 0.5, 0.75)).tolist()
    return q1, median, q3


class Ratio(NamedTuple):
    """A speed as a multiple of another, and its ends over paired rounds.

    low, high: a 95% interval from FEWEST rounds on; of fewer rounds the least and the greatest.
    """

    value: float
    low: float
    high: float
    rounds: int

    @property
    def clear(self) -> bool:
        """Return whether the factor may be printed: its ends exclude 1, or lie within 5%."""
        return not self.low <= 1 <= self.high or self.high / self.low < 1.05

    def __str__(self) -> str:
        return f"{self.value:.2f}x" if self.clear else "no difference seen"

    @property
    def text(self) -> str:
        """Return the factor with its ends."""
        return f"{self} ({self.within})"

    @property
    def within(self) -> str:
        """Return the ends, what they are, and the number of rounds."""
        what = "range" if self.rounds < FEWEST else "95%"
        return f"{what} of {self.rounds} rounds: {self.low:.2f} to {self.high:.2f}"


def ratio(base: Sequence[float], other: Sequence[float], draws: int = 4000) -> Ratio:
    """Return base's median over other's, and its ends over paired rounds.

    The value is a ratio of medians, so that factors along a chain multiply to the whole. From
    FEWEST rounds on the ends are a bootstrap's 95% interval: a draw takes as many rounds as there
    are, with replacement, the same ones of both. A bootstrap over fewer covers less than it says,
    so of fewer rounds the ends are the least and the greatest ratio of a round.
    """
    if len(base) != len(other) or not len(base):
        raise ValueError(
            f"base, other: got {len(base)} and {len(other)} rounds; expected as many, and some"
        )
    pair = np.array([base, other])
    value = float(np.divide(*np.median(pair, axis=-1)))
    if len(base) < FEWEST:
        each = np.divide(*pair)
        return Ratio(value, float(each.min()), float(each.max()), len(base))
    rounds = np.random.default_rng(0).integers(len(base), size=(draws, len(base)))
    ratios = np.divide(*np.median(pair[:, rounds], axis=-1))
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Ratio(value, float(low), float(high), len(base))


def speedup(base: Any, other: Any) -> Ratio:
    """Return how many times as fast `other` is as `base`; ValueError where they took no turns."""
    if base.group != other.group:
        raise ValueError(f"other: got group {other.group!r}; expected {base.group!r}")
    return ratio(base.seconds, other.seconds)


def timed(work: Run, device: torch.device, setup: Run | None = None) -> Turn:
    """Return what takes a turn of `work`, each call after an untimed `setup`.

    On an NVIDIA or AMD GPU by device events, after the L2 cache has been overwritten. Elsewhere by
    the wall clock, which stops when the device has done the work.
    """
    clock = _events(device) if device.type == "cuda" else _wall(device)

    def turn(calls: int = 1, seconds: float = 0.0) -> list[float]:
        taken, end = [], time.perf_counter() + seconds
        gc.disable()
        try:
            while len(taken) < calls or time.perf_counter() < end:
                if setup is not None:
                    setup()
                taken.append(clock(work))
        finally:
            gc.enable()
        return taken

    return turn


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


# --- no answer, no time ---

# The largest error, as a part of the largest right value, of right answers whose roundings differ.
TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 1e-3,  # the sums of a weight's gradient have T * B terms
    torch.float16: 3e-2,
    torch.bfloat16: 1e-1,
}
LOSSES = {
    torch.float32: 1e-6,  # a unit of the sixth digit
    torch.bfloat16: 1e-2,  # three steps on products that are rounded to the third
}


class WrongAnswer(Exception):
    """A contender computed something else than the reference: it is not timed."""


def require_right(
    name: str,
    answer: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    rounded_to: torch.dtype | None = None,
) -> float:
    """Return the largest relative error over all of `expected`.

    `rounded_to` is the dtype of the products' factors, where that is not the answer's. Raises
    WrongAnswer where a tensor is missing or its error is too large.
    """
    if missing := expected.keys() - answer.keys():
        raise WrongAnswer(f"{name}: gave no {', '.join(sorted(missing))}; not timed")
    worst = 0.0
    for key, value in expected.items():
        error = relative_error(answer[key], value)
        dtype = rounded_to or value.dtype
        allowed = LOSSES[dtype] if key == "losses" else TOLERANCE[dtype]
        if not error <= allowed:  # NaN is wrong too
            verb = "differ" if key == "losses" else "differs"
            raise WrongAnswer(
                f"{name}: {key} {verb} from the reference's by {error:.3g} of its largest value,"
                f" at most {allowed:g} is allowed; not timed"
            )
        worst = max(worst, error)
    return worst


def relative_error(answer: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the largest expected value; infinite for other shapes."""
    if answer.shape != expected.shape:
        return float("inf")
    right = expected.detach().double()
    difference = (answer.detach().double() - right).abs().max()
    return float(difference / right.abs().max().clamp(min=1e-30))


# --- contenders on one problem ---


class Runner:
    """A contender with a problem in hand, in this process. A peer's is bench.peers.remote."""

    modes: Collection[str] = ("step",)
    device: Any = CPU

    def answer(self) -> dict[str, Tensor]:
        """Return what is compared with the right answer."""
        raise NotImplementedError

    def asks(self, right: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return what of the right answer this one must give."""
        return right

    def work(self, mode: str) -> tuple[Run, Run | None]:
        """Return what is timed in `mode`, and what has to be done before each time, or None."""
        return getattr(self, mode), None

    def timed(self, mode: str) -> Turn:
        """Return what takes a turn in `mode`."""
        work, setup = self.work(mode)
        return timed(work, self.device, setup)

    def facts(self, mode: str, rounds: int) -> dict[str, Any]:
        """Return what a record of the last `rounds` rounds says of it; "memory" is a field."""
        return {}

    def close(self) -> None:
        """Free what it holds."""


@dataclass(frozen=True)
class Task:
    """A group to measure: a case's work, label -> who does it, label -> why others cannot.

    A work, such as an LSTM alone or a lesson of the language model, has `expected()`, the right
    answer, and `facts(mode)`, what all records of it say. `rounded_to` is the dtype of the
    products' factors, where it is not the answer's.
    """

    case: str
    work: Any
    build: Mapping[str, Callable[[], Any]]
    whys: Mapping[str, str] = field(default_factory=dict)
    dtype: str = "float32"
    rounded_to: torch.dtype | None = None


@dataclass(frozen=True)
class Pace:
    """The time that a group gets, and what a turn in it is.

    Where a turn is more than one call its first, which finds another's data in the cache, does not
    count, and a round is the median of the others.
    """

    seconds: float = 3.0  # no round begins later than this, once `least` rounds are done
    least: int = 5  # rounds
    most: int = 50
    longest: float = 20.0  # seconds past which three rounds do
    warmup: int = 1  # rounds that do not count, except where one takes an eighth of `longest`
    calls: int = 1  # of a turn, at least; beyond 1 a record has p50, p99 of ENOUGH, and the worst
    turn: float = 0.0  # seconds of a turn, at least: long enough for the system to interrupt


PACE = Pace()


class Group:
    """The runners of a task, under the same conditions: checked, then timed in turn.

    All are made before any is asked for its answer, so that processes of peers compile side by
    side. `failed` says who is not timed, label -> the error.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.runners: dict[str, Any] = {}  # label -> Runner
        self.errors: dict[str, float] = {}
        self.failed: dict[str, Exception] = {}
        right = task.work.expected()
        for label, build in task.build.items():
            with self.going_on(label):
                self.runners[label] = build()
        for label, runner in list(self.runners.items()):
            with self.going_on(label):
                answer, expected = runner.answer(), runner.asks(right)
                self.errors[label] = require_right(label, answer, expected, task.rounded_to)

    @contextmanager
    def going_on(self, label: str) -> Iterator[None]:
        """Go on after the block without a contender that failed in it."""
        try:
            yield
        except Exception as error:  # a contender's failure is no one else's: it is reported
            self.failed[label] = error
            if (runner := self.runners.pop(label, None)) is not None:
                runner.close()

    def close(self) -> None:
        """End the processes of peers and free the memory of engines."""
        for runner in self.runners.values():
            runner.close()
        self.runners = {}

    def time(
        self, modes: Iterable[str], pace: Pace = PACE
    ) -> dict[tuple[str, str], list[list[float]]]:
        """Time everyone in all modes that they have, in every round, in an order drawn anew.

        Returns the turns by (label, mode): the seconds of each one's calls.
        """
        cases: dict[tuple[str, str], Turn] = {}
        for mode in modes:
            for label, runner in list(self.runners.items()):
                if mode in runner.modes:  # a CUDA graph, for one, may not hold it
                    with self.going_on(label):
                        cases[label, mode] = runner.timed(mode)
        turns: dict[tuple[str, str], list[list[float]]] = {case: [] for case in cases}
        draw, several = random.Random(0), pace.calls > 1

        def round_of_all() -> None:
            order = [case for case in cases if case[0] in self.runners]
            draw.shuffle(order)
            for case in order:
                if case[0] in self.runners:  # else it failed in another mode just now
                    time.sleep(REST * several)
                    with self.going_on(case[0]):
                        turns[case].append(cases[case](pace.calls, pace.turn)[several:])

        done = 0
        for _ in range(pace.warmup):
            began = time.perf_counter()
            round_of_all()
            if time.perf_counter() - began > pace.longest / 8:
                done = 1  # a round as long as this is warm without another one
                break
            turns = {case: [] for case in cases}
        begin = time.perf_counter()
        for number in range(done, pace.most):
            limit = pace.seconds if number >= pace.least else pace.longest
            late = number >= min(pace.least, 3) and time.perf_counter() - begin > limit
            if late or not self.runners:
                break
            round_of_all()
        return {case: of for case, of in turns.items() if case[0] in self.runners}


# --- from turns to records ---


@cache
def surroundings(device: torch.device) -> dict[str, Any]:
    """Return what all records of a run have in common, except the threads."""
    return {
        "machine": machine.name(device),
        "versions": machine.versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "device": str(device),
    }


def measure(
    suite: str,
    group: Group,
    modes: Sequence[str],
    pace: Pace = PACE,
    device: torch.device = CPU,
    conditions: Mapping[str, Any] | None = None,
) -> list[Record]:
    """Time a group in some modes; return a record for each, and one with `why` for who failed.

    `conditions`, where a suite times a case under several, join the group's name and the records.
    """
    task, conditions = group.task, conditions or {}
    common: dict[str, Any] = surroundings(device) | {"suite": suite, "case": task.case}
    common |= {"dtype": task.dtype, "threads": torch.get_num_threads()}
    words = [suite, task.case, task.dtype, f"{common['threads']} threads"]
    words += [f"{name} {value}" for name, value in conditions.items()]
    words.append(common["date"])  # two runs in one file took no turns with each other
    common["group"] = ", ".join(words)
    clock = machine.ForeignTime()
    turns = group.time(modes, pace)
    common["foreign"] = round(clock.share(), 4)
    records = []
    for (label, mode), rounds in turns.items():
        facts = task.work.facts(mode) | group.runners[label].facts(mode, len(rounds)) | conditions
        if pace.calls > 1:
            facts |= tail([second for turn in rounds for second in turn])
        seconds, memory = tuple(map(statistics.median, rounds)), facts.pop("memory", None)
        about = {"contender": label, "mode": mode, "error": group.errors[label], "memory": memory}
        records.append(Record(seconds=seconds, extra=facts, **about, **common))
    for label, error in group.failed.items():
        why = reason(error).removeprefix(f"{label}: ")
        records.append(Record(contender=label, mode=modes[0], why=why, **common))
    return records


def tail(calls: Sequence[float]) -> dict[str, float]:
    """Return the number of calls, their median, 99th percentile and worst, in seconds.

    Fewer than ENOUGH calls have no 99th percentile.
    """
    shares = {"p50": 0.5} | ({"p99": 0.99} if len(calls) >= ENOUGH else {}) | {"worst": 1.0}
    values = np.quantile(calls, list(shares.values()), method="higher").tolist()
    return {"calls": len(calls), **dict(zip(shares, values, strict=True))}


def reason(error: Exception) -> str:
    """Return an error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
