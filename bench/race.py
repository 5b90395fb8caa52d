"""Contenders on one problem: each checked against the reference, then all timed in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from . import alone, training
from .alone import Local, Problem
from .contenders import Contender
from .measure.check import asked_of, require_right
from .measure.timing import Lost, Timed, interleave
from .peers.remote import Remote
from .training import Learner, Lesson

# Who does it in this process, and what the right answer is. A runner has `modes`, `answer()`,
# `timed(mode)` and `close()`, as peers.remote.Remote has.
OWN: dict[type, tuple[Any, Any]] = {
    Problem: (Local, alone.expected),
    Lesson: (Learner, training.expected),
}

Tell = Callable[[str], object]
Work = TypeVar("Work", Problem, Lesson)


@dataclass
class Race(Generic[Work]):
    """Who runs on `work`, and how far each was from the reference; `failed` says who does not."""

    work: Work
    contenders: Sequence[Contender]
    runners: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    losses: dict[str, list[float]] = field(default_factory=dict)  # of a lesson's first steps
    failed: dict[str, Exception] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._own, self._reference = OWN[type(self.work)]
        self._expected = self._reference(self.work)

    def check_own(self, tick: Tell | None = None, after: Tell | None = None) -> None:
        """Build who runs in this process, and keep those whose answer is right.

        Args:
            tick: called with each label before it is built (which may compile for minutes).
            after: called with it once it has answered, or failed.
        """
        for contender in self.contenders:
            if not contender.peer:
                self._check(contender, self._own, tick, after)

    def start_peers(self) -> None:
        """Start the peers' processes, which then compile side by side."""
        for contender in self.contenders:
            if contender.peer:
                try:
                    self.runners[contender.label] = Remote(contender, self.work)
                except Lost as error:
                    self.drop(contender.label, error)

    def check_peers(self, tick: Tell | None = None, after: Tell | None = None) -> None:
        """Wait for each, and keep those whose answer is right."""
        for contender in self.contenders:
            if contender.peer and contender.label in self.runners:
                self._check(contender, lambda c, _: self.runners[c.label], tick, after)

    def _check(
        self, contender: Contender, build: Callable, tick: Tell | None, after: Tell | None
    ) -> None:
        label = contender.label
        if tick is not None:
            tick(label)
        try:
            runner = self.runners[label] = build(contender, self.work)
            answer = runner.answer()
            wanted = asked_of(runner.modes, self._expected)
            self.errors[label] = require_right(label, answer, wanted)
            if "losses" in answer:
                self.losses[label] = answer["losses"].tolist()
        except Exception as error:  # a contender's failure is its own: it is reported as such
            self.drop(label, error)
        if after is not None:
            after(label)

    def recheck(self) -> None:
        """After timing: who runs an LSTM here must be right on an input it has not seen either."""
        own = {n: r for n, r in self.runners.items() if hasattr(r, "renew")}
        if not own or not isinstance(self.work, Problem):
            return
        fresh = self.work.fresh()
        right = self._reference(fresh)
        for label, runner in own.items():
            try:
                runner.renew(fresh)
                require_right(f"{label}, on a fresh input", runner.answer(), right)
            except Exception as error:
                self.drop(label, error)
            else:
                runner.renew(self.work)

    def drop(self, label: str, error: Exception) -> None:
        """Go on without one; the first error is the one that counts."""
        self.failed.setdefault(label, error)
        self.errors.pop(label, None)
        if (runner := self.runners.pop(label, None)) is not None:
            runner.close()

    def close(self) -> None:
        for runner in self.runners.values():
            runner.close()
        self.runners = {}

    def cases(self, mode: str) -> dict[tuple[Any, str], Timed]:
        """What is timed, by (mode, label), of all that have the mode."""
        found = {}
        for name, runner in list(self.runners.items()):
            if mode in runner.modes:
                try:
                    found[mode, name] = runner.timed(mode)
                except Lost as error:
                    self.drop(name, error)
        return found

    def take_turns(
        self, cases: Mapping[tuple[Any, str], Timed], seconds: float = 5.0, **how: Any
    ) -> dict[tuple[Any, str], list[float]]:
        """Seconds of each round of `cases`, by (what, label), of those who are right before and
        after it.

        `seconds` and `how` are as timing.interleave takes them.
        """

        def lost(case: tuple[Any, str], error: Lost) -> None:
            self.drop(case[1], error)

        samples = interleave(cases, seconds, lost=lost, **how)
        self.recheck()
        return {case: sample for case, sample in samples.items() if case[1] in self.runners}

    def time(self, mode: str, seconds: float = 5.0, **how: Any) -> dict[str, list[float]]:
        """The same of one mode, by label."""
        samples = self.take_turns(self.cases(mode), seconds, **how)
        return {label: sample for (_, label), sample in samples.items()}


def line_up(
    work: Work,
    contenders: Sequence[Contender],
    tick: Tell | None = None,
    after: Tell | None = None,
) -> Race[Work]:
    """A race in which everybody has been checked; peers compile while engines are."""
    race = Race(work, contenders)
    race.start_peers()
    race.check_own(tick, after)
    race.check_peers(tick, after)
    return race
