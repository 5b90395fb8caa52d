"""One race: in a process of its own, and again without whoever hung or broke the GPU's context."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from .. import core
from ..cases import Case, Shape, make_problem
from ..contenders import BASE, everyone, why_not
from ..core import Group, Pace, Timed, measure, quartiles, ratio
from ..lstm import Local
from ..peers.remote import PeerFailed, Remote
from .races import MODES, PRECISIONS, GpuRace, cudnn_algorithms
from .watching import HUNG, broken, say, watch

TF32_TOLERANCE = 1e-2  # inputs of products keep 10 bits, for nn.LSTM and for all others
DEVICE = "cuda"
EXCLUDED = ("compile",)  # minutes of compilation

# --- in the race's process ---


class Watched:
    """A contender that says so before it is timed, and whose error is laid at its own door."""

    def __init__(self, label: str, runner: Any, device: torch.device) -> None:
        self.label, self.runner, self.device = label, runner, device
        self.modes = runner.modes

    def timed(self, mode: str) -> Timed:
        say(self.label, "starts", mode=mode)
        once = self._guarded(lambda: self.runner.timed(mode))

        def watched() -> float:
            say(self.label, "starts", mode=mode)
            return self._guarded(once)

        return watched

    def _guarded(self, work: Callable):
        try:
            return work()
        except Exception as error:
            stop_if_broken(self.label, self.device)
            raise PeerFailed(self.label, f"{type(error).__name__}: {error}") from error

    def answer(self) -> dict[str, torch.Tensor]:
        """On a fresh input: it may break the context only now."""
        say(self.label, "starts", mode="answer")
        return self._guarded(self.runner.answer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)


def stop_if_broken(label: str, device: torch.device) -> None:
    """End this process where `label` left the GPU's context unfit: all others would be blamed."""
    if why := broken(device):
        say(label, "broke", why=why)
        os._exit(3)  # without the destructors, which would fail or wait


def race(case: GpuRace, seconds: float, without: Iterable[str]) -> None:
    """Run one race and say everything in lines of JSON; records among them."""
    device = torch.device(DEVICE)
    dtype, tf32 = PRECISIONS[case.precision]
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    if tf32:
        core.TOLERANCE[dtype] = TF32_TOLERANCE
    entered = []
    for contender in everyone():
        if contender.engine in EXCLUDED or contender.label in without:
            continue
        if why := why_not(contender, device):
            say(contender.label, "absent", why=why)
        else:
            entered.append(contender)
    problem = make_problem(Case(case.name, Shape(*case.shape)), device, dtype)
    group = Group(
        problem,
        {c.label: partial(Remote if c.peer else Local, c, problem) for c in entered},
        begin=lambda label: say(label, "starts", mode="answer"),
        end=lambda label: stop_if_broken(label, device),
    )
    for label, error in group.errors.items():
        say(label, "right", error=error)
    watched: dict[str, Any] = {n: Watched(n, r, device) for n, r in group.runners.items()}
    group.runners = watched
    pace = Pace(seconds, least=3)
    for mode in MODES:
        for record in measure("gpu", case.name, group, [mode], pace, device, dtype, case.precision):
            if record.seconds:
                say(
                    record.contender,
                    "timed",
                    mode=mode,
                    seconds=record.seconds,
                    record=record.to_json(),
                )
    for label, error in group.failed.items():
        say(label, "failed", why=f"{type(error).__name__}: {error}".splitlines()[0][:300])
    group.close()


# --- in the parent ---


def command(case: GpuRace, seconds: float, without: Iterable[str]) -> list[str]:
    """The race's process."""
    race_of = [sys.executable, "-m", "bench.gpu.racing", json.dumps(asdict(case))]
    return [*race_of, str(seconds), *without]


def supervise(case: GpuRace, seconds: float, deadline: float, hung: dict[str, str], **how) -> dict:
    """Return {"right", "absent", "failed": label -> ..., "timed": mode -> ..., "records": lines}.

    Args:
        hung: label -> why, of those who hung in an earlier race: they are not started again, and
            who hangs in this one joins them.
    """
    found: dict[str, Any] = {"right": {}, "absent": {}, "failed": dict(hung), "records": []}
    found["timed"] = {mode: {} for mode in MODES}
    for _ in range(4):
        without = [label for label in found["failed"] if label != "all"]
        end = watch(command(case, seconds, without), lambda e: take(e, found), deadline, **how)
        if end.who is None:
            break
        found["failed"][end.who] = end.why
        if end.why == HUNG and end.who != "all":
            hung[end.who] = f"hung in {case.name}, {case.precision}; not started again"
        if end.who == "all" or time.monotonic() > deadline:
            break
    return found


def take(event: dict, found: dict) -> None:
    """Put what a race said into `found`."""
    label, kind = event["who"], event["event"]
    if kind in ("absent", "failed"):
        found[kind][label] = event["why"]
    elif kind == "right":
        found["right"][label] = event["error"]
    elif kind == "timed":
        found["timed"][event["mode"]][label] = event["seconds"]
        if "record" in event:
            found["records"].append(event["record"])


def table(case: GpuRace, outcome: dict) -> str:
    """Medians in milliseconds, and how many times faster than cuDNN, for one race."""
    shape = Shape(*case.shape)
    lines = [f"{case.name}, {case.precision}: {shape}",
             f"  cuDNN's algorithm: {cudnn_algorithms(shape, case.precision)}"]  # fmt: skip
    lines += [f"  published: {case.published}"] if case.published else []
    for label in outcome["right"]:
        cells = [_cell(mode, label, outcome["timed"][mode]) for mode in MODES]
        lines.append(f"  {label:<18} {'   '.join(cells)}   error {outcome['right'][label]:.1e}")
    for kind in ("failed", "absent"):
        lines += [f"  {label:<18} {kind}: {why}" for label, why in outcome[kind].items()]
    return "\n".join(lines)


def _cell(mode: str, label: str, samples: dict[str, list[float]]) -> str:
    if label not in samples:
        return f"{mode}: not timed"
    text = f"{mode} {1e3 * quartiles(samples[label]).median:9.3f} ms"
    return text + (f" {ratio(samples[BASE], samples[label]).text:>10}" if BASE in samples else "")


if __name__ == "__main__":
    race(GpuRace(**json.loads(sys.argv[1])), float(sys.argv[2]), sys.argv[3:])
