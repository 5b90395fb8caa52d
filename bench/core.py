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
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from . import machine

Run = Callable[[], object]  # the work to time
Timed = Callable[[], float]  # does what must precede the work, then the work; seconds of the work
CPU = torch.device("cpu")
BUSY = 0.1  # of all cores' time: above it the machine had other work

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
    seconds: tuple[float, ...] = ()  # of each round
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

    @property
    def noise(self) -> float:
        """Return half the distance of the quartiles, as a part of the median."""
        q1, median, q3 = quartiles(self.seconds)
        return (q3 - q1) / 2 / median

    @property
    def busy(self) -> bool:
        """Return whether other work took more than a tenth of the machine."""
        return self.foreign > BUSY

    def to_json(self) -> str:
        """Return one line: the fields, the quartiles and, beside them, what `extra` has."""
        line = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        extra = line.pop("extra")
        if taken := extra.keys() & line.keys():
            raise ValueError(f"extra: got {', '.join(sorted(taken))}; expected no field's name")
        line["seconds"] = rounded(self.seconds)
        if self.seconds:
            line |= quartiles(self.seconds)._asdict() | {"rounds": len(self.seconds)}
        return json.dumps(line | dict(extra))

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Return the record that `to_json` wrote; ValueError where it is none."""
        values = json.loads(line)
        if not isinstance(values, dict):
            raise ValueError(f"record: got {type(values).__name__}; expected an object")
        for name in ("q1", "median", "q3", "rounds"):
            values.pop(name, None)
        names = {f.name for f in dataclasses.fields(cls)} - {"extra"}
        fields = {name: values.pop(name) for name in names & values.keys()}
        if missing := {"suite", "case", "contender", "mode"} - fields.keys():
            raise ValueError(f"record: lacks {', '.join(sorted(missing))}")
        fields["seconds"] = tuple(fields.get("seconds", ()))
        return cls(**fields, extra=values)


def rounded(seconds: Iterable[float]) -> list[float]:
    """Return them with six digits each, as a file has them."""
    return [float(f"{second:.6g}") for second in seconds]


def save(path: Path, records: Iterable[Record], append: bool = False) -> None:
    """Write a line for each record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a" if append else "w", encoding="utf-8") as file:
        file.writelines(record.to_json() + "\n" for record in records)


def load(*paths: Path) -> list[Record]:
    """Return the records of results files; ValueError, one line, where one cannot be read."""
    records = []
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            records += [Record.from_json(line) for line in lines if line.strip()]
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: is no file of records: {error}") from None
    return records


# --- times, ratios, intervals ---


class Quartiles(NamedTuple):
    """First quartile, median and third quartile of a sample, in its unit."""

    q1: float
    median: float
    q3: float


def quartiles(sample: Sequence[float]) -> Quartiles:
    """Return the quartiles; ValueError for an empty sample."""
    if not sample:
        raise ValueError("sample: got no value; expected at least one")
    if len(sample) == 1:
        return Quartiles(sample[0], sample[0], sample[0])
    return Quartiles(*statistics.quantiles(sample, n=4, method="inclusive"))


class Ratio(NamedTuple):
    """How many times as fast one is as another, with a 95% interval over paired rounds."""

    value: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Return whether it may be printed: the interval excludes 1, or is within 5% of it."""
        return not self.low <= 1 <= self.high or self.high / self.low < 1.05

    def __str__(self) -> str:
        return f"{self.value:.2f}x" if self.clear else "no difference seen"

    @property
    def text(self) -> str:
        """Return it with its interval."""
        return f"{self} ({self.low:.2f} to {self.high:.2f})"


def ratio(base: Sequence[float], other: Sequence[float], draws: int = 4000) -> Ratio:
    """Return base's median over other's, and its bootstrap interval over paired rounds.

    The value is a ratio of medians, so that factors along a chain multiply to the whole. A draw
    takes as many rounds as there are, with replacement, the same ones of both.
    """
    if len(base) != len(other) or not base:
        raise ValueError(
            f"base, other: got {len(base)} and {len(other)} rounds; expected as many, and some"
        )
    pair = np.array([base, other])
    rounds = np.random.default_rng(0).integers(len(base), size=(draws, len(base)))
    ratios = np.divide(*np.median(pair[:, rounds], axis=-1))
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Ratio(float(np.divide(*np.median(pair, axis=-1))), float(low), float(high))


def speedup(base: Record, other: Record) -> Ratio:
    """Return how many times as fast `other` is as `base`; ValueError where they took no turns."""
    if base.group != other.group:
        raise ValueError(f"other: got group {other.group!r}; expected {base.group!r}")
    return ratio(base.seconds, other.seconds)


def timed(work: Run, device: torch.device, setup: Run | None = None) -> Timed:
    """Return what runs `setup` untimed and then `work`, and returns the seconds of `work`.

    On an NVIDIA or AMD GPU by device events, after the L2 cache has been overwritten. Elsewhere by
    the wall clock, which stops when the device has done the work.
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


class Lost(Exception):
    """A contender cannot go on, which is no reason for the others to stop."""


@dataclass(frozen=True)
class Pace:
    """How long a group is timed."""

    seconds: float = 3.0  # no round begins later than this, once `least` rounds are done
    least: int = 5  # rounds
    most: int = 50
    longest: float = 20.0  # seconds past which three rounds do
    warmup: int = 1  # rounds that do not count, except where one takes an eighth of `longest`


PACE = Pace()


def take_turns(
    cases: Mapping[Any, Timed],
    pace: Pace = PACE,
    lost: Callable[[Any, Exception], object] | None = None,
) -> dict[Any, list[float]]:
    """Time all `cases` in every round; return each one's seconds, round by round.

    The order within a round is random, from a fixed seed. `lost` is called with a case that raised
    an error, and with that; the case is left out of this round and all others.
    """
    draw = random.Random(0)
    samples: dict[Any, list[float]] = {name: [] for name in cases}

    def take(name: Any) -> None:
        try:
            samples[name].append(cases[name]())
        except Exception as error:
            if lost is None:
                raise
            del samples[name]
            lost(name, error)

    done = 0
    for _ in range(pace.warmup):
        began = time.perf_counter()
        for name in list(samples):
            take(name)
        if time.perf_counter() - began > pace.longest / 8:
            done = 1  # a round as long as this is warm without another one
            break
        for sample in samples.values():
            sample.clear()
    begin = time.perf_counter()
    for number in range(done, pace.most):
        limit = pace.seconds if number >= pace.least else pace.longest
        if not samples or (number >= min(pace.least, 3) and time.perf_counter() - begin > limit):
            break
        order = list(samples)
        draw.shuffle(order)
        for name in order:
            take(name)
    return samples


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
    rounded: torch.dtype | None = None,
) -> float:
    """Return the largest relative error over all of `expected`.

    `rounded` is what the products' factors were rounded to, where that is not the answer's dtype.
    Raises WrongAnswer where a tensor is missing or its error is too large.
    """
    if missing := expected.keys() - answer.keys():
        raise WrongAnswer(f"{name}: gave no {', '.join(sorted(missing))}; not timed")
    worst = 0.0
    for key, value in expected.items():
        error = relative_error(answer[key], value)
        dtype = rounded or value.dtype
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


class Runner(Protocol):
    """A contender with a problem in hand: nn.LSTM, an engine, another system's process.

    `renew(work)` may be there too: the runner then takes another input.
    """

    @property
    def modes(self) -> Collection[str]: ...
    def answer(self) -> dict[str, Tensor]: ...
    def timed(self, mode: str) -> Timed: ...
    def close(self) -> None: ...


class Work(Protocol):
    """A problem: an LSTM alone, a lesson of the language model, a cell.

    `expected()` is the right answer. `fresh()` is the same with an input nobody has seen, or None.
    """

    def expected(self) -> dict[str, Tensor]: ...
    def fresh(self) -> Work | None: ...


class Group:
    """Runners on one problem under the same conditions: checked, then timed in turn.

    Args:
        build: label -> what makes the runner. All are made before any is asked for its answer, so
            that processes of peers compile side by side.
        tolerate: dtype that the products' factors were rounded to, where it is not the answer's.
        begin, end: called with a label before it is built and asked, and after each.

    `failed` says who is not timed, label -> the error.
    """

    def __init__(
        self,
        work: Work,
        build: Mapping[str, Callable[[], Runner]],
        tolerate: torch.dtype | None = None,
        begin: Callable[[str], object] = lambda label: None,
        end: Callable[[str], object] = lambda label: None,
    ) -> None:
        self.work, self.tolerate = work, tolerate
        self.runners: dict[str, Any] = {}  # label -> Runner
        self.losses: dict[str, list[float]] = {}  # of a lesson's first steps
        self.errors: dict[str, float] = {}
        self.failed: dict[str, Exception] = {}
        right = work.expected()

        def make(label: str) -> None:
            self.runners[label] = build[label]()

        def ask(label: str) -> None:
            runner = self.runners[label]
            answer, expected = runner.answer(), asked_of(runner.modes, right)
            self.errors[label] = require_right(label, answer, expected, tolerate)
            if "losses" in answer:
                self.losses[label] = answer["losses"].tolist()

        for stage in (make, ask):
            for label in build:
                if label not in self.failed:
                    begin(label)
                    self._attempt(stage, label)
                    end(label)

    def _attempt(self, action: Callable[[str], object], label: str) -> None:
        """Go on without a runner that fails."""
        try:
            action(label)
        except Exception as error:  # a contender's failure is no one else's: it is reported
            self.drop(label, error)

    def drop(self, label: str, error: Exception) -> None:
        """Go on without one; its first error counts."""
        self.failed.setdefault(label, error)
        self.errors.pop(label, None)
        if (runner := self.runners.pop(label, None)) is not None:
            runner.close()

    def close(self) -> None:
        """End the processes of peers and free the memory of engines."""
        for runner in self.runners.values():
            runner.close()
        self.runners = {}

    def cases(self, modes: Iterable[str]) -> dict[tuple[str, str], Timed]:
        """Return what is timed, (label, mode) -> Timed, of all that have the mode."""
        cases: dict[tuple[str, str], Timed] = {}
        for mode in modes:
            for label, runner in list(self.runners.items()):
                if mode in runner.modes:
                    try:
                        cases[label, mode] = runner.timed(mode)
                    except Exception as error:  # such as a CUDA graph that cannot hold it
                        self.drop(label, error)
        return cases

    def time(
        self,
        modes: Iterable[str],
        pace: Pace = PACE,
    ) -> dict[tuple[str, str], list[float]]:
        """Return seconds of each round by (label, mode), of those right before and after."""
        return self.take_turns(self.cases(modes), pace)

    def take_turns(
        self, cases: Mapping[tuple[str, str], Timed], pace: Pace
    ) -> dict[tuple[str, str], list[float]]:
        """Do the same with `cases`, whose names begin with a runner's label."""
        samples = take_turns(cases, pace, lambda case, error: self.drop(case[0], error))
        self._recheck()
        return {case: sample for case, sample in samples.items() if case[0] in self.runners}

    def _recheck(self) -> None:
        """Ask those who can take another input for its answer too."""
        renewable = {label: r for label, r in self.runners.items() if hasattr(r, "renew")}
        if not renewable or (fresh := self.work.fresh()) is None:
            return
        right = fresh.expected()

        def ask(label: str) -> None:
            runner: Any = self.runners[label]
            runner.renew(fresh)
            expected = asked_of(runner.modes, right)
            require_right(f"{label}, on a fresh input", runner.answer(), expected, self.tolerate)
            runner.renew(self.work)

        for label in renewable:
            self._attempt(ask, label)


class InBursts:
    """A runner whose turn is at least some calls in a row, and so many seconds: a round is their
    median. The first of a turn, which finds another one's data in the cache, does not count, and a
    turn begins after a rest: threads of the one before spin for a while after their work."""

    REST = 0.1  # seconds

    def __init__(self, runner: Any, calls: int, seconds: float = 0.0) -> None:
        self.runner, self.calls, self.seconds = runner, calls, seconds
        self.turns: dict[str, list[list[float]]] = {}  # mode -> seconds of the calls of each turn

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)

    def timed(self, mode: str) -> Timed:
        """Return what takes a turn and returns the median of its calls."""
        turns = self.turns[mode] = []
        if hasattr(self.runner, "burst"):  # in a process of its own, which need not be asked again
            burst = partial(self.runner.burst, mode, self.calls, self.seconds)
        else:
            burst = partial(in_a_row, self.runner.timed(mode), self.calls, self.seconds)

        def turn() -> float:
            time.sleep(self.REST)
            turns.append(burst()[1:])
            return statistics.median(turns[-1])

        return turn

    def percentiles(self, mode: str, rounds: int) -> dict[str, float]:
        """Return the calls of the last so many rounds: how many, their p50 and p99 in seconds."""
        calls = sorted(second for turn in self.turns[mode][-rounds:] for second in turn)
        points = {f"p{n}": calls[min(len(calls) * n // 100, len(calls) - 1)] for n in (50, 99)}
        return {"calls": len(calls), **points}


def in_a_row(once: Timed, calls: int, seconds: float) -> list[float]:
    """Return the seconds of at least `calls` calls, and of more until `seconds` have passed."""
    taken, end = [], time.perf_counter() + seconds
    while len(taken) < calls or time.perf_counter() < end:
        taken.append(once())
    return taken


def asked_of(modes: Collection[str], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what the answer of who runs in `modes` must have: no gradients of who only infers."""
    only_infers = "inference" in modes and "step" not in modes
    return {n: t for n, t in expected.items() if not (only_infers and n.endswith(".grad"))}


# --- from samples to records ---


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
    case: str,
    group: Group,
    modes: Sequence[str],
    pace: Pace = PACE,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
    conditions: str = "",
    extra: Callable[[str, str, list[float]], Mapping[str, Any]] = lambda label, mode, seconds: {},
) -> list[Record]:
    """Time a group in some modes; return a record for each, and one with `why` for who failed.

    Args:
        conditions: joins the group's name, where a suite times a case under several.
        extra: label, mode and seconds -> what else a record has; "memory" becomes its memory.
    """
    common: dict[str, Any] = surroundings(device) | {"suite": suite, "case": case}
    common |= {"dtype": str(dtype).removeprefix("torch."), "threads": torch.get_num_threads()}
    words = [suite, case, common["dtype"], f"{common['threads']} threads", conditions]
    words.append(common["date"])  # two runs in one file took no turns with each other
    common["group"] = ", ".join(word for word in words if word)
    clock = machine.ForeignTime()
    samples = group.time(modes, pace)
    common["foreign"] = round(clock.share(), 4)
    records = []
    for (label, mode), seconds in samples.items():
        more = dict(extra(label, mode, seconds))
        facts = {"error": group.errors[label], "memory": more.pop("memory", None), "extra": more}
        records.append(
            Record(contender=label, mode=mode, seconds=tuple(seconds), **facts, **common)
        )
    for label, error in group.failed.items():
        why = reason(error).removeprefix(f"{label}: ")
        records.append(Record(contender=label, mode=modes[0], why=why, **common))
    return records


def reason(error: Exception) -> str:
    """Return an error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
