"""The topic `streaming`: who is refused, and a run."""

from __future__ import annotations

import pytest
import torch

import fused_lstm
from bench.measure.check import WrongAnswer
from bench.topics import streaming
from topic import TINY, needs_native, run


@needs_native
def test_a_wrong_stream_is_not_timed(monkeypatch):
    monkeypatch.setattr(fused_lstm.Streaming, "__call__", lambda self, x: torch.zeros_like(x))
    with pytest.raises(WrongAnswer, match="Streaming: y differs from the reference's"):
        streaming.measure(TINY, 0.01)


@needs_native
def test_streams(tiny, tmp_path, capsys):
    rows = run("streaming", tmp_path, "--batch-size=2")["measured"]
    names = [row["contender"] for row in rows]
    assert names[:3] == ["Streaming", "the module", "nn.LSTM"]
    assert all(0 < row["p50"] <= row["p99"] for row in rows)
    out = capsys.readouterr().out
    assert all(f" {name} " in out for name in names)
