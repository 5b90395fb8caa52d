"""The tests marked gpu, run without a GPU: what each launches is compiled, and nothing is launched.

`python -m bench.gpu.dry_tests DEVICE COUNT WORD...`, pytest's words, runs them in COUNT processes,
each every COUNT-th test, in the order in which `testing` runs them. A test's tensors lie on the
CPU, dry.py is Triton's driver, and a test fails as soon as it compares: what it launched is in
Triton's cache by then. What a test compiled is an event.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from . import dry, testing
from .watching import ROOT, say

# In a process's environment: a Device as JSON, "0/16", and the number of the one that started it.
DEVICE, SHARD, PARENT = "BENCH_DRY_DEVICE", "BENCH_DRY_SHARD", "BENCH_DRY_PARENT"


class OnTheCpu(TorchFunctionMode):
    """Puts on the CPU what is asked to be on a GPU."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        moved = {name: self._moved(value) for name, value in (kwargs or {}).items()}
        return function(*map(self._moved, args), **moved)

    @staticmethod
    def _moved(value: Any) -> Any:
        if isinstance(value, torch.device) and value.type == "cuda":
            return torch.device("cpu")
        return "cpu" if isinstance(value, str) and value.startswith("cuda") else value


# --- in pytest ---


def pytest_configure(config: pytest.Config) -> None:
    """Take this process over: no launch, no GPU, and the CPU's tensors for one's."""
    from fused_lstm.triton.devices import Device

    torch.set_num_threads(1)
    dry.take_over(Device(**json.loads(os.environ[DEVICE])))
    dry.count_compilations()
    vars(torch.cuda)["synchronize"] = lambda *_: None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep this process's share, none of it skipped for want of a GPU."""
    number, count = map(int, os.environ[SHARD].split("/"))
    items[:] = testing.by_worth(items)[number::count]
    for item in items:
        item.own_markers = [mark for mark in item.own_markers if mark.name != "skip"]


def pytest_runtest_logstart(nodeid: str) -> None:
    """End with the process that started this one, whom a deadline ends."""
    if os.getppid() != int(os.environ[PARENT]):
        os._exit(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    """Run a test, and tell what it compiled, however it ended."""
    dry.COMPILED.clear()
    try:
        with OnTheCpu():
            return (yield)
    finally:
        say(item.nodeid, "compiled", kernels=len(dry.COMPILED))


# --- the processes ---


def main(device: str, count: str, *tests: str) -> int:
    """Run all shares of tests at once; each says what its tests compiled."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "bench.gpu.dry_tests", *tests]
    processes = []
    for number in range(int(count)):
        environment = os.environ | {DEVICE: device, SHARD: f"{number}/{count}"}
        environment[PARENT] = str(os.getpid())
        processes.append(
            subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        )
    for process in processes:
        process.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
