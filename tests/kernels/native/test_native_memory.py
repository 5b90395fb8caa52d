"""Memory that the native engine keeps: found again, bounded, given back, shared by nobody."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import fresh
import fused_lstm
from fused_lstm import native

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"
)
MIB = 2**20
PAGE = 4096  # what a block is rounded up to; under AddressSanitizer it ends in a page more
SEED = torch.tensor([1])
STATUS = Path("/proc/self/status")
SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")


@pytest.fixture(autouse=True)
def nothing_kept():
    fused_lstm.release_memory()
    yield
    fused_lstm.release_memory()


def take(bytes: int, value: float = 1.0) -> torch.Tensor:
    """A tensor of the engine's own memory, full of `value`."""
    return native.OPS.dropout(torch.full((bytes // 4,), value), 0.0, SEED)


def kept() -> int:
    return fused_lstm.release_memory()


def near(bytes: int, blocks: int = 1):
    return pytest.approx(bytes, abs=blocks * PAGE)


@pytest.mark.parametrize("bytes", [40_000, MIB, 5 * MIB], ids=["40kB", "1MiB", "5MiB"])
def test_what_was_freed_is_found_again(bytes):
    for _ in range(4):
        held = [take(bytes) for _ in range(3)]
        del held
    assert kept() == near(3 * bytes, 3)


def test_less_than_is_worth_keeping_is_not_kept():
    take(4000)
    assert kept() == 0


@pytest.mark.parametrize(
    ("then", "blocks"),
    [(8 * MIB, [8]), (7 * MIB, [8]), (4 * MIB, [8, 4]), (10 * MIB, [10])],
    ids=["same", "waste-of-a-seventh", "would-waste-a-half", "larger"],
)
def test_a_block_is_used_where_at_most_a_quarter_is_wasted(then, blocks):
    also = take(16 * MIB)  # so that all fits half as much again as was needed
    take(8 * MIB)
    del also
    take(16 * MIB)
    take(then)
    expected = 16 + sum(blocks) + (8 if blocks == [10] else 0)
    assert kept() == near(expected * MIB, 4)


def test_the_best_fit_is_taken():
    held = [take(n * MIB) for n in (10, 8, 9)]
    del held
    held = take(8 * MIB), take(9 * MIB), take(10 * MIB)
    assert kept() == 0
    del held


# In a process of their own: what other tests still hold raises how much may be kept.
SIZES = """
import torch
from fused_lstm import native, release_memory

for size in range(15, 1, -1):
    native.OPS.dropout(torch.ones(size * 2**18), 0.0, torch.tensor([1]))
print(release_memory())
"""
SHAPES = """
import torch, fused_lstm

torch.set_num_threads(1)
lstm = fused_lstm.LSTM(128, 128, engine="native")
run = lambda T, B: lstm(torch.randn(T, B, 128, requires_grad=True))[0].sum().backward()
run(40, 16)
print(fused_lstm.release_memory())
generator = torch.Generator().manual_seed(0)
for _ in range(40):
    run(*(int(torch.randint(1, n + 1, (), generator=generator)) for n in (40, 16)))
print(fused_lstm.release_memory())
"""


def test_calls_of_many_sizes_hold_half_as_much_again_as_they_need():
    assert 0 < int(fresh.python(SIZES)) <= 22.5 * MIB + 2 * PAGE


def test_varying_lengths_and_batches_hold_little():
    alone, varying = map(int, fresh.python(SHAPES).split())
    assert 0 < varying <= 1.6 * alone


@pytest.mark.slow  # five seconds of sleep
def test_what_is_unused_for_five_seconds_is_given_back():
    held = take(4 * MIB), take(MIB)
    del held
    time.sleep(5.2)
    take(MIB)
    assert kept() == near(MIB)


@pytest.mark.skipif(not STATUS.exists(), reason="this system does not say what a process holds")
def test_what_is_given_back_the_system_has():
    def resident() -> int:
        fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return int(fields["VmRSS"].split()[0]) * 1024

    held = [take(16 * MIB) for _ in range(4)]
    del held
    before = resident()
    assert kept() == near(64 * MIB, 4)
    assert before - resident() > 60 * MIB


def test_nobody_shares_it():
    def wrong(value: int) -> int:
        torch.set_num_threads(1)
        count = 0
        for i in range(90):
            held = [take(size * 1000, float(value)) for size in (40, 45, 300 + i, 2500)]
            count += sum(not (tensor == value).all() for tensor in held)
            if i % 40 == value:
                fused_lstm.release_memory()
        return count

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(wrong, range(4))) == [0] * 4


OUTLIVES = """
import builtins, torch
from fused_lstm import native

torch.set_num_threads(1)
builtins.held = [native.OPS.dropout(torch.ones(n), 0.0, torch.tensor([1])) for n in (10**4, 10**6)]
print("done")
"""


def test_a_tensor_may_outlive_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-c", OUTLIVES], capture_output=True, text=True, timeout=240
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_a_profile_has_what_is_not_kept():
    native.OPS.keep_memory(False)
    with torch.profiler.profile(profile_memory=True) as profile:
        held = take(5 * MIB)
    native.OPS.keep_memory(True)
    assert kept() == 0
    found = {e.key: e.self_cpu_memory_usage for e in profile.key_averages()}
    assert found["fused_lstm_native::dropout"] == held.nbytes


LITTLE = """
import resource, torch, fused_lstm
from fused_lstm import native

torch.set_num_threads(1)
lstm = fused_lstm.LSTM(256, 256, engine="native")
lstm(torch.ones(2, 20, 256))
native.OPS.dropout(torch.ones(2**20), 0.0, torch.tensor([1]))  # 4 MiB, kept
x = torch.ones({steps}, 20, 256)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + {more} * 2**20,) * 2)
try:
    lstm(x)
    print("enough")
except torch.OutOfMemoryError as error:
    print(error)
"""


@pytest.mark.skipif(not STATUS.exists(), reason="this system does not say what a process holds")
@pytest.mark.skipif(SANITIZED, reason="AddressSanitizer takes memory itself")
@pytest.mark.parametrize(
    ("steps", "more", "said"),
    [
        (2000, 128, "native tried to allocate 163840000 bytes: the system has no more\n"),
        (20, 0, "enough\n"),  # what is kept is given back first
    ],
    ids=["too-little", "enough-with-what-is-kept"],
)
def test_too_little_memory_is_an_error_that_says_how_much(steps, more, said):
    """Of 2000 steps the gates are 2000 * 20 * 4 * 256 * 4 bytes; y is a quarter of that."""
    (done,) = fresh.run(LITTLE.format(steps=steps, more=more))
    assert (done.stdout, done.stderr) == (said, ""), done.stderr


FORKS = """
import os, signal, threading, torch
from fused_lstm import native

torch.set_num_threads(1)
seed, small = torch.tensor([1]), torch.ones(10_000)
take = lambda: native.OPS.dropout(small, 0.0, seed)
stop = False

def work():
    while not stop:
        held = [take() for _ in range(500)]
        del held
        native.OPS.release_memory()  # the longest that the mutex is held

thread = threading.Thread(target=work, daemon=True)
thread.start()
for _ in range({rounds}):
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # it would wait for ever
        take()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
stop = True
thread.join()
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.skipif(SANITIZED, reason="a child may inherit AddressSanitizer's own locked mutex")
@pytest.mark.parametrize("rounds", [60, pytest.param(400, marks=pytest.mark.slow)])
def test_a_child_forked_while_another_thread_takes_memory_can_take_some(rounds):
    """One that inherited a held mutex would wait for it for ever."""
    assert fresh.python(FORKS.format(rounds=rounds)) == "done\n"
