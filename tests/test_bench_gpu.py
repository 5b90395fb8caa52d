"""bench.gpu without a GPU: what its parent process makes of a race that ends, breaks or hangs."""

from __future__ import annotations

import sys
import time

import pytest

from bench import gpu

CASE = gpu.cases()[0]
SAY = "import sys, time; from bench.gpu import say; "


def outcome() -> dict:
    return {"right": {}, "absent": {}, "failed": {}, "timed": {mode: {} for mode in gpu.MODES}}


def attempt(monkeypatch, code: str, found: dict, **options):
    monkeypatch.setattr(gpu, "command", lambda *_: [sys.executable, "-c", SAY + code])
    return gpu.attempt(CASE, 1.0, time.monotonic() + 60, found, **options)


def test_a_race_that_ends(monkeypatch):
    found = outcome()
    code = (
        "say('cudnn', 'starts'); print('a library says hello'); say('cudnn', 'right', error=0.1);"
        "say('jax', 'absent', why='not here'); say('all', 'timing', mode='step');"
        "say('cudnn', 'timed', mode='step', seconds=[0.001, 0.002, 0.003])"
    )
    assert attempt(monkeypatch, code, found) == (None, "")
    assert found["right"] == {"cudnn": 0.1}
    assert found["absent"] == {"jax": "not here"}
    text = gpu.table(CASE, found)
    assert "2.000 ms" in text
    assert "forward: not timed" in text


def test_who_broke_it_is_named(monkeypatch):
    code = "say('cudnn', 'starts'); say('bad', 'starts'); sys.exit('illegal memory access')"
    assert attempt(monkeypatch, code, outcome()) == ("bad", "illegal memory access")


def test_who_hangs_is_named(monkeypatch):
    code = "say('cudnn', 'starts'); say('stuck', 'starts'); time.sleep(50)"
    broken = attempt(monkeypatch, code, outcome(), silence=10.0)
    assert broken == ("stuck", "hung")


def test_the_race_goes_on_without_it(monkeypatch):
    attempts = []

    def attempt(case, seconds, deadline, found):
        attempts.append(list(found["failed"]))
        return ("bad", "broke") if len(attempts) == 1 else (None, "")

    monkeypatch.setattr(gpu, "attempt", attempt)
    found = gpu.supervise(CASE, 1.0, time.monotonic() + 60)
    assert attempts == [[], ["bad"]]
    assert found["failed"] == {"bad": "broke"}


def test_a_race_itself(monkeypatch, capsys):
    """On the CPU, at a small size: the code that runs on a GPU."""
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    everyone = ["compile", "native", "tensorflow", "tensorflow-xla", "keras", "jax"]
    gpu.race(gpu.Case("tiny", "fp32", (2, 3, 4, 5, 1)), 0.05, everyone)
    events = [line for line in capsys.readouterr().out.splitlines() if '"timed"' in line]
    assert any('"cudnn"' in line for line in events)
    assert any('"loop-none"' in line for line in events)


def test_no_gpu_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "no NVIDIA GPU" in capsys.readouterr().err


def test_bad_arguments():
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--minutes", "0"])
    assert stopped.value.code == 2
