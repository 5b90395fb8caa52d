"""The kernels of heads on the PTX machine, and compiled for GPUs that are not there."""

from __future__ import annotations

import pytest

from ptx import build, heads_cases, pool
from ptx.cases import DTYPES
from tolerance import TOLERANCE


@pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))
@pytest.mark.parametrize(
    ("cell", "dtype", "arch"),
    [
        ("slstm", "fp32", 90),
        pytest.param("slstm", "bf16", 80, marks=pytest.mark.slow),
        pytest.param("gru", "fp32", 80, marks=pytest.mark.slow),
        pytest.param("gru_dreamer", "fp32", 90, marks=pytest.mark.slow),
        pytest.param("rnn_tanh", "bf16", 90, marks=pytest.mark.slow),
    ],
)
def test_programs_of_heads_under_a_weak_schedule(cell, dtype, arch):
    errors, findings = pool.pool().submit(heads_cases.run, cell, dtype, arch).result()
    assert not findings
    assert "dweight" in errors
    allowed = TOLERANCE[DTYPES[dtype]][0]
    assert all(error <= allowed for error in errors.values()), errors


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_head_of_any_size_compiles_without_a_spill(dtype, arch):
    """Units of a head are no compile-time constant, so one kernel serves 64 and 768."""
    spills = pool.pool().submit(heads_cases.stack_bytes, "slstm", dtype, arch).result()
    assert spills == dict.fromkeys(("heads_forward_kernel", "heads_backward_kernel"), 0)
