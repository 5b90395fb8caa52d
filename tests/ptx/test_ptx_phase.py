"""The exchange of h by its phase: on the PTX machine, with faults, and compiled ahead of time."""

from __future__ import annotations

import pytest

from ptx import build, phase_cases, pool

on_the_machine = pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))
slow = pytest.mark.slow
SHORT = "a phase that does not change", "no wait", "exchange not zeroed"  # faults found at once


# Cases of `make test`: half precision with all that rows may be, and TF32.
QUICK = phase_cases.some_cases()[1::2]


@on_the_machine
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if case in QUICK else slow, id=str(case))
        for case in phase_cases.some_cases()
    ],
)
def test_the_bits_are_the_barriers(case):
    outcome = pool.pool().submit(phase_cases.run, case, (1, 2, 4)).result()
    assert outcome.schedules == 3
    assert outcome.clean, str(outcome)


@on_the_machine
@pytest.mark.parametrize(
    ("fault", "arch"),
    [
        pytest.param(name, arch, marks=[] if arch == 90 and name in SHORT else slow)
        for name in phase_cases.FAULTS
        for arch in (80, 90)
    ],
)
def test_each_fault_is_found(fault, arch):
    changed, outcomes = pool.pool().submit(phase_cases.fault, fault, arch).result()
    assert changed, "the fault changed nothing"
    assert not all(outcome.clean for outcome in outcomes)
    assert any(phase_cases.FAULTS[fault][1] in str(outcome) for outcome in outcomes)


@pytest.mark.parametrize(
    ("dtype", "arch", "H"),
    [
        ("bf16", 90, 650),
        *[
            pytest.param(dtype, arch, H, marks=slow)
            for dtype, arch, H in (
                ("bf16", 80, 200), ("bf16", 80, 650), ("bf16", 90, 200), ("bf16", 120, 200),
                ("bf16", 120, 650), ("fp16", 90, 650), ("tf32", 80, 200), ("tf32", 90, 200),
                ("tf32", 120, 200),
            )
        ],
    ],
)  # fmt: skip
def test_a_step_has_strong_accesses_and_no_fence(dtype, arch, H):
    """Nothing of the barrier is left, and loads of h are not copies, which would not be strong."""
    plan, found = pool.pool().submit(phase_cases.compiled, dtype, arch, H).result()
    loads = plan.block_k * plan.block_b * plan.chunks * (4 if dtype == "tf32" else 2)
    loads //= 16 * 32 * plan.warps  # of 16 bytes, of a thread, before its loop and in it
    assert found["strong"]["ld.volatile.global.v4.b32"] == 2 * loads
    assert set(found["strong"]) == {"ld.volatile.global.v4.b32", "st.relaxed.gpu.global.b32"}
    assert found["of the barrier"] == []
    assert found["fences"] == []
    assert found["order"] == []
    assert found["stack"] == 0
    assert found["shared_memory"] <= plan.smem
