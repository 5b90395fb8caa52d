"""One run of the suite: races are run once and handed to pytest-benchmark case by case.

pytest-benchmark runs case after case; here all cases of a group are timed in turn (measure/timing)
when the first of them comes up. Its timer is then a clock that only a replay moves: each round of
`benchmark.pedantic` advances it by the seconds that the round took.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from . import peers
from .alone import Case, Local, Problem, make_problem
from .contenders import BASE, Contender, with_base
from .measure.check import WrongAnswer
from .measure.counts import Counts, count
from .measure.machine import Peaks
from .measure.switches import full_float32
from .measure.timing import quartiles, speedup
from .race import Race, line_up
from .training import Lesson, make_lesson

_now = 0.0


def replay_clock() -> float:
    """Seconds that replayed rounds have taken so far: pytest-benchmark's timer."""
    return _now


def replay(benchmark: Any, sample: Sequence[float]) -> None:
    """Hand a sample, seconds of each round, to pytest-benchmark's fixture."""
    rounds = iter(sample)

    def advance() -> None:
        global _now
        _now += next(rounds)

    benchmark.pedantic(advance, rounds=len(sample), iterations=1)


@dataclass
class Group:
    """What one interleaved timing found, by label; `tokens` and `flops` are those of a call, where
    an LSTM is alone."""

    samples: dict[str, list[float]]
    errors: dict[str, float]
    failed: dict[str, Exception]
    tokens: int
    flops: int | None = None
    counts: dict[str, Counts] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)


class Session:
    """Settings of a run, and its groups so far.

    Args:
        seconds: for each group, once every case has had its fewest rounds.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, seconds: float) -> None:
        self.device, self.dtype, self.seconds = device, dtype, seconds
        self.peaks = Peaks(device, dtype)
        self._groups: dict[tuple, Group] = {}
        self._race: tuple[tuple, Race[Problem]] | None = None

    def alone(
        self,
        case: Case,
        mode: str,
        contenders: Sequence[Contender],
        share: float = 1.0,
        counted: bool = True,
    ) -> Group:
        """Time an LSTM in `mode`; nn.LSTM runs too, asked for or not.

        `share` is a part of the session's seconds; without `counted` nothing but time is taken.
        """
        labels = tuple(c.label for c in contenders)
        key = (case, mode, labels)
        if key not in self._groups:
            if self._race is None or self._race[0] != (case, labels):
                self.close()
                problem = make_problem(case, self.device, self.dtype)
                self._race = (case, labels), line_up(problem, with_base(contenders))
            race = self._race[1]
            if counted:
                self.peaks.measure()
            group = self._groups[key] = time_alone(race, mode, self.seconds * share)
            for label, runner in race.runners.items():
                if counted and isinstance(runner, Local):
                    work, setup = runner.work(mode)
                    group.counts[label] = count(work, self.device, setup)
        return self._groups[key]

    def training(self, size: str, contenders: Sequence[Contender]) -> Group:
        """Time whole training steps of the language model at a preset's size."""
        key = (size, tuple(c.label for c in contenders))
        if key not in self._groups:
            self.close()
            self.peaks.measure()
            with full_float32():
                race = line_up(make_lesson(size, self.device), with_base(contenders))
                self._groups[key] = time_training(race, self.seconds)
                race.close()
        return self._groups[key]

    def close(self) -> None:
        """End the processes of peers, free the memory of engines."""
        if self._race is not None:
            self._race[1].close()
        self._race = None

    def finish(
        self, benchmark: Any, group: Group, contender: Contender, about: dict[str, Any]
    ) -> None:
        """Fail where the answer was wrong, else hand rounds and facts to pytest-benchmark.

        `about` joins its extra_info; its "mode" and "shape" say what was run.
        """
        label = contender.label
        if (failure := group.failed.get(label)) is not None:
            if isinstance(failure, WrongAnswer):
                pytest.fail(f"refused: {failure}", pytrace=False)
            raise failure
        replay(benchmark, group.samples[label])
        info = extra_info(contender, group, self.device, self.dtype, about)
        benchmark.extra_info.update(info)

    def add_percentages(self, info: dict[str, Any]) -> None:
        """How near the machine's limits a case is, which only the end of a run knows."""
        if "gflops" in info:
            info["percent_of_product_peak"] = 100 * info["gflops"] / self.peaks.gflops
        if "gb_per_second" in info:
            part = info["gb_per_second"] / self.peaks.gigabytes
            info["percent_of_copy_bandwidth"] = 100 * part


def time_alone(race: Race[Problem], mode: str, seconds: float, **how: Any) -> Group:
    """An LSTM alone and, in the same rounds, what the time of a token of it stands beside.

    `how` is as timing.interleave takes it.
    """
    problem, cases, tokens = race.work, race.cases(mode), 0
    if (beside := problem.case.beside(problem.tokens)) is not None:
        other = make_problem(beside, problem.device, problem.dtype)
        tokens = other.tokens
        own = [c for c in race.contenders if c.label in race.runners and c.label != BASE]
        cases |= {(beside, c.label): Local(c, other).timed(mode) for c in own}
    found = race.take_turns(cases, seconds, **how)
    samples = {n: sample for (what, n), sample in found.items() if what == mode}
    facts = {
        n: {
            "beside": str(beside),
            "token_to_beside": speedup(samples[n], sample) * tokens / problem.tokens,
        }
        for (what, n), sample in found.items()
        if what == beside
    }
    return Group(
        samples, race.errors, race.failed, problem.tokens, problem.flops(mode), facts=facts
    )


def time_training(race: Race[Lesson], seconds: float, **how: Any) -> Group:
    """Whole training steps and, in the same rounds, what a step takes without its LSTM."""
    found = race.take_turns(race.cases("train") | race.cases("rest"), seconds, **how)
    samples = {n: found["train", n] for n in race.runners}
    rest = {n: quartiles(found["rest", n]).median for n in samples}
    facts = {n: {"losses": race.losses[n], "seconds_without_lstm": rest[n]} for n in samples}
    return Group(samples, race.errors, race.failed, race.work.words, facts=facts)


def extra_info(
    contender: Contender,
    group: Group,
    device: torch.device,
    dtype: torch.dtype,
    about: dict[str, Any],
) -> dict[str, Any]:
    """What a result file says of a case: `about`, whose "mode" and "shape" say what was run, what
    was found, and how it compares with nn.LSTM."""
    label, shape = contender.label, about["shape"]
    sample, counts = group.samples[label], group.counts.get(label)
    seconds, found = statistics.median(sample), dict(group.facts.get(label, {}))
    if BASE in group.samples:
        found["speedup_over_nn_lstm"] = speedup(group.samples[BASE], sample)
    if group.flops is not None:
        found["gflops"] = group.flops / seconds / 1e9
    if counts is not None:
        found |= {"launches": counts.launches, "bytes": counts.bytes}
        found |= {"peak_memory": counts.peak_memory, "seconds_by_kind": counts.seconds}
        if counts.bytes is not None:
            found["gb_per_second"] = counts.bytes / seconds / 1e9
    return {
        **{"label": label, "engine": contender.engine, "fuse": contender.fuse},
        **{"stock": contender.stock, "proof": contender.proof},
        "peer": peers.PEERS[contender.engine].says if contender.peer else None,
        **{"device": str(device), "dtype": str(dtype).removeprefix("torch.")},
        **about,
        "shape": shape._asdict(),
        **{"tokens_per_second": group.tokens / seconds, "max_error": group.errors[label]},
        **found,
    }
