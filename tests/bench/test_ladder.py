"""The ladder: rungs that differ by fusion alone, right answers, factors where they are seen."""

from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace

import pytest
import torch

from bench import core, ladder
from bench.cases import Case, Shape, make_problem
from bench.core import Group, Record
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
    ours, theirs = ladder.Linear.apply(x, w, b), torch.nn.functional.linear(x, w, b)
    assert_close(ours, theirs.detach(), "y")
    found, wanted = (torch.autograd.grad(y, leaves, dy) for y in (ours, theirs))
    for name, mine, right in zip("xwb", found, wanted, strict=False):
        assert_close(mine, right, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_rung_gives_nn_lstms_answer(dtype):
    problem = make_problem(CASE, dtype=dtype)
    rungs = {rung.label: rung for rung in ladder.rungs(CPU, dtype)}
    assert list(rungs)[:5] == ["loop", *ladder.LEVELS]
    group = Group(problem, {label: lambda r=r: r.build(problem) for label, r in rungs.items()})
    assert not group.failed
    assert set(group.errors) == set(rungs)


def test_a_wrong_rung_is_not_timed(monkeypatch):
    monkeypatch.setattr(ladder, "OURS", ladder.OURS._replace(step=lambda part, h, w: part))
    problem = make_problem(CASE)
    rungs = {rung.label: rung for rung in ladder.rungs(CPU, torch.float32)}
    group = Group(problem, {label: lambda r=r: r.build(problem) for label, r in rungs.items()})
    assert "hoisted" in group.failed
    assert "loop" not in group.failed


def test_rungs_that_multiply_step_by_step_use_one_product(monkeypatch):
    """And no product of PyTorch's, so that the instruction set is everybody's."""
    kinds: list[str] = []
    product = ladder._product
    monkeypatch.setattr(
        ladder, "_product", lambda kind, *of: kinds.append(kind) or product(kind, *of)
    )
    for name in ("mm", "addmm"):
        monkeypatch.setattr(torch, name, None)
    problem = make_problem(CASE)
    T, L = CASE.shape.T, CASE.shape.L
    for rung in ladder.on_cpu(native.OPS.isa(), ladder.OURS)[:2]:
        kinds.clear()
        rung.build(problem).step()
        assert sorted(kinds) == sorted(["input", "dx", "dW"] * T * L)


def records() -> list[Record]:
    suite = SimpleNamespace(cases=[CASE], dtypes=["float32"], pace=core.Pace(0.2, 3, 4))
    options = SimpleNamespace(device=CPU)
    return list(ladder.run("ladder", suite, options))


@pytest.fixture(scope="module")
def measured() -> list[Record]:
    return records()


def test_the_factors_multiply_to_the_whole(measured):
    rungs = ladder.ladder_of(measured)
    whole = 1.0
    for below, rung in itertools.pairwise(rungs):
        whole *= core.speedup(below, rung).value
    assert whole == pytest.approx(core.speedup(rungs[0], rungs[-1]).value)


def test_each_rung_has_its_counts_and_its_prediction(measured):
    launches = [r.extra["launches"] for r in ladder.ladder_of(measured)]
    assert launches == sorted(launches, reverse=True)
    assert launches[-1] == 2
    for record in ladder.ladder_of(measured):
        assert record.extra["predicted"].keys() == {
            "products", "weights", "gradients", "intermediates", "launches",
        }  # fmt: skip
        assert ladder.predicted(record) > 0


def test_it_comes_back_from_a_file_and_is_told(measured, tmp_path):
    core.save(tmp_path / "ladder.jsonl", measured)
    loaded = core.load(tmp_path / "ladder.jsonl")
    assert ladder.show(loaded) == ladder.show(measured)
    text = ladder.show(loaded)
    for name in ("loop", *ladder.LEVELS, "nn.LSTM", "loop, torch.mm"):
        assert name in text


def test_the_report_has_it(measured):
    blocks: list[str] = []
    page = SimpleNamespace(add=lambda *texts: blocks.extend(texts))
    ladder.section(page, [])
    assert not blocks
    ladder.section(page, measured)
    assert ladder.show(measured) in blocks[1]


def test_a_busy_machine_is_said_first(measured):
    busy = [dataclasses.replace(record, foreign=0.3) for record in measured]
    assert ladder.show(busy).startswith("BUSY: other work took up to 30%")
    quiet = [dataclasses.replace(record, foreign=0.1) for record in measured]
    assert "BUSY" not in ladder.show(quiet)


def test_noise_is_no_factor():
    """Rounds that scatter by far more than they differ: no factor is printed."""
    noisy = [
        Record("ladder", "tiny", label, "step", seconds, group="g", extra=facts())
        for label, seconds in (("loop", (1.0, 9.0, 2.0, 8.0)), ("pointwise", (9.0, 1.0, 8.0, 2.0)))
    ]
    text = ladder.show(noisy)
    assert "no difference seen" in text
    assert "1.00x" not in text


def facts() -> dict:
    kinds = {f"{kind}_{way}": 8 for kind in ("weights", "gradients", "intermediates")
        for way in ("read", "written")}  # fmt: skip
    return {"launches": 2, "flop": 8, "isa": "avx2"} | kinds
