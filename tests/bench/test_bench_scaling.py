"""The topic `scaling`: which sizes and threads it takes, and that a row has its own."""

from __future__ import annotations

import pytest
import torch

from bench.topics import scaling
from topic import TINY, needs_native, run


@needs_native
def test_a_sweep(tiny, tmp_path):
    measured = run("scaling", tmp_path, "--threads=2")["measured"]
    found = [(m["axis"], m.get("size", m.get("value")), m["threads"]) for m in measured]
    expected = [("threads", "small", 1), ("threads", "small", 2), ("T", 1, 2), ("T", 5, 2)]
    assert found == [*expected, ("H", 4, 2)]
    assert [m["shape"] for m in measured[2:]] == ["l2t1b2h7", "l2t5b2h7", "l2t3b2h4"]


@pytest.mark.parametrize(
    ("threads", "counts"), [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (6, [1, 2, 4, 6])]
)
def test_thread_counts(threads, counts):
    assert scaling.counts_up_to(threads) == counts


@needs_native
def test_each_row_has_its_own_threads(tiny, monkeypatch):
    step, seen = scaling.Local.step, []

    def watched(self):
        seen.append((self.contender.engine, torch.get_num_threads()))
        return step(self)

    monkeypatch.setattr(scaling.Local, "step", watched)
    rows = scaling.measure(TINY, [1, 2], 0)
    assert [r["threads"] for r in rows] == [1, 2]
    counts = {case: seen.count(case) for case in set(seen)}
    assert counts.keys() == {(engine, n) for engine in ("cudnn", "native") for n in (1, 2)}
    assert len(set(counts.values())) == 1, counts
