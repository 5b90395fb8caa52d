"""bench.streaming: everyone streams what nn.LSTM computes, and a wrong one is not timed."""

from __future__ import annotations

import json

import pytest
import torch

import fused_lstm
from bench import streaming
from bench.check import WrongAnswer
from bench.work import Shape

NATIVE = fused_lstm.available_engines("cpu")["native"]
pytestmark = pytest.mark.skipif(NATIVE is not None, reason=f"native: {NATIVE}")
SHAPE = Shape(4, 2, 5, 5, 2)


def test_everyone_is_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(streaming.SIZES, "small", SHAPE)
    file = tmp_path / "streaming.json"
    options = ["--size=small", "--seconds=0.01", "--batch-size=2", f"--json={file}"]
    threads = torch.get_num_threads()
    assert streaming.main(options) == 0
    found = json.loads(file.read_text())["measured"]
    names = [row["contender"] for row in found]
    assert names[:3] == ["Streaming", "the module", "nn.LSTM"]
    assert all(0 < row["p50"] <= row["p99"] for row in found)
    out = capsys.readouterr().out
    assert all(f"| {name} |" in out for name in names)
    assert torch.get_num_threads() == threads


def test_a_wrong_stream_is_not_timed(monkeypatch):
    monkeypatch.setattr(fused_lstm.Streaming, "__call__", lambda self, x: torch.zeros_like(x))
    with pytest.raises(WrongAnswer, match="Streaming: y differs from the reference's"):
        streaming.measure(SHAPE, 0.01)


def test_bad_options_are_one_line(capsys):
    assert streaming.main(["--threads=0"]) == 2
    assert capsys.readouterr().err == "bench.streaming: --threads must be at least 1, got 0\n"
