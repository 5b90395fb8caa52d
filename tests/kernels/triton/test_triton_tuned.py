"""Plans that were timed: which are, which is kept, and who is given it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from fused_lstm.tools import tune
from fused_lstm.triton import choice, launch, measure, tuned
from fused_lstm.triton.choice import choose
from fused_lstm.triton.devices import DEVICES, INTERPRETER
from fused_lstm.triton.plan import plan

H100 = DEVICES["H100"]
SHAPE = {"hidden": 200, "batch": 20, "dtype": "bf16"}


class Bench:
    """A compiler and a clock: each plan spills what is said, and takes what is said."""

    def __init__(self, spills: list[int], us: list[float], seconds: float = 1.0) -> None:
        self.plans = tune.candidates("backward", H100, **SHAPE)[: len(us)]
        self.of = {id(p): (spills[n], us[n]) for n, p in enumerate(self.plans)}
        self.now, self.seconds, self.timed = 0.0, seconds, []

    def microseconds(self, plan) -> float:
        self.now += self.seconds
        self.timed.append(plan)
        return self.of[id(plan)][1]

    def fastest(self, cap: float):
        return tune.fastest(
            self.plans, lambda p: self.of[id(p)][0], self.microseconds, cap, lambda: self.now
        )


def test_a_b200_is_tuned_with_sums_in_parts_too():
    """Nobody has timed them there: by default its products have their own memory."""
    shape = {"hidden": 650, "batch": 20, "dtype": "bf16"}
    for direction in ("forward", "backward"):
        found = tune.candidates(direction, DEVICES["B200"], **shape)
        assert {one.k_parts for one in found} == {1, 8}
        assert plan("steps", direction, layers=1, device=DEVICES["B200"], **shape).k_parts == 1


def test_candidates_are_ranked_by_the_arithmetic():
    found = tune.candidates("backward", H100, **SHAPE)
    assert len(found) >= 4
    costs = [choice.estimate(plan, H100) for plan in found]
    assert costs == sorted(costs)
    assert {(p.k_parts, p.split) for p in found} >= {(1, 4), (8, 1), (8, 4)}
    alone = tune.candidates("forward", H100, hidden=64, batch=20, dtype="bf16")
    assert any(p.alone for p in alone)


@pytest.mark.parametrize(
    ("dtype", "gates", "pairs"), [("bf16", 4, 3), ("bf16", 3, 0), ("fp32", 3, 1)]
)
def test_candidates_exchange_h_at_the_barrier_and_by_its_phase(dtype, gates, pairs):
    shape = SHAPE | {"dtype": dtype, "gates": gates}
    found = tune.candidates("forward", H100, **shape)
    asked = [plan for plan in found if plan.phase]
    assert len(asked) == pairs
    assert all(found[found.index(plan) - 1] == replace(plan, phase=False) for plan in asked)
    assert not any(plan.phase for plan in tune.candidates("backward", H100, **shape))


def test_the_fastest_that_does_not_spill():
    bench = Bench([0, 3, 0], [2.0, 1.0, 1.5])
    best, us = bench.fastest(60)
    assert (best, us) == (bench.plans[2], 1.5)
    assert bench.timed == [bench.plans[0], bench.plans[2]]


def test_no_plan_is_begun_after_the_cap():
    bench = Bench([0, 0, 0], [2.0, 1.0, 0.5], seconds=10)
    best, _ = bench.fastest(15)
    assert (len(bench.timed), best) == (2, bench.plans[1])
    assert len(Bench([0], [1.0], seconds=10).fastest(0)) == 2, "one is timed whatever the cap"


def test_where_all_spill_none_is_timed():
    assert Bench([1, 2], [1.0, 1.0]).fastest(60) is None


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_what_is_timed_is_the_plan_in_its_direction(direction, monkeypatch):
    monkeypatch.setattr(tune, "STEPS", 2)
    ran, original = [], launch.Launch.__call__

    def call(self, *arguments):
        ran.append(self.plan)
        return original(self, *arguments)

    monkeypatch.setattr(launch.Launch, "__call__", call)
    shape = {"hidden": 16, "batch": 2, "layers": 1, "dtype": "fp32", "device": INTERPRETER}
    found = replace(plan("steps", direction, **shape), why=("timed",))
    with tune.launched(found, "cpu") as once:
        ran.clear()
        once()
    assert ran
    assert all(one is found for one in ran)


def test_l2_s_rate_is_of_all_bytes_that_all_programs_read(monkeypatch):
    """In a GPU's place: launches are noted, and each takes a millisecond."""
    read = []
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda n, dtype, device: zeros(n, dtype=dtype))
    monkeypatch.setattr(measure, "meet", lambda *_: None)
    monkeypatch.setattr(measure, "read", lambda x, out, times: read.append((x, out, times)))
    monkeypatch.setattr(measure, "_milliseconds", lambda work: work() or 1.0)
    rate = measure.measured(H100)["l2_rate"]
    x, out, times = read[-1]
    assert rate == pytest.approx(len(out) * times * x.nbytes / 1e6)


def test_lanes_alone_that_do_not_run_at_once_take_turns():
    found = choose("forward", hidden=64, batch=20, layers=1, dtype="bf16", device=H100)
    assert found.alone
    few = replace(H100, sms=1)
    assert choice.estimate(found, few) > 1.5 * choice.estimate(found, H100)


@pytest.fixture
def file(monkeypatch, tmp_path):
    """A file with another plan than the chosen one; and no deterministic algorithms."""
    path = tmp_path / "plans.json"
    monkeypatch.setenv(tuned.VARIABLE, str(path))
    torch.use_deterministic_algorithms(False)  # the fixture of all tests sets it
    chosen = choose("backward", layers=1, device=H100, **SHAPE)
    (other, *_) = (p for p in tune.candidates("backward", H100, **SHAPE) if p.split != chosen.split)
    tuned.keep(path, other, H100, 1.25)
    yield path, chosen, other
    tuned.table.cache_clear()


def test_a_shape_gets_the_plan_that_was_kept(file):
    _, chosen, other = file
    found = tuned.of(chosen, H100)
    assert found.why == ("timed: 1.25 us a step",)
    assert [getattr(found, f) for f in tuned.FIELDS] == [getattr(other, f) for f in tuned.FIELDS]
    of_forward = choose("forward", layers=1, device=H100, **SHAPE)
    assert tuned.of(of_forward, H100) is of_forward


def test_another_batch_has_a_plan_of_its_own(file):
    _, chosen, _ = file
    more = replace(chosen, batch=chosen.batch + 1)
    assert tuned.of(more, H100) is more


def test_another_card_triton_or_source_does_not(file):
    path, chosen, _ = file
    assert tuned.of(chosen, DEVICES["A100"]) is chosen
    rows = json.loads(path.read_text())
    path.write_text(json.dumps({"H100, Triton 3.6.0, source 0": rows[tuned.place("H100")]}))
    tuned.table.cache_clear()
    assert tuned.of(chosen, H100) is chosen


def test_not_under_deterministic_algorithms_nor_without_a_file(file, monkeypatch):
    _, chosen, _ = file
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert tuned.of(chosen, H100) is chosen
    torch.use_deterministic_algorithms(False)
    monkeypatch.delenv(tuned.VARIABLE)
    assert tuned.of(chosen, H100) is chosen


def test_deterministic_algorithms_count_after_a_first_call(file, monkeypatch):
    """The operator's prepared call has the timed plan, then the plan by arithmetic, then again."""
    from fused_lstm.triton import op

    _, chosen, other = file
    monkeypatch.setattr(op.devices, "current", lambda _: H100)
    op.plan_call.cache_clear()
    op.planned_for.cache_clear()
    x, h0 = torch.zeros(2, 20, 200, dtype=torch.bfloat16), torch.zeros(1, 20, 200)
    weights = [torch.zeros(800, 200, dtype=torch.bfloat16)] * 2
    found = []
    for deterministic in (False, True, False):
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        call = "backward", True, x, h0, h0, weights, 0.0, None, "steps", 1, None, None, "", ()
        found.append(op.parsed(*call).planned.launches.plan.split)
    op.plan_call.cache_clear()
    op.planned_for.cache_clear()
    assert found == [other.split, chosen.split, other.split]


def test_a_card_is_planned_for_with_what_was_measured_on_it(file):
    """A barrier that takes a tenth of the time: a second meeting is worth it."""
    path, _, _ = file
    assert tuned.measured(H100) == H100
    tuned.keep_constants(path, H100, {"barrier_us": 0.1, "l2_rate": 5000.0, "barrier_us_8": 0.1})
    quick = tuned.measured(H100)
    assert quick == replace(H100, barrier_us=0.1, l2_rate=5000.0)
    assert tuned.measured(DEVICES["A100"]) == DEVICES["A100"]
    shape = {"hidden": 512, "batch": 20, "dtype": "bf16", "layers": 1}
    meetings = [
        choice.cost(choose("backward", device=d, **shape), d).barriers for d in (H100, quick)
    ]
    assert meetings == [1, 2]
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert tuned.measured(H100) == H100


def test_without_a_gpu_it_says_so(capsys, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert tune.main([str(tmp_path / "plans.json")]) == 2
    assert "no GPU to time on" in capsys.readouterr().err
