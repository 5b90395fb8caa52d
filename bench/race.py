"""Contenders on one work: each checked against the reference, then all timed in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from . import lanes, learner, local
from .check import require_right
from .contenders import Contender
from .lanes import Sentences, Tagger
from .learner import Learner
from .lesson import Lesson
from .local import Local
from .peers.remote import Remote
from .timing import Lost, Timed, interleave
from .work import Problem

# Who does a work in this process, and what the right answer to it is.
OWN = {
    Problem: (Local, local.expected),
    Lesson: (Learner, learner.expected),
    Sentences: (Tagger, lanes.expected),
}


Tell = Callable[[str], object]


class Runner(Protocol):
    """A contender with its work: Local or Learner in this process, Remote in one of its own."""

    modes: tuple[str, ...]

    def answer(self) -> dict[str, Tensor]: ...
    def timed(self, mode: str) -> Timed: ...
    def close(self) -> None: ...


@dataclass
class Race:
    """Who runs on `work`, and how far each was from the reference; `failed` says who does not."""

    work: Problem | Lesson | Sentences
    contenders: Sequence[Contender]
    runners: dict[str, Runner] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    losses: dict[str, list[float]] = field(default_factory=dict)  # of a lesson's first steps
    failed: dict[str, Exception] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own, reference = OWN[type(self.work)]
        self._own, self._expected = own, reference(self.work)

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
            self.errors[label] = require_right(label, answer, self._wanted(runner))
            if "losses" in answer:
                self.losses[label] = answer["losses"].tolist()
        except Exception as error:  # a contender's failure is its own: it is reported as such
            self.drop(label, error)
        if after is not None:
            after(label)

    def _wanted(self, runner: Runner) -> dict[str, Tensor]:
        """What an answer must have: of who only infers no gradients."""
        only_infers = set(runner.modes) == {"inference"}
        gradients = {name for name in self._expected if name.endswith(".grad") and only_infers}
        return {name: t for name, t in self._expected.items() if name not in gradients}

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

    def cases(self, mode: str, labels: Sequence[str] | None = None) -> dict[str, Timed]:
        """What is timed, by label: of all that have the mode, or of those in `labels`."""
        chosen = {n: r for n, r in self.runners.items() if labels is None or n in labels}
        found = {}
        for name, runner in chosen.items():
            if mode in runner.modes:
                try:
                    found[name] = runner.timed(mode)
                except Lost as error:
                    self.drop(name, error)
        return found

    def time(
        self,
        mode: str,
        seconds: float = 5.0,
        labels: Sequence[str] | None = None,
        tick: Callable[[float], object] | None = None,
        **how,
    ) -> dict[str, list[float]]:
        """Seconds of each round, by label; `seconds` and `how` as timing.interleave takes them."""
        cases = self.cases(mode, labels)
        return interleave(cases, seconds, tick=tick, lost=self.drop, **how)


def line_up(
    work: Problem | Lesson | Sentences,
    contenders: Sequence[Contender],
    tick: Tell | None = None,
    after: Tell | None = None,
) -> Race:
    """A race in which everybody has been checked."""
    race = Race(work, contenders)
    race.check_own(tick, after)
    race.start_peers()
    race.check_peers(tick, after)
    return race
