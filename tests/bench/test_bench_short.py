"""The topic `short`: calls of few rows, in bursts, beside the peers that can run them."""

from __future__ import annotations

import re

import pytest
import torch

from bench.alone import Shape
from bench.topics import short
from topic import needs_native, run


def test_a_burst_is_the_median_less_its_first():
    calls = iter([100.0, *range(short.CALLS), 200.0, *range(10, 10 + short.CALLS)])
    timed, middle = short.burst(lambda: next(calls)), (short.CALLS - 1) / 2
    assert [timed(), timed()] == [middle, middle + 10]


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)], ids=str)
def test_bytes_are_of_what_must_be_read(dtype, size):
    assert short.bytes_of(Shape(16, 1, 3, 5, 2), dtype) == size * 4 * 5 * (3 + 5 + 16 * 2 * 5)


def test_peers_race_in_what_they_can(monkeypatch):
    monkeypatch.setattr(short.peers, "missing", lambda name, device: None)
    labels = {dtype: [c.label for c in short.racing(dtype)] for dtype in short.GOALS}
    assert labels == {torch.float32: ["onnxruntime", "openvino"], torch.bfloat16: ["openvino"]}
    monkeypatch.setattr(short.peers, "missing", lambda name, device: "not installed")
    assert short.racing(torch.float32) == []


@needs_native
def test_short_calls(tiny, tmp_path, capsys):
    measured = run("short", tmp_path)["measured"]
    assert [(m["shape"], m["what"]) for m in measured] == [
        (f"l2t{T}b1h7", dtype) for T in (1, 16) for dtype in ("float32", "bfloat16")
    ]
    assert all(min(s) > 0 for m in measured for s in m["samples"].values())
    assert len(re.findall(r"^a sum over 0 MB: \d+ GB/s$", capsys.readouterr().out, re.M)) == 2
