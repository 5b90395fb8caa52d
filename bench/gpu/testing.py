"""The tests marked gpu: each named as it begins, each with a limit, and no two share a fault.

It is the plugin of their pytest too (`-p bench.gpu.testing`), which says which test is at work.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence

import pytest

from .watching import CUT_OFF, outlive, say, stop_if_broken

LIMIT = 60.0  # seconds for one test
TESTS = ("-m", "gpu", "tests/kernels/triton/test_gpu.py", "tests/kernels/triton/test_gpu_cells.py")

# Parameters that tell families of kernels apart; the others of a test are sizes and dtypes.
KINDS = "fuse", "cell", "norm", "direction"


def family(item: pytest.Item) -> str:
    """Return the name of the kernels that a test is about: its function, and their kind."""
    parameters = getattr(item, "callspec", None)
    words = parameters.id.split("-") if parameters is not None else []
    named = dict(zip(parameters.params, words, strict=False)) if parameters is not None else {}
    kinds = [str(named[kind]) for kind in KINDS if kind in named]
    return " ".join([getattr(item, "originalname", None) or item.name, *kinds])


def by_worth(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Return tests in the order of their worth: one of each family, then the next of each.

    A family begins where the one before did not: so first rounds have every dtype and many sizes.
    """
    families: dict[str, list[pytest.Item]] = {}
    for item in items:
        families.setdefault(family(item), []).append(item)
    turns = []
    for number, members in enumerate(families.values()):
        start = number * 7 % len(members)
        turns.append(members[start:] + members[:start])
    rounds = range(max(map(len, turns), default=0))
    return [members[n] for n in rounds for members in turns if n < len(members)]


# --- in pytest ---


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests in the order of their worth."""
    items[:] = by_worth(items)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tell which tests there are, and the family of each."""
    say("all", "collected", tests={item.nodeid: family(item) for item in session.items})


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


def run(
    deadline: float, keep: Callable[[dict], None], tests: Sequence[str] = TESTS,
    limit: float = LIMIT,
) -> dict:  # fmt: skip
    """Return all tests' outcomes: {"passed": how many, "failed": name -> why, "skipped": ...}.

    "not run" are the tests that there was no time for, and "families" of kernels -> how many of
    its tests have passed. What the time cut off has not failed. A test that hangs or breaks the
    GPU's context ends its process: the others go on in a new one. `keep` is called with each
    outcome as it comes.
    """
    passed, failed, skipped, tests_of = set(), {}, {}, {}

    def command(lost: Sequence[str]) -> list[str]:
        words = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "bench.gpu.testing"]
        if importlib.util.find_spec("pytest_timeout"):  # it also prints where the test stands
            words += ["--timeout", str(limit), "-o", "timeout_method=thread"]
        done = {*passed, *failed, *skipped, *lost}
        return [*words, *tests, *(word for name in sorted(done) for word in ("--deselect", name))]

    def take(event: dict) -> None:
        name, kind = event["who"], event["event"]
        if kind in ("passed", "failed", "skipped"):
            keep(event)
        if kind == "collected":
            tests_of.update(event["tests"] | tests_of)
        elif kind == "starts":
            print(f"  {name}", flush=True)
        elif kind == "passed":
            passed.add(name)
        elif kind in ("failed", "skipped"):
            (failed if kind == "failed" else skipped)[name] = event["why"]
            print(f"  {name}: {kind}: {event['why']}", flush=True)

    # A little longer than pytest-timeout, so that it may speak first.
    lost = outlive(command, take, deadline, 1.25 * limit)
    failed |= {name: why for name, why in lost.items() if why != CUT_OFF}
    not_run = [name for name in tests_of if name not in passed | failed.keys() | skipped.keys()]
    families = dict.fromkeys(tests_of.values(), 0)
    for name in passed & tests_of.keys():
        families[tests_of[name]] += 1
    return {"passed": len(passed), "failed": failed, "skipped": skipped, "not run": not_run,
            "families": families}  # fmt: skip
