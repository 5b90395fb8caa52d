"""bench.gpu.gsan without a GPU: what it makes of its runs. Its kernels: test_ptx_kernels.py."""

from __future__ import annotations

import subprocess
import time

import pytest

from bench.gpu import gsan

RACE = "GSan.cu:835: Assertion `Read after write race detected` failed."


def check(monkeypatch, ends: dict[str, tuple[int, str]]) -> str:
    """Return what is said of runs that end as `ends` tells: form -> exit status and error."""
    monkeypatch.setattr(gsan, "missing", lambda: None)
    runs = lambda form, seconds: subprocess.CompletedProcess([], ends[form][0], "", ends[form][1])  # noqa: E731
    monkeypatch.setattr(gsan, "_run", runs)
    return gsan.check(time.monotonic() + 60)


@pytest.mark.parametrize(
    ("assembly", "atomics", "expected"),
    [
        ((1, RACE), (0, ""), "no race"),
        ((1, RACE), (1, f"{RACE}\nRuntimeError"), f"a race: {RACE}"),
        ((1, RACE), (1, "no compiler"), "not run to its end: no compiler"),
        ((0, ""), (0, ""), "not run: GSan found no race where the barrier is hidden from it: "),
    ],
)
def test_a_line_about_both_forms(assembly, atomics, expected, monkeypatch):
    assert check(monkeypatch, {"assembly": assembly, "atomics": atomics}) == expected


@pytest.mark.parametrize("tool", ["triton.tools.no_gsan", "triton.no_tools.gsan"])
def test_a_triton_without_it(monkeypatch, tool):
    monkeypatch.setattr(gsan, "TOOL", tool)
    assert gsan.check(time.monotonic() + 60) == "not run: this Triton has no GSan"


def test_no_time(monkeypatch):
    monkeypatch.setattr(gsan, "missing", lambda: None)
    assert gsan.check(time.monotonic() + 5) == "not run: no time left"


def test_a_run_that_hangs(monkeypatch):
    def hang(form, seconds):
        raise subprocess.TimeoutExpired("gsan", seconds)

    monkeypatch.setattr(gsan, "missing", lambda: None)
    monkeypatch.setattr(gsan, "_run", hang)
    assert "assembly was cut off after" in gsan.check(time.monotonic() + 30)
