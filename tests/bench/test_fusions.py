"""The fusions: rungs that differ by fusion alone, right answers, factors where they are seen."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch

from bench import core, fusions
from bench.cases import Case, Shape
from bench.core import Group, Record
from bench.layers import make_problem, work_of
from bench.suites import Options
from fused_lstm import native
from tolerance import assert_close

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"
)
CASE = Case("tiny", Shape(4, 3, 6, 8, 2))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_our_product_is_pytorchs_with_its_derivatives(bias):
    x, w = torch.randn(5, 3, 6, requires_grad=True), torch.randn(32, 6, requires_grad=True)
    b = torch.randn(32, requires_grad=True) if bias else None
    leaves = [t for t in (x, w, b) if t is not None]
    dy = torch.randn(5, 3, 32)
    ours, theirs = fusions.Linear.apply(x, w, b), torch.nn.functional.linear(x, w, b)
    assert_close(ours, theirs.detach(), "y")
    found, wanted = (torch.autograd.grad(y, leaves, dy) for y in (ours, theirs))
    for name, mine, right in zip("xwb", found, wanted, strict=False):
        assert_close(mine, right, name)


def group_of(problem, rungs) -> Group:
    calls = {r.label: partial(fusions.rung_call, r, problem) for r in rungs}
    return Group(work_of(problem, calls))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_rung_gives_nn_lstms_answer(dtype):
    problem = make_problem(CASE, dtype=dtype)
    rungs = fusions.rungs(CPU, dtype)
    assert [rung.label for rung in rungs][:5] == ["loop", *fusions.LEVELS]
    group = group_of(problem, rungs)
    assert not group.failed
    assert set(group.errors) == {rung.label for rung in rungs}


def test_a_wrong_rung_is_not_timed(monkeypatch):
    monkeypatch.setattr(fusions, "OURS", fusions.OURS._replace(step=lambda part, h, w: part))
    problem = make_problem(CASE)
    group = group_of(problem, fusions.rungs(CPU, torch.float32))
    assert "hoisted" in group.failed
    assert "loop" not in group.failed


def test_rungs_that_multiply_step_by_step_use_one_product(monkeypatch):
    """And no product of PyTorch's, so that the instruction set is everybody's."""
    kinds: list[str] = []
    product = fusions._product
    monkeypatch.setattr(
        fusions, "_product", lambda kind, *of: kinds.append(kind) or product(kind, *of)
    )
    for name in ("mm", "addmm"):
        monkeypatch.setattr(torch, name, None)
    problem = make_problem(CASE)
    T, L = CASE.shape.T, CASE.shape.L
    for rung in fusions.on_cpu(native.OPS.isa(), fusions.OURS)[:2]:
        kinds.clear()
        fusions.rung_call(rung, problem).modes["step"]()
        assert sorted(kinds) == sorted(["input", "dx", "dW"] * T * L)


def test_layers_have_a_rung_only_where_they_are_a_wavefront():
    """plan.cpp: several threads, and weights of a layer of 384 KiB at most."""

    def wave(H: int, threads: int) -> bool:
        return fusions.is_wavefront(Shape(35, 20, H, H, 2), threads)

    assert [wave(64, 1), wave(64, 2), wave(110, 2), wave(111, 2)] == [False, True, True, False]


@pytest.fixture(scope="module")
def climbed() -> list[Record]:
    """The rungs of a tiny LSTM on one thread, where `layers` is no other code than `steps`."""
    torch.set_num_threads(1)
    work = fusions.setup(CASE, Options(device=CPU, dtype=torch.float32))
    about = {"suite": "fusions/levels", "case": "tiny", "dtype": "float32"}
    measured = core.measure(Group(work), ["step"], core.Pace(0.2, 3, 4), **about)
    records = {r.contender: r for r in measured}
    assert {fusions.NN, fusions.TORCH_LOOP} <= records.keys()
    assert "layers" not in records
    return [records[label] for label in ("loop", *fusions.LEVELS[:-1])]


def test_the_factors_multiply_to_the_whole(climbed):
    whole = 1.0
    for below, rung in itertools.pairwise(climbed):
        whole *= core.speedup(below, rung).value
    assert whole == pytest.approx(core.speedup(climbed[0], climbed[-1]).value)


def test_each_rung_has_its_counts_and_its_prediction(climbed):
    launches = [r.extra["launches"] for r in climbed]
    assert launches == sorted(launches, reverse=True)
    assert launches[-1] == 2
    kinds = {"products", "weights", "gradients", "intermediates", "launches"}
    for record in climbed:
        assert record.extra["predicted"].keys() == kinds
        assert all(seconds > 0 for seconds in record.extra["predicted"].values())
