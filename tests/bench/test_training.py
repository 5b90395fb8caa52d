"""The training step: the lesson, who learns it, who is refused, the LSTM's time inside it."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch
from torch import nn

from bench import training
from bench.contenders import Contender, trainers, why_not
from bench.core import WrongAnswer, require_right
from bench.training import Inside, Program, learner, make_lesson

CPU = torch.device("cpu")
STOCK = Contender("stock-cudnn", "cudnn", stock=True)


def test_a_lesson_is_the_same_every_time(tiny):
    first, second = make_lesson("small"), make_lesson("small")
    assert torch.equal(first.inputs, second.inputs)
    assert all(map(torch.equal, first.weights.values(), second.weights.values()))
    assert torch.equal(first.targets[:, :-1], first.inputs[:, 1:])
    assert first.named()["scale"] == 3  # the loss is summed over time


@pytest.mark.parametrize("contender", [c for c in trainers() if not c.peer], ids=lambda c: c.label)
def test_every_engine_learns_as_the_reference_does(contender, tiny):
    if why := why_not(contender, CPU):
        pytest.skip(f"{contender.label}: {why}")
    lesson = make_lesson("small")
    answer = learner(contender, lesson).answer()
    assert require_right(contender.label, answer, lesson.expected()) < 1e-4


def test_at_its_real_size_too_small_has_a_gradient_that_is_clipped():
    """In the last step that is checked: a clip that is left out would else pass."""
    lesson = make_lesson("small")
    lazy = dataclasses.replace(
        lesson, settings=dataclasses.replace(lesson.settings, max_grad_norm=1e9)
    )
    right = lesson.expected()
    require_right("right", learner(STOCK, lesson).answer(), right)
    with pytest.raises(WrongAnswer, match=r"update of .* differs"):
        require_right("lazy", learner(STOCK, lazy).answer(), right)


@pytest.mark.parametrize(
    "change", [{"max_grad_norm": 1e9}, {"learning_rate": 2.0}], ids=["clip", "rate"]
)
def test_another_training_step_is_refused(change, tiny):
    lesson = make_lesson("small")
    other = dataclasses.replace(lesson, settings=dataclasses.replace(lesson.settings, **change))
    with pytest.raises(WrongAnswer, match=r"^spoilt: (losses differ|update of .* differs) from"):
        require_right("spoilt", learner(STOCK, other).answer(), lesson.expected())


def test_a_weight_that_does_not_learn_is_refused(tiny, monkeypatch):
    lesson = make_lesson("small")
    right = lesson.expected()

    def frozen(contender, lesson):
        made = Program(lesson, nn.LSTM(7, 7, 2, dropout=0.5))
        made.sm_fc.bias.requires_grad_(False)
        return made

    monkeypatch.setattr(training, "Program", lambda lesson, lstm: frozen(STOCK, lesson))
    with pytest.raises(WrongAnswer, match="differ"):
        require_right("spoilt", learner(STOCK, lesson).answer(), right)


class Slow(nn.Module):
    """Takes 20 ms forward and 50 ms backward."""

    def forward(self, x, hidden):
        time.sleep(0.02)
        return Sleep.apply(x), hidden


class Sleep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, grad):
        time.sleep(0.05)
        return grad


def test_a_modules_time_inside_a_step_is_its_forward_and_its_backward():
    slow, before = Slow(), nn.Linear(3, 3)
    inside = Inside(slow, CPU)
    for _ in range(2):
        y, _ = slow(before(torch.ones(1, 3)), None)
        time.sleep(0.1)  # somebody else's
        y.sum().backward()
    assert len(inside.seconds()) == 2
    assert all(0.07 <= seconds < 0.16 for seconds in inside.seconds())
    with torch.no_grad():  # has no backward: it is no step
        slow(before(torch.ones(1, 3)).requires_grad_(), None)
    assert len(inside.seconds()) == 2
