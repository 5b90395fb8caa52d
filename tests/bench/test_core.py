"""How anything is measured: turns, ratios and their intervals, checks, records."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import math
import os
import subprocess
import sys
import time

import pytest
import torch

from bench import core, machine, suites
from bench.cases import CASES, Shape, choose
from bench.contenders import engines
from bench.core import Call, Group, Pace, Record, Work, WrongAnswer
from bench.layers import Problem, local, make_problem
from tolerance import assert_close

CPU = torch.device("cpu")
TINY = Shape(3, 2, 5, 7, 2)
QUICK = Pace(seconds=0, least=2, most=2, warmup=0)
ABOUT = {"suite": "s", "case": "c", "dtype": "float32"}


def fake(answer: float = 1.0, turns: tuple = ([1.0], [2.0], [3.0]), *modes: str) -> Call:
    """A call whose answer and times are given, a list of seconds a turn."""
    times = iter(turns)
    return Call(
        dict.fromkeys(modes or ("step",), lambda *_: next(times)),
        lambda: {"y": torch.tensor([answer])}, facts=lambda mode, rounds: {"words": 3}, turns=True,
    )  # fmt: skip


def group_of(**calls: Call) -> Group:
    """Calls, by name, in a case whose right answer is 1."""
    make = {name: (lambda call=call: call) for name, call in calls.items()}
    return Group(Work(make, lambda: {"y": torch.ones(1)}))


# --- turns ---


def noted(name: str, order: list[str]) -> Call:
    """A call that notes each of its turns."""
    call = fake()
    call.modes = {"step": lambda *_: (order.append(name), [0.1])[1]}
    return call


def test_every_round_times_everybody_and_the_order_changes():
    order: list[str] = []
    group = group_of(**{name: noted(name, order) for name in "abc"})
    turns = group.time(["step"], Pace(seconds=0, least=4, most=4, warmup=1))
    assert [len(of) for of in turns.values()] == [4, 4, 4]
    rounds = ["".join(order[i : i + 3]) for i in range(0, 15, 3)]
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len(set(rounds)) > 1


def test_warm_up_rounds_do_not_count():
    pace = Pace(0, least=2, most=2, warmup=1)
    turns = group_of(a=fake(turns=([9.0], [1.0], [2.0]))).time(["step"], pace)
    assert turns["a", "step"] == [[1.0], [2.0]]


def test_the_first_call_of_several_does_not_count(monkeypatch):
    """It meets a cache that another contender has left."""
    monkeypatch.setattr(core, "REST", 0.0)
    group = group_of(a=fake(turns=([9.0, 2.0, 4.0], [9.0, 2.0, 4.0])))
    (record,) = core.measure(group, ["step"], Pace(0, least=2, most=2, warmup=0, calls=3), **ABOUT)
    assert record.seconds == (3.0, 3.0)
    assert record.extra["calls"] == 4
    assert record.extra["p50"] == record.extra["worst"] == 4.0


def test_slow_work_stops_after_three_rounds(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(core.time, "perf_counter", lambda: now[0])

    def turn(*_):
        now[0] += 15
        return [15.0]

    slow = fake()
    slow.modes = {"step": turn}
    pace = Pace(seconds=1, least=7, most=50, longest=20, warmup=1)
    turns = group_of(a=slow).time(["step"], pace)
    assert len(turns["a", "step"]) == 3


def test_who_fails_is_left_out_and_the_others_go_on():
    """In all modes, with the error that came first."""
    closed: list[str] = []
    failing = fake(1.0, ([1.0], [1.0], [1.0]), "step", "inference")  # and no more
    failing.close = lambda: closed.append("b")
    group = group_of(a=fake(turns=[[1.0]] * 9), b=failing)
    turns = group.time(["step", "inference"], Pace(0, least=5, most=5, warmup=0))
    assert turns == {("a", "step"): [[1.0]] * 5}
    assert type(group.failed["b"]) is StopIteration
    assert closed == ["b"]


def test_timed_runs_the_setup_first_and_collects_no_garbage():
    order: list[str] = []
    once = core.timed(
        lambda: order.append(f"work {gc.isenabled()}"), CPU, lambda: order.append("setup")
    )
    assert len(once(1, 0.0, 0.0)) == 1
    assert order == ["setup", "work False"]
    assert gc.isenabled()


def test_a_pause_is_before_each_call_and_not_in_its_time():
    began = time.perf_counter()
    taken = core.timed(lambda: None, CPU)(3, 0.0, 0.02)
    assert time.perf_counter() - began > 0.06
    assert max(taken) < 0.02


def test_a_call_runs_under_its_context_outside_of_the_clock():
    inside: list[bool] = []

    @contextlib.contextmanager
    def under():
        inside.append(True)
        yield
        inside.append(False)

    call = core.differentiable(lambda: (x * 2, x), {"x": x}, torch.ones(1), under=under)
    group = Group(Work({"a": lambda: call}, lambda: {"x.grad": torch.tensor([2.0])}))
    assert group.errors == {"a": 0.0}
    group.time(["step"], QUICK)
    assert inside == [True, False] * 3


x = torch.ones(1, requires_grad=True)


def test_a_differentiable_call_has_every_mode_and_every_answer():
    weight = torch.tensor([3.0], requires_grad=True)
    call = core.differentiable(lambda: (x * weight, (x, x + 1)), {"x": x, "w": weight}, x.detach())
    assert list(call.modes) == ["inference", "forward", "backward", "step"]
    answer = {name: t.item() for name, t in call.answer().items()}
    assert answer == {"inference": 3, "y": 3, "h_n": 1, "c_n": 2, "x.grad": 3, "w.grad": 1}
    assert len(call.turn("backward")(2, 0.0, 0.0)) == 2  # a forward comes before each


# --- ratios ---


def test_factors_along_a_chain_multiply_to_the_whole():
    a, b, c = [4.0, 5, 6, 9, 4], [2.0, 3, 2, 2, 7], [1.0, 1, 2, 1, 3]
    assert core.ratio(a, b).value * core.ratio(b, c).value == pytest.approx(core.ratio(a, c).value)


def test_an_interval_covers_a_true_ratio_at_about_its_rate():
    torch.manual_seed(0)
    covered = 0
    for _ in range(100):
        noise = torch.randn(2, 15).mul(0.1).exp()
        base, other = (noise * torch.tensor([[2.0], [1.0]])).tolist()
        found = core.ratio(base, other, draws=500)
        covered += found.low <= 2 <= found.high
    assert 85 <= covered <= 100


def test_noise_is_no_factor():
    noisy = core.ratio([1.0, 2.0, 0.5, 3.0, 1.0], [1.1, 0.4, 2.0, 1.0, 1.5])
    assert not noisy.clear
    assert str(noisy) == "no difference seen"
    assert str(core.ratio([2.0, 2.1, 2.0], [1.0, 1.0, 1.1])) == "2.00x"
    assert str(core.ratio([1.0, 1.01, 0.99], [1.0, 1.0, 1.0])) == "1.00x"  # narrow enough


def test_few_rounds_have_a_range_and_no_interval():
    """A bootstrap over three to five rounds covers 75 to 94% at most."""
    few = core.ratio([2.0, 2.2, 2.4], [1.0, 1.0, 1.0])
    assert few.text == "2.20x (range of 3 rounds: 2.00 to 2.40)"
    assert core.ratio([2.0] * 10, [1.0] * 10).text == "2.00x (95% of 10 rounds: 2.00 to 2.00)"


def test_few_calls_have_a_worst_and_no_99th_percentile():
    calls = [float(n) for n in range(1, core.ENOUGH + 1)]
    assert core.tail(calls) == {"calls": 1000, "p50": 501.0, "p99": 991.0, "worst": 1000.0}
    assert core.tail(calls[:57]) == {"calls": 57, "p50": 29.0, "worst": 57.0}


def test_rounds_that_do_not_pair_have_no_ratio():
    with pytest.raises(ValueError, match="got 2 and 1 rounds; expected as many"):
        core.ratio([1.0, 2.0], [1.0])
    one = Record("s", "c", "a", "step", (1.0,), group="x")
    with pytest.raises(ValueError, match="other: got group 'y'; expected 'x'"):
        core.speedup(one, Record("s", "c", "b", "step", (1.0,), group="y"))


def test_quartiles():
    assert core.quartiles([3.0, 1.0, 2.0]) == (1.5, 2.0, 2.5)
    assert core.quartiles([3.0]) == (3.0, 3.0, 3.0)
    with pytest.raises(ValueError, match="sample: got no value"):
        core.quartiles([])


# --- answers ---


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({}, "a: gave no y; not timed"),
        ({"y": torch.tensor([1.01])}, "a: y differs from the reference's by 0.01 of its largest"),
        ({"y": torch.tensor([math.nan])}, "by nan of its largest"),
        ({"y": torch.ones(2)}, "by inf of its largest"),
    ],
    ids=["missing", "wrong", "nan", "shape"],
)
def test_a_wrong_answer_is_refused(answer, says):
    with pytest.raises(WrongAnswer, match=says):
        core.require_right("a", answer, {"y": torch.ones(1)})


def test_an_answer_of_rounded_factors_is_allowed_their_error():
    answer, expected = {"y": torch.tensor([1.05])}, {"y": torch.ones(1)}
    assert core.require_right("a", answer, expected, torch.bfloat16) == pytest.approx(0.05)


def test_a_group_goes_on_without_who_is_wrong_or_cannot_be_built():
    good, wrong, closed = fake(), fake(2.0), []
    good.close, wrong.close = lambda: closed.append("good"), lambda: closed.append("wrong")

    def broken():
        raise RuntimeError("no such engine")

    make = {"good": lambda: good, "wrong": lambda: wrong, "broken": broken}
    group = Group(Work(make, lambda: {"y": torch.ones(1)}))
    assert group.errors == {"good": 0.0}
    assert {name: type(error) for name, error in group.failed.items()} == {
        "wrong": WrongAnswer,
        "broken": RuntimeError,
    }
    assert closed == ["wrong"]
    assert group.time(["step", "inference"], QUICK) == {("good", "step"): [[1.0], [2.0]]}
    group.close()
    assert closed == ["wrong", "good"]


def test_records_of_a_group():
    torch.set_num_threads(1)
    group = group_of(a=fake(turns=([2.0], [4.0])), b=fake(), wrong=fake(2.0))
    a, b, wrong = core.measure(group, ["step"], QUICK, **ABOUT, beside=1)
    facts = {"words": 3, "beside": 1}
    assert (a.median, a.error, a.memory, a.extra, a.threads) == (3.0, 0.0, None, facts, 1)
    assert core.speedup(a, b).value == 2.0
    assert wrong.seconds == ()
    assert wrong.why.startswith("y differs from the reference's")
    assert a.machine
    assert a.versions["torch"] == torch.__version__.partition("+")[0]
    assert {"governor", "smt", "torch_flags"} <= a.settings.keys()
    assert 0 <= a.foreign <= 1


# --- records ---

RECORD = Record("s", "small", "cudnn", "step", (1.0, 2.0, 4.0), error=1e-7, memory=3, group="g",
    machine="m", versions={"torch": "2"}, extra={"tokens": 400})  # fmt: skip


def test_a_record_is_a_line_that_reads_back(tmp_path):
    file = tmp_path / "new" / "run.jsonl"
    core.save(file, [RECORD])
    core.save(file, [Record("s", "small", "jax", "step", why="not installed")], append=True)
    lines = file.read_text().splitlines()
    first, second = (Record.of_line(json.loads(line)) for line in lines)
    assert first == dataclasses.replace(RECORD, seconds=[1.0, 2.0, 4.0])
    assert math.isnan(second.median)
    assert second.why == "not installed"
    assert '"q1": 1.5, "median": 2.0, "q3": 3.0, "rounds": 3' in lines[0]
    assert '"tokens": 400' in lines[0]


@pytest.mark.parametrize("commit", ["bd0744c522+", "unknown", ""])
def test_rows_of_no_committed_tree_are_not_written_to_the_results(commit, monkeypatch, tmp_path):
    monkeypatch.setattr(core, "RESULTS", tmp_path / "results")
    records = [dataclasses.replace(RECORD, commit=commit)]
    with pytest.raises(ValueError, match=r"commit: got .* expected a tree without changes"):
        core.save(tmp_path / "results" / "run.jsonl", records)
    assert not (tmp_path / "results").exists()
    core.save(tmp_path / "run.jsonl", records)
    core.save(tmp_path / "results" / "run.jsonl", [dataclasses.replace(RECORD, commit="bd0744c")])


# --- cases ---


def test_cases_are_chosen_by_name():
    assert [case.name for case in choose(["rl, small"])] == ["rl", "small"]
    with pytest.raises(ValueError, match="cases: got 'huge'; expected of small, medium"):
        choose(["huge"])


def test_a_shape_in_words_and_its_operations():
    assert str(Shape(35, 20, 650, 650, 2)) == "l2t35b20h650"
    assert str(TINY.resized("T", 4)) == "l2t4b2i5h7"
    assert TINY.resized("H", 4) == Shape(3, 2, 4, 4, 2)
    T, B, I, H, _ = TINY
    weights = 4 * H * (I + H) + 4 * H * (H + H)
    assert TINY.flops("forward") == 2 * T * B * weights
    assert TINY.flops("step") == 3 * TINY.flops("inference")
    assert TINY.flops("forward", tokens=1, directions=2) == 2 * 2 * 4 * H * (I + 2 * H + 2 * H)


@pytest.mark.parametrize("form", ["dense", "packed", "lengths", "padded", "resets"])
def test_every_form_has_one_answer(form):
    """The loop, by the form's own arguments, gives what nn.LSTM gives as its user has to do it."""
    case = dataclasses.replace(CASES["rl"], shape=TINY, form=form)
    if form in ("packed", "lengths", "padded"):
        case = dataclasses.replace(case, spread="uniform")
    problem: Problem = make_problem(case)
    if form == "resets":
        problem.resets[1] = True
    expected = problem.expected()
    loop = next(c for c in engines() if c.engine == "loop")
    answer = local(loop, problem).answer()
    for name, value in expected.items():
        assert_close(answer[name], value, name)


def test_a_right_answer_in_bfloat16_is_made_in_float32():
    """nn.LSTM's own gradients in bfloat16 are wrong where oneDNN has AMX and H is 1024."""
    problem = make_problem(Shape(2, 4, 16, 1024, 1), dtype=torch.bfloat16)
    wide = problem.in_dtype(torch.float64).expected()
    for name, value in problem.expected().items():
        assert value.dtype == torch.bfloat16
        assert core.relative_error(value, wide[name]) < 0.02, name


# --- the machine ---


BURN = "import time\nwhile time.process_time() < 0.6: pass"


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="Linux's /proc")
def test_a_busy_neighbour_ends_with_who_started_it():
    script = """
import os, time
from bench import machine
with machine.neighbours(1):
    children = open(f"/proc/self/task/{os.getpid()}/children").read()
    print(children, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        (child,) = parent.stdout.readline().split()
        parent.kill()
    end = time.monotonic() + 20
    while os.path.exists(f"/proc/{child}") and time.monotonic() < end:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{child}")


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="Linux's /proc")
def test_a_childs_time_is_ours_and_an_orphans_is_not():
    def took(*command: str) -> float:
        before = machine.family_seconds(os.getpid())
        subprocess.run([sys.executable, "-c", *command], check=True)
        time.sleep(0.9 if len(command) > 1 else 0)
        return machine.family_seconds(os.getpid()) - before

    orphan = (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]],"
        " start_new_session=True)"
    )
    assert took(BURN) > 0.5
    assert took(orphan, BURN) < 0.5
    assert 0 <= machine.ForeignTime().share() <= 1


def test_the_machine_is_named():
    assert "cores" in machine.name(CPU)
    assert {"python", "torch", "numpy"} <= machine.versions().keys()
    assert machine.commit()


def test_each_is_built_with_the_threads_that_its_records_name():
    """A peer has a process with so many threads from its start."""
    seen = []

    def setup(case, o) -> Work:
        seen.append(torch.get_num_threads())
        return Work({"one": fake}, lambda: {"y": torch.ones(1)})

    part, threads = suites.Part(setup, ("case",), ("step",)), torch.get_num_threads()
    options = suites.Options(
        threads=[1, 2], neighbours=[0], pauses=[0.0], device=CPU, before=None, engines=None
    )
    try:
        records = list(suites.race("s/p", part, "case", "float32", QUICK, options))
    finally:
        torch.set_num_threads(threads)
    assert seen == [1, 2]
    assert [r.threads for r in records] == [1, 2]
