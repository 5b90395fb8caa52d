"""On a machine with a GPU: `gpu` compiles, tests and runs GSan, `gpu-race` compiles and races.

Each begins with `gpu-first` (first.py), and takes under 11 minutes. This process launches no Triton
kernel. What is done is written as it is done: gpu.json after each part, each test's outcome in
gpu-tests.jsonl, and each race's record in gpu-races.jsonl; failed tests and records are on the
screen too. Each file names the card, its driver, the libraries and the commit.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ..core import Record
from . import card, compiling, first, gsan, racing, testing
from .watching import ROOT

# Parts of the minutes: by when the tests' kernels have to be done, the tests, the races' kernels.
COMPILING_TESTS, TESTING, COMPILING = 0.3, 0.85, 0.2
# Polls of a barrier after which a launch traps, so that a hang costs seconds: 10^8 are 70 s.
POLLS = "5000000"
SECONDS = 1.5  # of timing, a race's mode
LAST = 60.0  # seconds that are left for the post's table


def run(name: str, options: Any) -> Iterator[Record]:
    """Run `gpu-first`, `gpu` or `gpu-race`; yield what the races measured.

    Raises ValueError, before anything is compiled, where the kernels do not run on this machine;
    SystemExit(1), at the end, where a test failed.
    """
    from fused_lstm import triton

    if (why := triton.missing(options.device)) is not None:
        raise ValueError(f"engine 'triton' cannot run on this machine: {why}")
    from fused_lstm.triton import launch

    os.environ.setdefault(launch.POLLS, POLLS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was measured is written then
    folder = Path(os.environ.get("OUT") or "out") if options.json is None else options.json.parent
    folder.mkdir(parents=True, exist_ok=True)
    report = first.run(folder / "gpu-first.json", options.device, time.monotonic())
    if name == "gpu-first":
        if any(end != "passed" for end in report["tests"].values()):
            raise SystemExit(1)
        return
    began, seconds = time.monotonic(), 60 * options.minutes
    if name == "gpu":
        test(folder / "gpu.json", began, seconds, options.device)
        return
    pace = options.seconds or SECONDS
    yield from race(folder, began, seconds, pace, options.device)


def test(file: Path, began: float, seconds: float, device: Any) -> None:
    """Compile and run the tests, and the barrier under GSan; write a report after each part."""
    from fused_lstm.triton.devices import current

    about = racing.about(device)
    report = about | dict.fromkeys(("compiled", "measured", "tests", "gsan"))
    write(file, report)
    print(f"compiling what the tests launch: {COMPILING_TESTS * seconds:.0f} s at most", flush=True)
    report["compiled"] = done = compiling.compile_tests(
        current(device), began + COMPILING_TESTS * seconds
    )
    say_compiled(f"{done['jobs']} tests", done)
    write(file, report)
    if device.type == "cuda":
        report["measured"] = found = card.measured(began + seconds)
        numbers = found.items() if isinstance(found, dict) else ()
        print("  ".join(f"{name} {value:.2f}" for name, value in numbers) or found, flush=True)
        write(file, report)
    outcomes = file.with_name("gpu-tests.jsonl")
    outcomes.write_text(json.dumps(about) + "\n")
    keep = partial(append, outcomes)
    report["tests"] = tests = testing.run(began + TESTING * seconds, keep)
    write(file, report)
    without = [name for name, passed in tests["families"].items() if not passed]
    families = len(tests["families"])
    print(f"families of kernels with a test that passed: {families - len(without)} of {families}")
    tell(dict.fromkeys(without, "no test has passed"))
    print(f"tests: {tests['passed']} passed, {len(tests['failed'])} failed,"
          f" {len(tests['not run'])} not run: out of time")  # fmt: skip
    tell(tests["failed"])
    # It fails nothing: no GPU has run it, and a fault of its own would hide the tests' result.
    report["gsan"] = gsan.check(began + seconds)
    print(f"the barrier under Triton's GSan: {report['gsan']}")
    write(file, report)
    print(f"compiled and tested: {file}")
    if tests["failed"]:
        raise SystemExit(1)


def race(folder: Path, began: float, seconds: float, pace: float, device: Any) -> Iterator[Record]:
    """Compile what races launch, race, show the post's table; yield the records."""
    from fused_lstm.triton.devices import current

    deadline, raced = began + seconds, folder / "gpu-races.jsonl"
    raced.unlink(missing_ok=True)
    print(f"compiling what is raced: {COMPILING * seconds:.0f} s at most", flush=True)
    done = compiling.compile_in_time(current(device), racing.races(), began + COMPILING * seconds)
    say_compiled("races", done)
    keep, about = partial(append, raced), racing.about(device)
    yield from racing.supervise(racing.races(), pace, deadline - LAST, keep, about)
    print(post(folder / "gpu-post.jsonl", deadline - time.monotonic()), flush=True)
    print(f"raced: {raced}")


def write(file: Path, report: dict[str, Any]) -> None:
    """Write what is known so far; a file is whole or as it was."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(report, indent=1) + "\n")
    part.replace(file)


def append(file: Path, line: dict[str, Any]) -> None:
    """Write a line at the end of a file of lines."""
    with file.open("a", encoding="utf-8") as written:
        written.write(json.dumps(line) + "\n")


def post(path: Path, limit: float) -> str:
    """Return what `bench post` says on the GPU, or one line about why it did not end well."""
    command = [sys.executable, "-m", "bench", "post", "--json", str(path), "--device", "cuda"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, cwd=ROOT)
    except subprocess.TimeoutExpired:
        return f"bench post: cut off after {limit:.0f} s"
    words = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return done.stdout if done.returncode in (0, 3) else f"bench post: {words[-1]}"


def say_compiled(what: str, done: dict) -> None:
    """Print how many kernels were compiled for what, and which could not be."""
    cut_off = ", then cut off: what is left is compiled when it is launched"
    print(f"{what}: {done['kernels']} kernels compiled in {done['seconds']:.0f} s"
          f"{cut_off if done['cut off'] else ''}")  # fmt: skip
    tell(done["failed"])


def tell(failed: dict[str, str]) -> None:
    """Print who failed and why."""
    for name, why in failed.items():
        print(f"  {name}: {why}", flush=True)
