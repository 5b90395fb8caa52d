"""A pytest plugin (`-p bench.gpu.plugin`): says which test is at work, and who broke the GPU."""

from __future__ import annotations

import os

import pytest
import torch

from .watching import broken, say

# The process's own stdout: this is loaded before pytest captures it.
OUT = os.fdopen(os.dup(1), "w", buffering=1)


def tell(who: str, event: str, **more: object) -> None:
    OUT.write("\n")  # pytest's dots have begun a line
    say(who, event, OUT, **more)


def pytest_runtest_logstart(nodeid: str) -> None:
    tell(nodeid, "starts")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or not report.passed:
        lines = str(report.longrepr or "").strip().splitlines() or [""]
        error = next((line[1:].strip() for line in lines if line.startswith("E ")), lines[-1])
        tell(report.nodeid, report.outcome, why=error[:300])


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if why := broken(device):
        tell(item.nodeid, "broke", why=why)
        os._exit(3)  # every test after it would be blamed


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.testscollected or not session.testsfailed:  # else: nothing could be collected
        tell("all", "ended")
