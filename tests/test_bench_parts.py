"""bench.parts: every operator of a step counted once, for what it is; and steps under autocast."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from bench import lesson, parts
from bench.check import WrongAnswer, require_right
from bench.cpu import LEARNERS, OURS, STOCK
from bench.learner import Learner, expected
from fused_lstm import native

WHY_NOT = native.missing(torch.device("cpu"))
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=f"native: {WHY_NOT}")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """The small preset at a size that takes milliseconds, with dropout."""
    torch.set_num_threads(1)
    config = dataclasses.replace(
        lesson.PRESETS["small"], num_steps=3, batch_size=2, hidden_size=16, keep_prob=0.5
    )
    monkeypatch.setitem(lesson.PRESETS, "small", config)
    monkeypatch.setattr(lesson, "VOCABULARY", 40)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [OURS, STOCK])
def test_a_step_is_the_sum_of_its_parts(name, autocast):
    learner = Learner(LEARNERS[name], lesson.make_lesson("small", autocast=autocast))
    found = parts.parts_of(learner, steps=3)
    assert found.keys() == {*parts.PARTS, parts.REST}
    absent = set() if autocast else {"casts"}
    assert all(time > 0 for part, time in found.items() if part not in absent), found


def test_an_operator_within_one_that_has_a_part_is_not_counted_again():
    class Event:
        def __init__(self, name, caller=None):
            self.name, self.cpu_parent = name, caller

    outer = Event("aten::linear")
    between = Event("aten::addmm", outer)
    assert not parts._inside(outer)
    assert parts._inside(Event("aten::to", between))
    assert not parts._inside(Event("aten::to", Event("aten::addmm")))


def test_what_it_prints_and_writes(tmp_path, capsys):
    file = tmp_path / "parts.json"
    assert parts.main(["--size=small", "--steps=1", "--threads=1", f"--json={file}"]) == 0
    shown = capsys.readouterr().out
    assert "small, float32" in shown
    for part in parts.PARTS:
        assert f"\n{part:24}" in shown
    measured = json.loads(file.read_text())["parts_ms"]["small"]
    assert measured.keys() == {OURS, STOCK}
    assert measured[OURS]["softmax layer and loss"] > 0


# --- learners under autocast ---


@pytest.mark.parametrize("name", [OURS, STOCK])
def test_both_learn_under_autocast_and_round(name):
    exact = lesson.make_lesson("small")
    given = dataclasses.replace(exact, autocast=torch.bfloat16)
    answer, right = Learner(LEARNERS[name], given).answer(), expected(given)
    require_right(name, answer, right, torch.bfloat16)
    with pytest.raises(WrongAnswer):  # no bfloat16 has passed for float32
        require_right(name, answer, right)
    require_right("float32", Learner(LEARNERS[name], exact).answer(), right)
