"""On a machine with a GPU: compile, test, run GSan, show the post's table, race; under 9 minutes.

This process launches no Triton kernel. What is done is written as it is done: gpu.json after each
part, failed tests and races' records on the screen, the latter in gpu-races.jsonl too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..cases import Shape
from ..core import Pace, Record
from . import card, compiling, gsan, racing, testing
from .watching import ROOT

# Parts of the minutes: by when the races' kernels, the tests' and the tests have to be done.
COMPILING, COMPILING_TESTS, TESTING = 0.1, 0.35, 0.65
GSAN = 0.1  # of the minutes, after the tests
# Polls of a barrier after which a launch traps, so that a hang costs seconds: 10^8 are 70 s.
POLLS = "5000000"


def run(pace: Pace, options: Any) -> Iterator[Record]:
    """Compile, test, race; yield what the races measured.

    What was compiled and tested is in gpu.json beside the records. Raises SystemExit(1), at the
    end, where a test failed.
    """
    from fused_lstm.triton import launch
    from fused_lstm.triton.devices import current

    os.environ.setdefault(launch.POLLS, POLLS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was measured is written then
    began, minutes = time.monotonic(), options.minutes
    deadline = began + 60 * minutes
    file = Path(os.environ.get("OUT") or "out") / "gpu.json"
    if options.json is not None:
        file = options.json.with_suffix(".report.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    raced = file.with_name("gpu-races.jsonl")
    raced.unlink(missing_ok=True)
    wanted = [(race.precision, race.shape) for race in racing.races()]
    until = began + COMPILING * 60 * minutes
    done = compiling.compile_in_time(current(options.device), wanted, until)
    say_compiled("races", done)
    later = dict.fromkeys(("compiled for tests", "card", "tests", "gsan"))
    report: dict[str, Any] = {"compiled": done, **later}
    write(file, report)
    if not options.no_tests:
        until = began + COMPILING_TESTS * 60 * minutes
        done = compiling.compile_tests(current(options.device), until)
        report["compiled for tests"] = done
        say_compiled(f"{done['jobs']} tests", done)
    if options.device.type == "cuda":
        report["card"] = found = card.measured(deadline)
        numbers = found.items() if isinstance(found, dict) else ()
        print("  ".join(f"{name} {value:.2f}" for name, value in numbers) or found, flush=True)
    write(file, report)
    if not options.no_tests:
        report["tests"] = tests = testing.run(began + TESTING * 60 * minutes)
        write(file, report)
        without = [name for name, passed in tests["families"].items() if not passed]
        families = len(tests["families"])
        print(
            f"families of kernels with a test that passed: {families - len(without)} of {families}"
        )
        tell(dict.fromkeys(without, "no test has passed"))
        print(f"tests: {tests['passed']} passed, {len(tests['failed'])} failed,"
              f" {len(tests['not run'])} not run: out of time")  # fmt: skip
        tell(tests["failed"])
        # It fails nothing: no GPU has run it, and a fault of its own would hide the tests' result.
        report["gsan"] = gsan.check(time.monotonic() + GSAN * 60 * minutes)
        print(f"the barrier under Triton's GSan: {report['gsan']}")
    write(file, report)
    limit = min(150.0, (deadline - time.monotonic()) / 2)
    print(post(file.with_name("gpu-post.jsonl"), limit), flush=True)
    hung: dict[str, str] = {}
    for race in racing.races():
        print(f"\n{race.name}, {race.precision}: {Shape(*race.shape)}; cuDNN's algorithm:"
            f" {racing.cudnn_algorithms(Shape(*race.shape), race.precision)}")  # fmt: skip
        print(f"published: {race.published}" if race.published else "", flush=True)
        if deadline - time.monotonic() < 15:
            print("not run: out of time")
            continue
        yield from racing.supervise(race, pace.seconds, deadline, hung, raced)
    print(f"compiled, tested and raced: {file}")
    if report["tests"] and report["tests"]["failed"]:
        raise SystemExit(1)


def write(file: Path, report: dict[str, Any]) -> None:
    """Write what is known so far; a file is whole or as it was."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(report, indent=1) + "\n")
    part.replace(file)


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
