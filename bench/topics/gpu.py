"""On a machine with a GPU: compile, test, show the post's table, race; under 9 minutes.

The parts are in bench/gpu. What is done is written after each, so that nothing is lost.
"""

from __future__ import annotations

import argparse
import json
import runpy
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from lm.command import Range, number

from ..alone import SIZES as PRESETS
from ..gpu import compiling, racing, testing
from ..gpu.races import races
from ..gpu.watching import ROOT
from . import post

SIZES, SECONDS, DEVICE = tuple(PRESETS), 1.5, "cuda"
COMPILING, TESTING = 0.2, 0.55  # of the minutes: by when each has to be done


def options(add: Callable) -> None:
    minutes = number(float, Range(0, open_low=True))
    add("--minutes", type=minutes, default=8.5, metavar="M", help="for everything together [8.5]")
    add("--no-tests", action="store_true", help="compile and race alone")


def shapes_of_tests() -> list[tuple[str, tuple[int, ...]]]:
    """What tests/kernels/test_gpu.py launches: read from it, so that the two cannot drift."""
    sys.path.insert(0, str(ROOT / "tests"))
    names = runpy.run_path(str(ROOT / "tests" / "kernels" / "test_gpu.py"))
    return [(p, shape) for shape in names["SHAPES"].values() for p in names["PRECISIONS"]]


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Compile, test, race."""
    from fused_lstm.triton.devices import current

    began, minutes, hung = time.monotonic(), given.minutes, {}
    deadline, left_out = began + 60 * minutes, given.no_tests
    given.failed = False
    report: dict[str, Any] = {"compiled": None, "tests": None, "races": [], "skipped": []}
    given.json.parent.mkdir(parents=True, exist_ok=True)

    wanted = [(race.precision, race.shape) for race in races()]
    wanted += [] if left_out else shapes_of_tests()
    until = began + COMPILING * 60 * minutes
    done = report["compiled"] = compiling.compile_in_time(current(given.device), wanted, until)
    print(f"{done['kernels']} launches compiled in {done['seconds']:.0f} s")
    tell(done["failed"])
    if not left_out:
        report["tests"] = tests = testing.run(began + TESTING * 60 * minutes)
        print(f"tests: {tests['passed']} passed, {len(tests['failed'])} failed, {tests['cut']}")
        tell(tests["failed"])
        given.failed = bool(tests["failed"] or tests["cut"])
    limit = min(150.0, (deadline - time.monotonic()) / 2)
    file = given.json.with_name("gpu-post.json")
    print(post.in_a_process(file, limit, "--device", "cuda"), flush=True)
    for race in races():
        given.json.write_text(json.dumps(report, indent=1) + "\n")
        if deadline - time.monotonic() < 15:
            report["skipped"].append(asdict(race))
            print(f"no time left for {race.name}, {race.precision}")
            continue
        outcome = racing.supervise(race, given.seconds, deadline, hung)
        report["races"].append({"case": asdict(race), **outcome})
        print(racing.table(race, outcome), flush=True)
    return report


def tell(failed: dict[str, str]) -> None:
    for name, why in failed.items():
        print(f"  {name}: {why}", flush=True)


def after(given: argparse.Namespace) -> int:
    """The exit status: 1 where a test failed."""
    return int(given.failed)
