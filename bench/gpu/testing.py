"""The tests marked gpu: each named as it begins, each with a limit, and no two share a fault.

It is the plugin of their pytest too (`-p bench.gpu.testing`), which says which test is at work.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

import pytest

from .watching import outlive, say, stop_if_broken

LIMIT = 60.0  # seconds for one test
TESTS = ("-m", "gpu", "tests/kernels/test_gpu.py")

# --- in pytest ---


def pytest_runtest_logstart(nodeid: str) -> None:
    """Tell which test begins."""
    say(nodeid, "starts")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tell how it ended."""
    if report.when == "call" or not report.passed:
        lines = str(report.longrepr or "").strip().splitlines() or [""]
        error = next((line[1:].strip() for line in lines if line.startswith("E ")), lines[-1])
        say(report.nodeid, report.outcome, why=error[:300])


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Stop where it broke the context: every test after it would be blamed."""
    if (torch := sys.modules.get("torch")) and torch.cuda.is_available():
        stop_if_broken(item.nodeid, torch.device("cuda"))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell a failed test from a process that failed: that of the former ends well."""
    if session.testscollected and session.exitstatus == pytest.ExitCode.TESTS_FAILED:
        session.exitstatus = pytest.ExitCode.OK


# --- in the parent ---


def run(deadline: float, tests: Sequence[str] = TESTS, limit: float = LIMIT) -> dict:
    """Return all tests' outcomes: {"passed": how many, "failed": name -> why, "skipped": ...}.

    A test that hangs or breaks the GPU's context ends its process: the others go on in a new one.
    """
    passed, failed, skipped = set(), {}, {}

    def command(lost: Sequence[str]) -> list[str]:
        words = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "bench.gpu.testing"]
        if importlib.util.find_spec("pytest_timeout"):  # it also prints where the test stands
            words += ["--timeout", str(limit), "-o", "timeout_method=thread"]
        done = {*passed, *failed, *skipped, *lost}
        return [*words, *tests, *(word for name in sorted(done) for word in ("--deselect", name))]

    def take(event: dict) -> None:
        name, kind = event["who"], event["event"]
        if kind == "starts":
            print(f"  {name}", flush=True)
        elif kind == "passed":
            passed.add(name)
        elif kind in ("failed", "skipped"):
            (failed if kind == "failed" else skipped)[name] = event["why"]

    # A little longer than pytest-timeout, so that it may speak first.
    failed |= outlive(command, take, deadline, 1.25 * limit)
    return {"passed": len(passed), "failed": failed, "skipped": skipped}
