"""How the suite takes its times: statistics, turns, refusal."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import pytest
import torch

from bench import suite
from bench.alone import MODES, Local, Shape, choose_sizes, make_problem
from bench.alone import expected as expected_of
from bench.contenders import (
    BASE,
    LOOP,
    Contender,
    choose,
    engines,
    everyone,
    in_default_run,
    trainers,
    why_not,
)
from bench.measure.check import TOLERANCE, WrongAnswer, relative_error, require_right
from bench.measure.timing import Lost, Quartiles, interleave, quartiles, speedup, timed
from bench.race import line_up
from entrant import enter
from fused_lstm import ENGINES, cudnn

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
SHAPE = Shape(3, 2, 5, 7, 2)


def by_label(*labels: str) -> list[Contender]:
    return [c for label in labels for c in everyone() if c.label == label]


# --- statistics and turns ---


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ([3.0], (3, 3, 3)),
        ([1.0, 3.0], (1.5, 2, 2.5)),
        ([5.0, 1.0, 3.0, 2.0, 4.0], (2, 3, 4)),
    ],
    ids=["one", "two", "unsorted"],
)
def test_quartiles(sample, expected):
    assert quartiles(sample) == Quartiles(*expected)


def test_quartiles_of_nothing():
    with pytest.raises(ValueError, match="sample: is empty"):
        quartiles([])


def test_speedup_is_taken_within_rounds():
    # The machine is ten times slower in the last two of five rounds: no ratio changes.
    slow = [1, 1, 1, 10, 10]
    assert speedup([2 * s for s in slow], slow) == 2
    assert statistics.median([2 * s for s in slow[:3]]) / statistics.median(slow[2:]) != 2


def test_speedup_refuses_rounds_that_do_not_belong_together():
    with pytest.raises(ValueError, match="got 2 and 1 rounds"):
        speedup([1, 2], [1])


def test_interleave_takes_turns():
    calls = []

    def case(name):
        return lambda: calls.append(name) or 1.0

    found = interleave({n: case(n) for n in "abc"}, seconds=0, least=4, most=9, warmup=2)
    assert {name: len(sample) for name, sample in found.items()} == {"a": 4, "b": 4, "c": 4}
    rounds = [calls[n : n + 3] for n in range(0, len(calls), 3)]
    assert len(rounds) == 6
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len({tuple(r) for r in rounds}) > 1, "the order is never drawn anew"


def test_interleave_ends_at_most_rounds():
    assert interleave({"a": lambda: 1.0}, seconds=60, least=2, most=5) == {"a": [1.0] * 5}


def test_interleave_goes_on_without_a_case_that_is_lost():
    calls, lost = [], []

    def dying():
        calls.append("b")
        if len(calls) == 2:
            raise Lost("out of memory")
        return 1.0

    cases = {"a": lambda: 1.0, "b": dying}
    with pytest.raises(Lost):
        interleave(cases, seconds=0, least=3, most=3)
    calls.clear()
    found = interleave(
        cases, seconds=0, least=3, most=3, lost=lambda name, error: lost.append((name, str(error)))
    )
    assert found == {"a": [1.0] * 3}, "its rounds are not begun anew"
    assert lost == [("b", "out of memory")]


def test_timed_leaves_the_setup_out():
    import time

    once = timed(lambda: time.sleep(0.001), CPU, setup=lambda: time.sleep(0.05))
    assert 0.001 <= min(once() for _ in range(5)) < 0.05  # a busy core may keep one waiting


def test_the_clock_waits_for_an_accelerator_without_events(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: seen.append("wait"))
    timed(lambda: seen.append("work"), torch.device("mps"), lambda: seen.append("setup"))()
    assert seen == ["setup", "wait", "work", "wait"]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_can_be_timed(mode):
    assert Local(*by_label(LOOP), make_problem(SHAPE)).timed(mode)() > 0


def test_replay_hands_over_every_round(monkeypatch):
    class Fixture:
        def pedantic(self, target, rounds, iterations):
            self.rounds = []
            for _ in range(rounds):
                begin = suite.replay_clock()
                target()
                self.rounds.append(suite.replay_clock() - begin)

    fixture = Fixture()
    suite.replay(fixture, [0.25, 0.5, 0.125])
    assert fixture.rounds == [0.25, 0.5, 0.125]


# --- who races ---


def test_every_engine_and_level_is_a_contender():
    labels = {c.label for c in engines()}
    for name, engine in ENGINES.items():
        assert {f"{name}-{fuse}" for fuse in engine.fuses} <= labels or name in labels
    assert {BASE, LOOP} <= labels


def test_the_interpreter_is_never_timed():
    triton = [c for c in engines() if c.engine == "triton"]
    assert triton
    assert all("does not race" in why_not(c, CPU) for c in triton)


def test_choose_takes_engines_and_labels():
    known = engines()
    assert {c.engine for c in choose(["native"], known)} == {"native"}
    assert [c.label for c in choose(["loop-none", "cudnn"], known)] == ["loop-none", "cudnn"]
    with pytest.raises(ValueError, match="engines: got 'cudn', should be of loop"):
        choose(["cudn"], known)


def test_choose_sizes():
    assert choose_sizes("large, small") == ["small", "large"]
    with pytest.raises(ValueError, match="sizes: got 'huge', should be of small, medium, large"):
        choose_sizes("huge")


def test_what_compiles_for_minutes_is_not_in_a_default_run():
    (compiled,) = by_label("compile")
    assert in_default_run(compiled, "small")
    assert not in_default_run(compiled, "large")


@pytest.mark.parametrize("contender", {c.proof: c for c in [*everyone(), *trainers()]}.values())
def test_a_contenders_proof_is_a_test(contender):
    file, _, name = contender.proof.partition("::")
    assert f"\ndef {name}(" in (ROOT / file).read_text()


# --- work ---


def test_flops_are_those_of_the_products():
    # One layer: a step of one word is two products, [4H, I] and [4H, H], 2 operations an element.
    assert Shape(1, 1, 3, 5, 1).flops("forward") == 2 * (20 * 3 + 20 * 5)
    assert Shape(7, 2, 3, 5, 1).flops("inference") == 14 * Shape(1, 1, 3, 5, 1).flops("forward")
    # The second layer reads the first.
    assert Shape(1, 1, 3, 5, 2).flops("forward") == 2 * (20 * 3 + 3 * 20 * 5)
    assert SHAPE.flops("step") == SHAPE.flops("forward") + SHAPE.flops("backward")
    # Two directions: twice one's, and the second layer reads both.
    assert Shape(1, 1, 3, 5, 2).flops("forward", None, 2) == 4 * (20 * 3 + 20 * 10 + 2 * 20 * 5)


def test_a_problem_is_the_same_every_time():
    first, second = make_problem(SHAPE), make_problem(SHAPE)
    assert torch.equal(first.x, second.x)
    assert all(map(torch.equal, first.reference.parameters(), second.reference.parameters()))


# --- no answer, no time ---


@pytest.mark.parametrize(
    "spoil",
    [
        lambda y: y + 2 * TOLERANCE[torch.float32] * y.abs().max(),
        lambda y: y.where(y != y.flatten()[0], math.nan),
        lambda y: y[:-1],
    ],
    ids=["off", "nan", "shape"],
)
def test_a_wrong_answer_is_refused(spoil):
    expected = expected_of(make_problem(SHAPE))
    assert require_right("same", expected, expected) == 0
    with pytest.raises(WrongAnswer, match=r"wrong: y differs from the ref.* by .*; not timed"):
        require_right("wrong", expected | {"y": spoil(expected["y"])}, expected)


def test_a_missing_answer_is_refused():
    expected = expected_of(make_problem(SHAPE))
    fewer = {name: t for name, t in expected.items() if name != "x.grad"}
    with pytest.raises(WrongAnswer, match=r"gave no x\.grad"):
        require_right("lazy", fewer, expected)


def test_relative_error():
    assert relative_error(torch.tensor([1.0, 4.5]), torch.tensor([1.0, 4.0])) == 0.125


@pytest.fixture
def wrong_engine(monkeypatch):
    """An engine whose weight gradients are half of what they should be."""

    def lstm(spec, x, h0, c0, weights, *others):
        halved = [w / 2 + w.detach() / 2 for w in weights]
        return cudnn.run(spec, x, h0, c0, halved, *others)

    enter(monkeypatch, "wrong", lstm)
    return Contender("wrong", "wrong", None)


def test_a_race_times_only_who_is_right(wrong_engine):
    race = line_up(make_problem(SHAPE), [*by_label(BASE, LOOP), wrong_engine])
    assert list(race.runners) == [BASE, LOOP]
    assert isinstance(race.failed["wrong"], WrongAnswer)
    assert "weight_ih_l0.grad" in str(race.failed["wrong"])
    found = race.time("step", 0, least=2, most=2)
    assert {label: len(sample) for label, sample in found.items()} == {BASE: 2, LOOP: 2}


def test_who_remembers_its_answer_has_no_time(monkeypatch):
    """An engine that is right on the input that was checked, and computes nothing afterwards."""
    seen = {}

    def lstm(spec, x, *others):
        y, h, c = cudnn.run(spec, x, *others)
        first = seen.setdefault("y", y.detach())
        return y * 0 + first, h, c

    enter(monkeypatch, "lazy", lstm)
    race = line_up(make_problem(SHAPE), [*by_label(BASE), Contender("lazy", "lazy")])
    assert list(race.runners) == [BASE]  # its gradients are wrong from the start
    race = line_up(make_problem(SHAPE), [*by_label(BASE), Contender("cudnn-2", "cudnn")])
    answer = race.runners["cudnn-2"].answer()
    monkeypatch.setattr(race.runners["cudnn-2"], "answer", lambda: answer)
    assert list(race.time("step", 0, least=1, most=1)) == [BASE]
    assert "cudnn-2, on a fresh input: inference differs" in str(race.failed["cudnn-2"])


def test_training_times_only_who_is_right(wrong_engine, monkeypatch):
    import dataclasses

    from bench import training

    torch.set_num_threads(1)
    tiny = dataclasses.replace(training.PRESETS["small"], hidden_size=8, num_steps=3, batch_size=2)
    monkeypatch.setitem(training.PRESETS, "small", tiny)
    monkeypatch.setattr(training, "VOCABULARY", 11)
    run = suite.Session(CPU, torch.float32, 0)
    found = run.training("small", [wrong_engine, *by_label(LOOP, BASE)])
    assert isinstance(found.failed["wrong"], WrongAnswer)
    assert set(found.errors) == {BASE, LOOP}
    assert {k: len(v) for k, v in found.samples.items()} == {BASE: 5, LOOP: 5}
    for label, facts in found.facts.items():
        assert facts["seconds_without_lstm"] > 0, label
        assert len(facts["losses"]) == training.CHECKED
