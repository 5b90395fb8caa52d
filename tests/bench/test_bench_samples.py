"""The topic `samples`: gradients of each sample, a run and who is refused."""

from __future__ import annotations

import importlib.util

import pytest

from bench.measure.check import WrongAnswer
from bench.topics import samples
from topic import TINY, needs_native, no_timing, run


@needs_native
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # of DPLSTM's own layers
def test_gradients_of_samples(tiny, tmp_path, capsys):
    (found,) = run("samples", tmp_path, "--batch-size=3")["measured"]
    names = [samples.ORDINARY, samples.FUNC]
    if importlib.util.find_spec("opacus") is not None:
        names += [samples.OURS, samples.THEIRS]
    assert found["shape"] == "l2t3b3h7"
    assert set(found["samples"]) == set(names)
    assert all(min(sample) > 0 for sample in found["samples"].values())
    printed = capsys.readouterr().out
    assert all(f"\n{name}" in printed for name in names)


@needs_native
def test_gradients_that_are_wrong_are_not_timed(tiny, monkeypatch):
    monkeypatch.setattr(samples, "interleave", no_timing)
    right = samples.Func.answer
    monkeypatch.setattr(
        samples.Func, "answer", lambda self: {n: g * 1.01 for n, g in right(self).items()}
    )
    with pytest.raises(WrongAnswer, match=r"torch\.func: weight_ih_l0 differs"):
        samples.measure(TINY, 0.01)
