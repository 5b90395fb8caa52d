"""Reads a process that says, in lines of JSON, who is at work; names who hung or broke the GPU."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TextIO

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).parents[2]
SILENCE = 60.0  # seconds without a word after which a process is taken for dead
RESTARTS = 6  # each takes the seconds of an import
HUNG = "hung"
BROKE = "broke the GPU's context"


class End(NamedTuple):
    """The end of a process: by itself, or by someone's fault. `who` None: well."""

    who: str | None
    why: str = ""


# --- in the process ---


def say(who: str, event: str, to: IO[str] | None = None, **more: object) -> None:
    """Write an event, "starts" where somebody begins to work."""
    print(json.dumps({"who": who, "event": event, **more}), flush=True, file=to)


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


def stop_if_broken(who: str, device: torch.device, to: IO[str] | None = None) -> None:
    """End this process where `who` left the GPU's context unfit: all others would be blamed."""
    if why := broken(device):
        say(who, "broke", to, why=why)
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
    silence: float = SILENCE, **environment: Any,
) -> End:  # fmt: skip
    """Run a command to its end; kill it at the deadline, or where it says nothing for too long.

    `take` is called with each event. "starts" and "broke" say who is at work from then on.
    """
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **environment
    )
    lines: queue.Queue = queue.Queue()
    for stream in (process.stdout, process.stderr):
        threading.Thread(target=_forward, args=(stream, lines), daemon=True).start()
    who, errors, broke, open_streams = "all", [], "", 2
    while open_streams:
        left = min(silence, deadline - time.monotonic())
        try:
            stream, line = lines.get(timeout=max(left, 0.01))
        except queue.Empty:
            process.kill()
            process.wait()
            return End(who, HUNG) if left >= silence else End("all", "was cut off: no time left")
        if line is None:
            open_streams -= 1
        elif stream is process.stderr:
            errors.append(line.strip())
        elif (event := _event(line)) is not None:
            if event["event"] in ("starts", "broke"):
                who = event["who"]
            if event["event"] == "broke":
                broke = f"{BROKE}: {event['why']}"
            take(event)
    status = process.wait()
    if not broke and status == 0:
        return End(None)
    words = [line for line in errors if line] or [f"exit status {status}"]
    return End(who, broke or words[-1][:300])


def _forward(stream: TextIO, lines: queue.Queue) -> None:
    """Put every line of a stream, and None at its end."""
    with stream:
        for line in stream:
            lines.put((stream, line))
    lines.put((stream, None))


def _event(line: str) -> dict | None:
    """Return a line that `say` wrote; None for a library's words."""
    try:
        event = json.loads(line)
        return event if {"who", "event"} <= event.keys() else None
    except (ValueError, AttributeError):
        return None
