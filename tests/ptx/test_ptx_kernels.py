"""The compiled kernels on the PTX machine, all programs at once: right numbers, and no race."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from bench.gpu import gsan
from ptx import build, cases, lists, pool

pytestmark = pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))

SEEDS = (1,)  # `make ptx` takes more, and more cases


@pytest.fixture(scope="module")
def outcome_of(request) -> Callable:
    """cases.run, of the selected cases."""
    items = [item for item in request.session.items if item.path == request.path]
    chosen = [item.callspec.params["case"] for item in items if "case" in item.fixturenames]
    return pool.outcomes(cases.run, ((case, SEEDS) for case in chosen))


@pytest.mark.parametrize("case", lists.some_cases(), ids=str)
def test_kernels_under_weak_schedules(case, outcome_of):
    outcome = outcome_of(case, SEEDS)
    assert outcome.schedules == len(SEEDS)
    assert outcome.clean, str(outcome)
    assert outcome.stats["instructions"] > 0


@pytest.mark.parametrize("arch", [pytest.param(80, marks=pytest.mark.slow), 90])
def test_what_is_not_a_number_stays_in_its_unit(arch):
    """Layer 0 has nothing below it. Once it added 0 times what its peers write in the same wave.

    Then 17 of 33 units followed one that was not a number, in one schedule of ten.
    """
    seeds = range(15, 61)
    spread = pool.pool().submit(cases.nan_spreads_to, arch, seeds).result()
    assert spread == {seed: [5] for seed in seeds}


ONE_AN_ARCH = ("fp32", 80), ("bf16", 90)  # the masks are the same in every dtype


@pytest.mark.parametrize(
    ("dtype", "arch"),
    [
        pytest.param(*both, marks=[] if both in ONE_AN_ARCH else pytest.mark.slow)
        for both in product(cases.DTYPES, (80, 90))
    ],
)
def test_what_is_not_a_number_does_not_cross_a_reset(dtype, arch):
    found = pool.pool().submit(cases.nan_beside_resets, arch, dtype, (1, 2)).result()
    assert found == dict.fromkeys((1, 2), [[[0, 1], [1, 2]]] * 2)


@pytest.mark.parametrize(
    ("kind", "arch"),
    [
        ("steps", 80),
        ("layers", 90),
        pytest.param("steps", 90, marks=pytest.mark.slow),
        pytest.param("layers", 80, marks=pytest.mark.slow),
    ],
)
def test_the_barrier_on_atomics(kind, arch):
    """Check the barrier that GSan and AMD's GPUs get; the fault shows that the machine looks."""
    case = cases.Case(kind, "bf16", arch, 33, L=1 if kind == "steps" else 2)
    outcome = pool.pool().submit(cases.on_atomics, case, (1, 2)).result()
    assert outcome.clean, str(outcome)
    faulty = pool.pool().submit(cases.on_atomics, case, (1, 2), relaxed=True).result()
    assert any("race" in finding for finding in faulty.findings)


@pytest.mark.slow
@pytest.mark.skipif(gsan.missing() is not None, reason=str(gsan.missing()))
def test_what_gsan_is_given_compiles():
    """No GPU has run it: GSan is in the compiled kernels, and the barrier as it can see it."""
    compiled = pool.pool().submit(cases.under_gsan, 90).result()
    assert len(compiled) == 4  # steps and layers, forward and backward
    for ptx, scratch in compiled:
        assert "gsan" in ptx
        assert "AGAIN" not in ptx  # the label of the assembly's loop
        assert scratch == 0  # else the launch would want an allocator


def test_a_launch_may_trap_where_it_would_hang():
    """Who polls more often than is allowed ends the launch; who is allowed to waits."""
    assert pool.pool().submit(cases.with_polls, 2**30).result().clean
    outcome = pool.pool().submit(cases.with_polls, 1).result()
    assert not outcome.clean
    assert "trap" in str(outcome)
