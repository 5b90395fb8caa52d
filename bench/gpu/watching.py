"""Watches a process that says who is at work; names who hung or broke the GPU.

The process appends its events, a line of JSON each, to a file that the environment names.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).parents[2]
EVENTS = "BENCH_EVENTS"  # in the environment: the file of events
SILENCE = 60.0  # seconds without an event after which a process is taken for dead
RESTARTS = 6  # each takes the seconds of an import
HUNG = "hung"
CUT_OFF = "was cut off: no time left"
BROKE = "broke the GPU's context"


class End(NamedTuple):
    """Tell how a process ended. `who`: the test that hung or broke it; None: by itself."""

    who: str | None
    why: str = ""


# --- in the process ---


def say(who: str, event: str, **more: object) -> None:
    """Write an event, "starts" where somebody begins to work."""
    with open(os.environ.get(EVENTS, "/dev/stdout"), "a", encoding="utf-8") as file:
        file.write(json.dumps({"who": who, "event": event, **more}) + "\n")


def broken(device: torch.device) -> str | None:
    """Return why the GPU's context serves no more, so that every later call would fail; or None."""
    if device.type != "cuda":
        return None
    import torch  # here: who watches, and who only speaks, starts without it

    try:
        torch.cuda.synchronize(device)
        torch.zeros(1, device=device).add_(1).item()
    except Exception as error:
        return str(error).strip().splitlines()[0][:300]
    return None


def stop_if_broken(who: str, device: torch.device) -> None:
    """End this process where `who` left the GPU's context unfit: all others would be blamed."""
    if why := broken(device):
        say(who, "broke", why=why)
        os._exit(3)  # without the destructors, which would fail or wait


# --- in the parent ---


def outlive(
    command: Callable[[Sequence[str]], list[str]], take: Callable[[dict], None], deadline: float,
    silence: float = SILENCE,
) -> dict[str, str]:  # fmt: skip
    """Run a command, and again without whoever hung, or ended it; return them, name -> why.

    "all" is who has ended it where nobody was at work, or where the time was over.
    """
    lost: dict[str, str] = {}
    for _ in range(RESTARTS):
        end = watch(command(list(lost)), take, deadline, silence)
        if end.who is None:
            return lost
        lost[end.who] = end.why
        if end.who == "all" or time.monotonic() > deadline:
            return lost
    return lost | {"all": f"{RESTARTS} processes ended before they were done"}


def watch(
    command: Sequence[str], take: Callable[[dict], None], deadline: float,
    silence: float = SILENCE, **environment: str,
) -> End:  # fmt: skip
    """Run a command to its end; kill it at the deadline, or where it says nothing for too long.

    `take` is called with each event. "starts" and "broke" say who is at work from then on.
    """
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        events, errors = Path(folder) / "events", Path(folder) / "errors"
        events.touch()
        with errors.open("w") as stderr, events.open(encoding="utf-8") as said:
            environment = os.environ | environment | {EVENTS: str(events)}
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr, env=environment
            )
            who, broke, rest, heard, status = "all", "", "", time.monotonic(), None
            try:
                while status is None:
                    time.sleep(0.05)
                    status = process.poll()  # before the last events are read
                    *lines, rest = (rest + said.read()).split("\n")
                    for event in map(json.loads, lines):
                        heard = time.monotonic()
                        if event["event"] in ("starts", "broke"):
                            who = event["who"]
                        if event["event"] == "broke":
                            broke = f"{BROKE}: {event['why']}"
                        take(event)
                    late = time.monotonic() > deadline
                    if status is None and (late or time.monotonic() > heard + silence):
                        return End("all", CUT_OFF) if late else End(who, HUNG)
            finally:  # whoever is cut off here too
                process.kill()
                process.wait()
        if not broke and status == 0:
            return End(None)
        words = errors.read_text(errors="replace").strip().splitlines()
        words = words or [f"exit status {status}"]
    return End(who, broke or words[-1][:300])
