"""Contenders on one problem: each checked against nn.LSTM, then all timed in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from .check import WrongAnswer, require_right
from .contenders import BASE, Contender
from .local import Local
from .peers.remote import PeerFailed, Remote
from .timing import Timed, interleave
from .work import Problem


class Runner(Protocol):
    """A contender with a problem: Local in this process, Remote in one of its own."""

    modes: tuple[str, ...]

    def answer(self) -> dict[str, Tensor]: ...
    def timed(self, mode: str) -> Timed: ...
    def close(self) -> None: ...


@dataclass
class Race:
    """Who runs on `problem`, and how far each was from nn.LSTM; `failed` says who does not run."""

    problem: Problem
    runners: dict[str, Runner] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    failed: dict[str, Exception] = field(default_factory=dict)

    def close(self) -> None:
        for runner in self.runners.values():
            runner.close()
        self.runners = {}

    def time(
        self,
        mode: str,
        seconds: float = 5.0,
        labels: Sequence[str] | None = None,
        tick: Callable[[float], object] | None = None,
        **how,
    ) -> dict[str, list[float]]:
        """Seconds of each round, by label: of all that have the mode, or of those in `labels`.

        `seconds` and `how` are as timing.interleave takes them.
        """
        while True:
            chosen = [n for n in self.runners if labels is None or n in labels]
            able = [name for name in chosen if mode in self.runners[name].modes]
            try:
                cases = {name: self.runners[name].timed(mode) for name in able}
                return interleave(cases, seconds, tick=tick, **how)
            except PeerFailed as failure:  # once more, without it
                self.failed[failure.name] = failure
                self.runners.pop(failure.name).close()


def line_up(
    problem: Problem,
    contenders: Sequence[Contender],
    tick: Callable[[str], object] | None = None,
    after: Callable[[str], object] | None = None,
) -> Race:
    """Build every contender, and let only those start whose answer is right.

    Args:
        tick: called with each label before it is built (which may compile for minutes).
        after: called with it once it has answered, or failed.
    """
    race, expected = Race(problem), answer_of_reference(problem)
    for contender in contenders:
        label = contender.label
        if tick is not None:
            tick(label)
        runner: Runner | None = None
        try:
            runner = (Remote if contender.peer else Local)(contender, problem)
            race.errors[label] = require_right(label, runner.answer(), expected)
            race.runners[label] = runner
        except Exception as error:  # a contender's failure is its own: it is reported as such
            race.failed[label] = error
            if runner is not None:
                runner.close()
        if after is not None:
            after(label)
    return race


def answer_of_reference(problem: Problem) -> dict[str, Tensor]:
    """What nn.LSTM itself computes: outputs, final state and all gradients."""
    x = problem.x.clone().requires_grad_()
    y, (h_n, c_n) = problem.reference(x, (problem.h0, problem.c0))
    dx, *dweights = torch.autograd.grad(y, [x, *problem.weights], problem.dy)
    found = {"inference": y, "y": y, "h_n": h_n, "c_n": c_n, "x.grad": dx}
    for name, gradient in zip(problem.names, dweights, strict=True):
        found[f"{name}.grad"] = gradient
    return {name: tensor.detach() for name, tensor in found.items()}


__all__ = ["BASE", "Race", "WrongAnswer", "answer_of_reference", "line_up"]
