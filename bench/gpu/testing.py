"""The tests marked gpu: each named as it begins, each with a limit, and no two share a fault."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Sequence

from .watching import watch

LIMIT = 60.0  # seconds for one test
RESTARTS = 6  # each takes the seconds of an import and a collection
TESTS = ("-m", "gpu", "tests/kernels/test_gpu.py")


def command(done: Sequence[str], tests: Sequence[str] = TESTS, limit: float = LIMIT) -> list[str]:
    """pytest on all tests but those that are done with."""
    found = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "bench.gpu.plugin", *tests]
    if importlib.util.find_spec("pytest_timeout"):  # it also prints where the test stands
        found += ["--timeout", str(limit), "-o", "timeout_method=thread"]
    for nodeid in done:
        found += ["--deselect", nodeid]
    return found


def run(deadline: float, tests: Sequence[str] = TESTS, limit: float = LIMIT) -> dict:
    """All tests' outcomes: {"passed": how many, "failed": name -> why, "skipped": ..., "cut": why}.

    A test that hangs or breaks the GPU's context ends its process: the others go on in a new one.
    """
    found = {"passed": 0, "failed": {}, "skipped": {}, "cut": ""}
    done: list[str] = []
    finished = False

    def take(event: dict) -> None:
        nonlocal finished
        name, kind = event["who"], event["event"]
        if kind == "ended":
            finished = True
        elif kind == "starts":
            print(f"  {name}", flush=True)
        elif kind == "passed":
            found["passed"] += 1
            done.append(name)
        elif kind in ("failed", "skipped"):
            found[kind][name] = event["why"]
            done.append(name)

    for _ in range(RESTARTS):
        # A little longer than pytest-timeout, so that it may speak first.
        end = watch(command(done, tests, limit), take, deadline, silence=limit + 15)
        if finished:  # whatever the exit status: a test's failure has been taken down
            break
        who = end.who or "all"
        if who == "all" or time.monotonic() > deadline:
            found["cut"] = end.why or "ended before its tests did"
            break
        found["failed"][who] = end.why
        done.append(who)
    else:
        found["cut"] = f"{RESTARTS} processes ended before their tests did"
    return found
