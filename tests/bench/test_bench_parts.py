"""The topic `parts`: a training step is the sum of what it reports."""

from __future__ import annotations

import time

import pytest
import torch

from bench.contenders import BASE
from bench.rows import OURS
from bench.topics import parts
from bench.topics.native import LEARNERS
from bench.training import Learner, make_lesson
from topic import needs_native, run


@needs_native
@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [OURS, BASE])
def test_a_step_is_the_sum_of_its_parts(tiny, name, autocast):
    learner, whole = Learner(LEARNERS[name], make_lesson("small", autocast=autocast)), []
    step = learner.step

    def timed() -> torch.Tensor:
        began = time.perf_counter()
        loss = step()
        whole.append(1000 * (time.perf_counter() - began))
        return loss

    learner.step = timed
    found = parts.parts_of(learner, steps=1)
    assert found.keys() == {*parts.PARTS, parts.REST}
    absent = set() if autocast else {"casts"}
    assert all(spent > 0 for part, spent in found.items() if part not in absent), found
    # The profiler's clock is another one, and a step begins and ends within what it calls a step.
    assert whole[-1] <= sum(found.values()) <= 1.2 * whole[-1] + 1


def test_an_operator_within_one_that_has_a_part_is_not_counted_again():
    class Event:
        def __init__(self, name, caller=None):
            self.name, self.cpu_parent = name, caller

    outer = Event("aten::linear")
    between = Event("aten::addmm", outer)
    assert not parts._inside(outer)
    assert parts._inside(Event("aten::to", between))
    assert not parts._inside(Event("aten::to", Event("aten::addmm")))


@needs_native
def test_parts_are_printed_and_written(tiny, tmp_path, capsys):
    measured = run("parts", tmp_path, "--steps=1")["parts_ms"]["small"]
    shown = capsys.readouterr().out
    assert "small, float32" in shown
    assert all(f"\n{part:24}" in shown for part in parts.PARTS)
    assert measured.keys() == {OURS, BASE}
    assert measured[OURS]["softmax layer and loss"] > 0
