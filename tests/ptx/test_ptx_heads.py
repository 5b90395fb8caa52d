"""The kernels of heads on the PTX machine, and compiled for GPUs that are not there."""

from __future__ import annotations

import pytest

from bench import zoo
from ptx import build, heads_cases, pool
from ptx.cases import DTYPES
from tolerance import TOLERANCE

on_the_machine = pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))
slow = pytest.mark.slow


@on_the_machine
@pytest.mark.parametrize(
    ("cell", "dtype", "arch", "how", "K", "B"),
    [
        pytest.param("slstm", "fp32", 90, "own", 35, 3, marks=slow),
        pytest.param("slstm", "bf16", 80, "alone", 35, 3, marks=slow),
        pytest.param("gru", "fp32", 80, "own", 35, 3, marks=slow),
        pytest.param("gru_dreamer", "fp32", 90, "own", 35, 3, marks=slow),
        ("rnn_tanh", "bf16", 90, "alone", 35, 3),
        ("rnn_tanh", "bf16", 90, "groups of rows", 35, 17),
        ("slstm", "bf16", 90, "own", 35, 4),
        pytest.param("slstm", "bf16", 90, "own", 35, 3, marks=slow),
        pytest.param("slstm", "tf32", 80, "own", 48, 3, marks=slow),
        pytest.param("lstm", "bf16", 80, "own", 48, 17, marks=slow),
        pytest.param("gru_dreamer", "bf16", 90, "own", 35, 3, marks=slow),
        ("gru", "bf16", 80, "streamed", 100, 3),
        pytest.param(zoo.lltm.name, "bf16", 90, "own", 35, 3, id="lltm", marks=slow),
        pytest.param(zoo.lltm.name, "bf16", 80, "alone", 35, 17, id="lltm alone", marks=slow),
        pytest.param("slstm", "tf32", 90, "streamed", 100, 3, marks=slow),
        pytest.param("slstm", "tf32", 90, "blocks of batch", 35, 17, marks=slow),
        pytest.param("slstm", "bf16", 80, "a launch a step", 35, 3, marks=slow),
    ],
)
def test_programs_of_heads_under_a_weak_schedule(cell, dtype, arch, how, K, B):
    errors, findings = pool.pool().submit(heads_cases.run, cell, dtype, arch, how, K, B).result()
    assert not findings
    assert "dweight" in errors
    # TF32 rounds its inputs as float16 does.
    allowed = TOLERANCE[DTYPES["fp16" if dtype == "tf32" else dtype]][0]
    assert all(error <= allowed for error in errors.values()), errors


@on_the_machine
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, marks=() if fault == "wait removed" else slow)
        for fault in heads_cases.FINDS
    ],
)
def test_a_fault_of_the_barrier_among_a_heads_programs_is_found(fault):
    for seed in (1, 2, 3):
        case = "rnn_tanh", "bf16", 90, "own", 35, 3, fault, seed
        outcome = pool.pool().submit(heads_cases.outcome, *case).result()
        if "nothing found" not in outcome:
            break
    assert heads_cases.FINDS[fault] in outcome, outcome


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90, 120])
@pytest.mark.parametrize("K", [32, 64, 128, 256, 768])
@pytest.mark.parametrize("dtype", ["bf16", "tf32"])
def test_a_head_of_any_size_compiles_without_a_spill(dtype, K, arch):
    spills = pool.pool().submit(heads_cases.spills, "slstm", dtype, arch, K).result()
    assert spills == {"forward": 0, "backward": 0}
