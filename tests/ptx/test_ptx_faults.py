"""Faults in the kernels' PTX: the PTX machine finds each, or it is known why it cannot."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ptx import build, faults, pool
from ptx.by_hand import launch

pytestmark = pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))

# Each fault on one architecture, in turn; with --slow, and in `make ptx ARGS=--faults`, on each.
TRIALS = [
    pytest.param(
        fault, arch, id=f"{fault.name}-sm_{arch}",
        marks=[] if fault.arch[n % len(fault.arch)] == arch else pytest.mark.slow,
    )
    for n, fault in enumerate(faults.FAULTS)
    for arch in fault.arch
]  # fmt: skip


def trial(fault: str, arch: int) -> tuple:
    """Arguments of faults.run_by_name: on steps' forward; `python -m ptx --faults` has all."""
    (kind, *_) = next(f.kinds for f in faults.FAULTS if f.name == fault)
    return fault, kind, "forward", arch, 3


@pytest.fixture(scope="module")
def outcome_of(request) -> Callable:
    """faults.run_by_name, of the selected trials."""
    items = [item for item in request.session.items if item.path == request.path]
    chosen = [
        item.callspec.params for item in items if "fault" in getattr(item, "fixturenames", ())
    ]
    trials = (trial(params["fault"].name, params["arch"]) for params in chosen)
    return pool.outcomes(faults.run_by_name, trials)


@pytest.mark.parametrize(("fault", "arch"), TRIALS)
def test_each_fault_is_found_or_explained(fault, arch, outcome_of):
    found, outcome = outcome_of(*trial(fault.name, arch))
    assert outcome is not None, "the fault changed nothing"
    if fault.not_found:
        assert not found, f"it can be found after all:\n{outcome}"
        return
    assert found, f"not found in {outcome.schedules} schedules"
    assert fault.finds in str(outcome), str(outcome)


def test_a_deadlock_names_each_warp(outcome_of):
    _, outcome = outcome_of(*trial("arrive removed", 80))
    programs, warps = 3, 8
    for program in range(programs):
        for warp in range(warps):
            assert f"program {program} warp {warp} " in outcome.report


def test_addresses_outside_of_a_tensor():
    """The machine by hand: what lies beyond a tensor, beside a word, and in nobody's memory."""
    x = torch.zeros(128, dtype=torch.int32)
    at = "mul.wide.u32 %at0, %n, 4; add.s64 %at0, %at0, %p0; "
    for code, finding in (
        (at + "ld.global.b32 %r0, [%at0+4];", "out of bounds"),
        (at + "ld.global.b32 %r0, [%at0+2];", "misaligned"),
        (at + "st.global.b32 [%at0+-4], %t;", "out of bounds"),
        ("ld.shared.b32 %r0, [%base+20000];", "out of bounds"),
        ("ld.shared.b32 %r0, [%base];", "uninitialised"),
        (at + "ld.global.b32 %r0, [%p0];", "nothing found"),
    ):
        assert finding in str(launch(code, x)), code
    report = str(launch(at + "ld.global.b32 %r0, [%at0];", x, empty=[0]))
    assert "uninitialised read" in report
    assert "p0[" in report, "the element is named"
