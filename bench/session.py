"""One run of the suite: races are run once and handed to pytest-benchmark case by case.

pytest-benchmark runs case after case; here all cases of a group are timed in turn (see timing.py)
when the first of them comes up. Its timer is then a clock that only a replay moves: each round of
`benchmark.pedantic` advances it by the seconds that the round took.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from . import machine
from .contenders import BASE, Contender, engines
from .count import Counts, count
from .lanes import Case, Tagger, make_sentences
from .learner import full_float32
from .lesson import make_lesson
from .local import Local
from .race import Race, line_up
from .timing import interleave, quartiles, speedup
from .work import Shape, make_problem

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
    """What one interleaved timing found, by label."""

    samples: dict[str, list[float]]
    errors: dict[str, float]
    failed: dict[str, Exception]
    counts: dict[str, Counts] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)  # of training steps
    tokens: int = 0  # of rows of unequal length


class Session:
    """Settings of a run, and its groups so far.

    Args:
        seconds: for each group, once every case has had its fewest rounds.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, seconds: float) -> None:
        self.device, self.dtype, self.seconds = device, dtype, seconds
        self.peaks = machine.Peaks(device, dtype)
        self._groups: dict[tuple, Group] = {}
        self._race: tuple[tuple, Race] | None = None

    def lstm(
        self, shape: Shape, mode: str, contenders: Sequence[Contender], counted: bool = True
    ) -> Group:
        """Time an LSTM in `mode`; nn.LSTM runs too, asked for or not.

        Without `counted` nothing but time is taken, and half as long.
        """
        key = (shape, mode, tuple(c.label for c in contenders))
        if key not in self._groups:
            race = self._line_up(shape, contenders, make_problem)
            self.peaks.measure()
            samples = race.time(mode, self.seconds if counted else self.seconds / 2)
            group = self._groups[key] = Group(samples, race.errors, race.failed)
            for label, runner in race.runners.items():
                if counted and isinstance(runner, Local):
                    work, setup = runner.work(mode)
                    group.counts[label] = count(work, self.device, setup)
        return self._groups[key]

    def lanes(self, case: Case, mode: str, contenders: Sequence[Contender]) -> Group:
        """Time both directions or unequal rows in `mode`, a fifth as long as `lstm` does."""
        key = (case, mode, tuple(c.label for c in contenders))
        if key not in self._groups:
            race = self._line_up(case, contenders, make_sentences)
            self._groups[key] = time_lanes(race, mode, self.seconds / 5)
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

    def _line_up(self, what: Any, contenders: Sequence[Contender], make: Callable) -> Race:
        """The race on `make(what, ...)`: the last one's, where it was the same."""
        key = (what, tuple(c.label for c in contenders))
        if self._race is None or self._race[0] != key:
            self.close()
            work = make(what, self.device, self.dtype)
            self._race = key, line_up(work, with_base(contenders))
        return self._race[1]

    def facts(self, group: Group, label: str, tokens: int) -> dict[str, Any]:
        """`extra_info` that any case has: speed, error, and how it compares with nn.LSTM."""
        sample = group.samples[label]
        seconds = statistics.median(sample)
        return {
            "tokens_per_second": tokens / seconds,
            "speedup_over_nn_lstm": speedup(group.samples[BASE], sample),
            "max_error": group.errors[label],
            **group.facts.get(label, {}),
        }

    def product_facts(
        self, group: Group, label: str, shape: Shape, mode: str
    ) -> dict[str, float | int | None]:
        """`extra_info` of an LSTM alone: speed of its products, launches, bytes, memory."""
        seconds = statistics.median(group.samples[label])
        found = {"gflops": shape.flops(mode) / seconds / 1e9}
        counts = group.counts.get(label)
        if counts is not None:
            found |= {"launches": counts.launches, "bytes": counts.bytes}
            found |= {"peak_memory": counts.peak_memory, "seconds_by_kind": counts.seconds}
            if counts.bytes is not None:
                found["gb_per_second"] = counts.bytes / seconds / 1e9
        return found

    def add_percentages(self, info: dict[str, Any]) -> None:
        """How near the machine's limits a case is, which only the end of a run knows."""
        if "gflops" in info:
            info["percent_of_product_peak"] = 100 * info["gflops"] / self.peaks.gflops
        if "gb_per_second" in info:
            part = info["gb_per_second"] / self.peaks.gigabytes
            info["percent_of_copy_bandwidth"] = 100 * part


def time_training(race: Race, seconds: float, **how: Any) -> Group:
    """Whole training steps and, in the same rounds, what a step takes without its LSTM.

    `how` is as timing.interleave takes it.
    """
    cases = {(mode, n): case for mode in ("train", "rest") for n, case in race.cases(mode).items()}

    def drop(case: tuple[str, str], error: Exception) -> None:
        race.drop(case[1], error)

    found = interleave(cases, seconds, lost=drop, **how)
    samples = {n: found["train", n] for n in race.runners}
    facts = {
        n: {
            "losses": race.losses[n],
            "seconds_without_lstm": quartiles(found["rest", n]).median,
        }
        for n, sample in samples.items()
    }
    return Group(samples, race.errors, race.failed, facts=facts)


def time_lanes(race: Race, mode: str, seconds: float, **how: Any) -> Group:
    """Both directions or unequal rows and, in the same rounds, what a token's time stands beside.

    `how` is as timing.interleave takes it.
    """
    work, other = race.work, None
    cases = {(work.case, n): case for n, case in race.cases(mode).items()}
    if (beside := work.case.beside(work.tokens)) is not None:
        other = make_sentences(beside, work.device, work.x.dtype)
        own = [c for c in race.contenders if c.label in race.runners and c.label != BASE]
        cases |= {(beside, c.label): Tagger(c, other).timed(mode) for c in own}
    found = interleave(cases, seconds, **how)
    samples = {n: found[work.case, n] for n in race.runners}
    facts = {
        n: {
            "beside": str(beside),
            "token_to_beside": speedup(samples[n], sample) * other.tokens / work.tokens,
        }
        for (case, n), sample in found.items()
        if case == beside
    }
    return Group(samples, race.errors, race.failed, facts=facts, tokens=work.tokens)


def with_base(contenders: Sequence[Contender]) -> list[Contender]:
    """nn.LSTM in front, where it is not among them."""
    base = next(c for c in engines() if c.label == BASE)
    return [*contenders] if base in contenders else [base, *contenders]
