"""Short calls of engine native, on threads of their own: nobody waits for one without a core."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import fresh
import fused_lstm
from bench import machine
from fused_lstm import native

CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.skipif(native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"),
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a call has one thread"),
]
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
two_cores = pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
SETUP = """
import os, subprocess, sys, time, torch, fused_lstm
torch.set_num_threads(2)
layer, x = fused_lstm.prepare(torch.nn.LSTM(256, 256, 2)), torch.randn(1, 1, 256)
call = lambda: layer(x)[0]
cores = sorted(os.sched_getaffinity(0))[:2]

def threads():
    return set(map(int, os.listdir("/proc/self/task")))
"""


def python(script: str) -> str:
    """Return what a process of its own prints."""
    return fresh.python(SETUP + script)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def calls(seed: int) -> list[tuple[nn.Module, torch.Tensor]]:
    """Layers and inputs of short calls: plain, prepared, both ways, projected, of small steps."""
    torch.manual_seed(seed)
    plain = fused_lstm.LSTM(70, 300, 2, engine="native").eval()
    both = nn.LSTM(40, 130, 2, bidirectional=True)
    projected = fused_lstm.LSTM(70, 200, proj_size=50, engine="native").eval()
    return [
        (plain, torch.randn(2, 3, 70)),
        (fused_lstm.prepare(nn.Sequential(both))[0], torch.randn(5, 2, 40)),
        (projected, torch.randn(4, 2, 70)),
        (fused_lstm.prepare(nn.GRU(128, 256, 2), torch.bfloat16), torch.randn(3, 8, 128)),
        (fused_lstm.prepare(nn.LSTM(15, 15)), torch.randn(90, 30, 15)),
    ]


@torch.inference_mode()
def outputs(made: list[tuple[nn.Module, torch.Tensor]]) -> list[torch.Tensor]:
    return [layer(x)[0] for layer, x in made]


def test_bits_are_the_same_whoever_runs_a_part():
    """Beside a process for each core parts go now to one thread, now to the other."""
    made = calls(0)
    expected = outputs(made)
    with machine.neighbours(len(CORES)):
        for _ in range(200):
            for value, same in zip(outputs(made), expected, strict=True):
                assert torch.equal(value, same)


def test_callers_at_once_have_threads_each():
    made = [calls(seed) for seed in range(4)]
    expected, wrong = [outputs(one) for one in made], []

    def check(index: int) -> None:
        for _ in range(50):
            for value, same in zip(outputs(made[index]), expected[index], strict=True):
                if not torch.equal(value, same):
                    wrong.append(index)

    callers = [threading.Thread(target=check, args=(index,)) for index in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.parametrize("ran", [True, False], ids=["after a call", "before"])
def test_a_forked_child_has_threads_of_its_own(ran):
    python(f"""
import signal
expected = call() if {ran} else None
for _ in range(2):
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
        assert expected is None or torch.equal(call(), expected)
        os._exit(0)
    signal.alarm(60)  # it would wait for ever
    torch.ones(1 << 20) + 1  # which makes OpenMP's thread
    before = threads()
    found = call()
    assert expected is None or torch.equal(found, expected)
    expected = found
    assert len(threads() - before) == 1
""")


# OpenMP has its own thread already, and it sleeps.
ALONE = """
torch.ones(1 << 20) + 1
time.sleep(0.2)
"""
ASLEEP = (
    ALONE
    + """
everywhere, before = os.sched_getaffinity(0), threads()
call()
(own,) = threads() - before
time.sleep(0.05)
asleep = os.sched_getaffinity(own)
assert len(everywhere - asleep) == 1 and asleep < everywhere
"""
)


@two_cores
def test_a_thread_sleeps_off_its_callers_core():
    """Woken there it would wait for the caller; awake it may use every core."""
    python(f"""{ASLEEP}
awake = []
for _ in range(300):
    call()
    awake.append(os.sched_getaffinity(own))
assert everywhere in awake
""")


@two_cores
def test_who_binds_a_sleeping_thread_has_the_last_word():
    """`taskset -a` to the very cores that it has asleep, too."""
    python(f"""{ASLEEP}
for thread in threads():
    os.sched_setaffinity(thread, asleep)
for _ in range(3):
    call()
    time.sleep(0.05)
    assert os.sched_getaffinity(own) <= asleep
""")


@two_cores
def test_a_thread_without_a_core_is_not_waited_for():
    """It shares one with three other processes: OpenMP's region waited 8 to 30 ms for it."""
    script = f"""{ALONE}
before = threads()
call()
(own,) = threads() - before
os.sched_setaffinity(os.getpid(), cores[:1])
os.sched_setaffinity(own, cores[1:])
neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
for neighbour in neighbours:
    os.sched_setaffinity(neighbour.pid, cores[1:])
try:
    times = []
    for _ in range(60):
        time.sleep(0.01)
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
finally:
    for neighbour in neighbours:
        neighbour.kill()
        neighbour.wait()
print(sorted(times)[30])
"""
    assert float(python(script)) < 4e-3


def test_on_one_core_the_caller_runs_alone():
    """A thread of the caller's core would take its place, and spin there."""
    script = """
os.sched_setaffinity(0, cores[:1])

def least(count):
    torch.set_num_threads(count)
    times = []
    for _ in range(200):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return sorted(times)[20]

print(least(2) / least(1))
"""
    assert float(python(script)) < 2
