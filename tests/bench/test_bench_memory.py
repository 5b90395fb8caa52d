"""Memory: a process's peak, the C++ engine's beside stock's, and what is freed and kept."""

from __future__ import annotations

import contextlib
import functools
import io
import mmap
import os
import subprocess
import sys

import pytest
import torch

from bench.__main__ import main
from bench.contenders import BASE
from bench.measure import memory
from bench.rows import OURS
from bench.topics import native
from topic import needs_native


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_freed_memory_is_kept_on_demand():
    """Three blocks of 8 MiB at once, which glibc gives back: mapped anew each time, or never."""
    program = """
import torch
from bench.measure.memory import Counted
run = Counted(lambda: [torch.ones(2**21) for _ in range(3)])
for _ in range(5): run()
print(run.pages[-1])
"""
    without = {k: v for k, v in os.environ.items() if k not in memory.KEEP}
    ask = functools.partial(
        subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    fresh, kept = (int(ask(env=env).stdout) for env in (without, os.environ | memory.KEEP))
    assert kept == 0 < fresh


def test_memory_is_the_peak_beyond_what_was_there():
    mib, zeros = 64, bytes(64 << 20)
    torch.ones(5 * len(zeros) // 4)  # a peak of before, which must not count
    # From the system itself: malloc may have as much left of what other tests have freed.
    found = memory.peak_mib(lambda: mmap.mmap(-1, len(zeros)).write(zeros))
    if found is None:
        pytest.skip("this system does not say how much memory a process has had")
    assert mib - 8 < found < 2 * mib


def test_memory_is_none_where_the_system_does_not_say(monkeypatch):
    def missing(field):
        raise FileNotFoundError("/proc/self/status")

    monkeypatch.setattr(memory, "_status", missing)
    assert memory.peak_mib(lambda: None) is None


def in_this_process(command, **_):
    """`subprocess.run` for `python -m bench native ...`."""
    assert command[1:3] == ["-m", "bench"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = main(command[3:])
    return subprocess.CompletedProcess(command, status, printed.getvalue(), "")


@needs_native
def test_memory_is_measured_for_both(tiny, monkeypatch):
    monkeypatch.setattr(native.subprocess, "run", in_this_process)
    monkeypatch.setattr(native, "memory_of", lambda name, size, text: (name, size, text))
    found = native.measure_memory("small", "a-text")
    assert found == {name: [name, "small", "a-text"] for name in (BASE, OURS)}


def test_a_memory_process_that_fails_is_an_error_with_its_words(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "out of memory\n")
    monkeypatch.setattr(native.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match=r"^memory of cudnn: out of memory$"):
        native.measure_memory("small", None)
