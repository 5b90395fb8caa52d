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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from . import machine

Run = Callable[[], object]  # the work to time
# At least so many calls, more until so many seconds have passed, a pause of so many before each:
# the seconds of each call.
Turn = Callable[[int, float, float], list[float]]
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
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the machine and its libraries
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


def timed(work: Run, device: torch.device, before: Run | None = None, cold: bool = True) -> Turn:
    """Return what takes a turn of `work`, each call after a pause and an untimed `before`.

    On an NVIDIA or AMD GPU by device events, where `cold` after the L2 cache has been overwritten.
    Elsewhere by the wall clock, which stops when the device has done the work.
    """
    clock = _events(device, cold) if device.type == "cuda" else _wall(device)

    def turn(calls: int = 1, seconds: float = 0.0, pause: float = 0.0) -> list[float]:
        taken, end = [], time.perf_counter() + seconds
        gc.disable()
        try:
            while len(taken) < calls or time.perf_counter() < end:
                if pause:
                    time.sleep(pause)
                if before is not None:
                    before()
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


def _events(device: torch.device, cold: bool) -> Callable[[Run], float]:
    l2 = torch.cuda.get_device_properties(device).L2_cache_size
    flush = torch.empty(2 * l2, dtype=torch.int8, device=device)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def clock(work: Run) -> float:
        if cold:
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
        gave, lacks = (", ".join(sorted(names)) for names in (answer, missing))
        but = f", but {gave}" if gave else ""
        raise WrongAnswer(f"{name}: gave no {lacks}{but}; not timed")
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


# --- a contender, and the case that it is in ---

NAMES = "y", "h_n", "c_n"  # of the tensors that a layer returns


def whole(name: str) -> bool:
    """Return that a tensor of the right answer must be given: any."""
    return True


def forward_only(name: str) -> bool:
    """Return whether a tensor of the right answer must be given without a backward."""
    return not name.endswith(".grad")


@dataclass
class Call:
    """A contender in one case: what is timed in each mode, and what it answers.

    `turns` says that the modes' values take turns themselves, as those of another process do.
    """

    modes: Mapping[str, Callable[..., Any]]
    answer: Callable[[], Mapping[str, Tensor]]
    before: Mapping[str, Run] = field(default_factory=dict)  # mode -> untimed, before each call
    under: Callable[[], Any] = nullcontext  # around answers and turns, outside of the clock
    gives: Callable[[str], bool] = whole  # which tensors of the right answer it must give
    facts: Callable[[str, int], dict[str, Any]] = lambda mode, rounds: {}  # of the last rounds
    close: Run = lambda: None
    device: torch.device = CPU
    turns: bool = False
    cold: bool = True  # on a GPU: L2 is overwritten before each call, as it is not between steps

    def turn(self, mode: str) -> Turn:
        """Return what takes a turn in a mode."""
        work = self.modes[mode]
        if mode.endswith(GRAPH) and not self.turns:
            work()  # which captures it
        return work if self.turns else timed(work, self.device, self.before.get(mode), self.cold)

    def memory(self, mode: str) -> int | None:
        """Return the bytes at a call's peak above those before it, on a GPU of this process."""
        if self.device.type != "cuda" or self.turns or mode.endswith(GRAPH):
            return None
        self.before.get(mode, lambda: None)()
        torch.cuda.reset_peak_memory_stats(self.device)
        start = torch.cuda.memory_allocated(self.device)
        self.modes[mode]()
        return torch.cuda.max_memory_allocated(self.device) - start


def differentiable(
    run: Callable[[], Any],
    leaves: Mapping[str, Tensor],
    gradient: Tensor | None,
    device: torch.device = CPU,
    seed: int | None = None,
    **more: Any,
) -> Call:
    """Return a call of `run`, whose first tensor is differentiated with respect to `leaves`.

    Its modes are inference, which keeps nothing; forward, which keeps what a backward needs;
    backward, its forward done beforehand; and step, both. On a CUDA GPU there are graphs of them.
    The answer has the outputs of both kinds and every gradient by name. Without a `gradient` the
    first tensor is a loss. `seed` draws the same masks for answers; `more` are fields of the call.
    """
    kept: list[Tensor] = []
    wanted = list(leaves.values())

    def forward() -> Any:
        outputs = run()
        kept[:] = [outputs if isinstance(outputs, Tensor) else outputs[0]]
        return outputs

    def backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(kept.pop(), wanted, gradient)

    def step() -> tuple[Tensor, ...]:
        forward()
        return backward()

    @torch.no_grad()
    def inference() -> Any:
        return run()

    def seeded(work: Callable[[], Any]) -> Any:
        if seed is not None:
            torch.manual_seed(seed)
        return work()

    def answer() -> dict[str, Tensor]:
        found = {"inference": pytree.tree_leaves(seeded(inference))[0].clone()}
        found |= zip(NAMES, pytree.tree_leaves(seeded(forward)), strict=False)
        found |= {f"{name}.grad": g for name, g in zip(leaves, backward(), strict=True)}
        return {name: tensor.detach() for name, tensor in found.items()}

    modes: dict[str, Run] = {"inference": inference, "forward": forward, "backward": backward,
        "step": step}  # fmt: skip
    if device.type == "cuda":
        modes |= {n + GRAPH: captured(m) for n, m in modes.items() if n != "backward"}
    fields: dict[str, Any] = {"before": {"backward": forward}, "close": kept.clear}
    return Call(modes, answer, device=device, **fields | more)


GRAPH = " graph"  # at the end of a mode's name: its work is replayed from a CUDA graph
WARM_UP = 3  # calls before a capture: engines compile and allocate, and so do cuBLAS and cuDNN


def captured(work: Run) -> Run:
    """Return what replays a CUDA graph of `work`, which the first call captures."""
    graphs: list[torch.cuda.CUDAGraph] = []

    def replay() -> None:
        if not graphs:
            stream = torch.cuda.Stream()  # which engines and libraries are warmed up on
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    work()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                work()
            graphs.append(graph)
        graphs[0].replay()

    return replay


@dataclass
class Work:
    """A case: label -> what makes its call, label -> why others cannot, and the right answer.

    `rounded_to` is the dtype of the products' factors, where it is not the answer's.
    """

    calls: Mapping[str, Callable[[], Call]]
    expected: Callable[[], Mapping[str, Tensor]] = dict
    facts: Mapping[str, Any] = field(default_factory=dict)  # of all its records
    absent: Mapping[str, str] = field(default_factory=dict)
    rounded_to: torch.dtype | None = None
    name: str = ""  # the case's where it is empty
    flops: Callable[[str], int] | None = None  # of a mode's products


@dataclass(frozen=True)
class Pace:
    """The time that a group gets, and what a turn in it is.

    Where a turn is more than one call its first, which finds another's data in the cache, does not
    count, and a round is the median of the others.
    """

    seconds: float = 3.0  # no round begins later than this, once `least` rounds are done
    least: int = 10  # rounds
    most: int = 50
    longest: float = 30.0  # seconds past which three rounds do
    warmup: int = 1  # rounds that do not count, except where one takes an eighth of `longest`
    calls: int = 1  # of a turn, at least; beyond 1 a record has p50, p99 of ENOUGH, and the worst
    turn: float = 0.0  # seconds of a turn, at least: long enough for the system to interrupt


PACE = Pace()


class Group:
    """The calls of a case, under the same conditions: checked, then timed in turn.

    All are made before any is asked for its answer, so that processes of peers compile side by
    side. `failed` says who is not timed, label -> the error.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.calls: dict[str, Call] = {}
        self.errors: dict[str, float] = {}
        self.failed: dict[str, Exception] = {}
        right = work.expected()
        for label, make in work.calls.items():
            with self.going_on(label):
                self.calls[label] = make()
        for label, call in list(self.calls.items()):
            with self.going_on(label), call.under():
                wanted = {name: t for name, t in right.items() if call.gives(name)}
                self.errors[label] = require_right(label, call.answer(), wanted, work.rounded_to)

    @contextmanager
    def going_on(self, label: str) -> Iterator[None]:
        """Go on after the block without a contender that failed in it."""
        try:
            yield
        except Exception as error:  # a contender's failure is no one else's: it is reported
            self.failed[label] = error
            if (call := self.calls.pop(label, None)) is not None:
                call.close()

    def close(self) -> None:
        """End the processes of peers and free the memory of engines."""
        for call in self.calls.values():
            call.close()
        self.calls = {}

    def time(
        self, modes: Iterable[str], pace: Pace = PACE, pause: float = 0.0
    ) -> dict[tuple[str, str], list[list[float]]]:
        """Time everyone in all modes that they have, in every round, in an order drawn anew.

        Returns the turns by (label, mode): the seconds of each one's calls.
        """
        cases: dict[tuple[str, str], Turn] = {}
        for mode in modes:
            for label, call in list(self.calls.items()):
                if mode in call.modes:
                    with self.going_on(label):
                        cases[label, mode] = call.turn(mode)
        turns: dict[tuple[str, str], list[list[float]]] = {case: [] for case in cases}
        draw, several = random.Random(0), pace.calls > 1

        def round_of_all() -> None:
            order = [case for case in cases if case[0] in self.calls]
            draw.shuffle(order)
            for label, mode in order:
                if label in self.calls:  # else it failed in another mode just now
                    time.sleep(REST * several)
                    with self.going_on(label), self.calls[label].under():
                        taken = cases[label, mode](pace.calls, pace.turn, pause)
                        turns[label, mode].append(taken[several:])

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
            if late or not self.calls:
                break
            round_of_all()
        return {case: of for case, of in turns.items() if case[0] in self.calls}


# --- from turns to records ---


@cache
def surroundings(device: torch.device) -> dict[str, Any]:
    """Return what all records of a run have in common, except the threads."""
    return {
        "machine": machine.name(device),
        "versions": machine.versions(),
        "settings": machine.settings(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "device": str(device),
    }


def measure(
    group: Group,
    modes: Sequence[str],
    pace: Pace = PACE,
    device: torch.device = CPU,
    pause: float = 0.0,
    **about: Any,
) -> list[Record]:
    """Time a group in some modes; return a record for each, and one with `why` for who failed.

    `about` are fields of the records: the suite, the case, the dtype; further ones, such as how
    many busy processes there are, join the group's name and `extra`.
    """
    common = surroundings(device) | {"threads": torch.get_num_threads()} | about
    conditions = {k: common.pop(k) for k in about if k not in Record.__dataclass_fields__}
    conditions |= {"pause": pause} if pause else {}
    words = [common["suite"], common["case"], common["dtype"], f"{common['threads']} threads"]
    words += [f"{name} {value}" for name, value in conditions.items()]
    words.append(common["date"])  # two runs in one file took no turns with each other
    common["group"] = ", ".join(words)
    clock = machine.ForeignTime()
    turns = group.time(modes, pace, pause)
    common["foreign"] = round(clock.share(), 4)
    conditions |= {"card": card} if (card := machine.card(device)) else {}  # as it was left: warm
    records = []
    for (label, mode), rounds in turns.items():
        call = group.calls[label]
        facts = {**group.work.facts, **call.facts(mode, len(rounds)), **conditions}
        if group.work.flops is not None:
            facts["flops"] = group.work.flops(mode)
        if pace.calls > 1:
            facts |= tail([second for turn in rounds for second in turn])
        seconds = tuple(map(statistics.median, rounds))
        records.append(
            Record(contender=label, mode=mode, seconds=seconds, error=group.errors[label],
                memory=call.memory(mode), extra=facts, **common)
        )  # fmt: skip
    for label, error in group.failed.items():
        why = reason(error).removeprefix(f"{label}: ")
        records.append(Record(contender=label, mode=modes[0], why=why, extra=conditions, **common))
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
