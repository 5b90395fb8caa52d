"""`pytest --benchmark-only`: the LSTM alone by plain pytest-benchmark, each contender by itself.

    pytest --benchmark-only -k "medium and step" --benchmark-autosave
    pytest --benchmark-only -k "medium and step" --benchmark-compare

To set two contenders beside each other `python -m bench layers` is better: they take turns.
"""

from __future__ import annotations

import functools
import statistics

import pytest
import torch

from bench.cases import CASES
from bench.contenders import NN_LSTM, Contender, engines, in_default_run, why_not
from bench.core import require_right
from bench.layers import Problem, local, make_problem

DEVICE = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
ROUNDS = {"small": 30, "medium": 7, "large": 3}


@functools.cache
def problem_of(case: str) -> tuple[Problem, dict[str, torch.Tensor]]:
    """Return a case's problem, and what the right answer is."""
    problem = make_problem(CASES[case], DEVICE)
    return problem, problem.expected()


@functools.cache
def base_seconds(case: str, mode: str) -> float:
    """Return nn.LSTM's median of a few rounds."""
    return statistics.median(local(NN_LSTM, problem_of(case)[0]).turn(mode)(6, 0.0, 0.0)[1:])


@pytest.mark.parametrize("mode", ["inference", "step"])
@pytest.mark.parametrize("case", ROUNDS)
@pytest.mark.parametrize("contender", engines(), ids=lambda c: c.label)
def test_lstm(benchmark, contender: Contender, case: str, mode: str):
    """Check the answer, then time some rounds."""
    if why := why_not(contender, DEVICE):
        pytest.skip(why)
    if not in_default_run(contender, case):
        pytest.skip("compiles for minutes")
    problem, expected = problem_of(case)
    call = local(contender, problem)
    error = require_right(contender.label, call.answer(), expected)
    work = call.modes[mode]

    def finished() -> None:
        work()
        if DEVICE.type != "cpu":
            torch.accelerator.synchronize(DEVICE)

    benchmark.group = f"{case} ({problem.case.shape}), {mode}"
    benchmark.pedantic(finished, rounds=ROUNDS[case], warmup_rounds=1)
    median = benchmark.stats.stats.median
    benchmark.extra_info |= {
        "GF/s": round(problem.flops(mode) / median / 1e9, 1),
        "x nn.LSTM": round(base_seconds(case, mode) / median, 3),
        "max_error": error,
    }
