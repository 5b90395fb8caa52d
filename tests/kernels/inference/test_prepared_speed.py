"""A prepared layer is as fast as the layer it replaces, at sixty drawn calls and ten others."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product
from statistics import median

import pytest
import torch

import fused_lstm
from bench import core, serve
from bench.cases import DTYPES, Case, Shape, grid
from bench.contenders import OURS, PREPARED
from bench.layers import make_problem
from fused_lstm import native

CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.skipif(native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"),
    pytest.mark.slow,  # it measures: other processes would take its cores
]

PACE = core.Pace(seconds=0.1, least=15, turn=2e-3)
DRAWN = [  # every third in both directions
    replace(case, bidirectional=n % 3 == 2, name=f"{case}{' both ways' * (n % 3 == 2)}")
    for n, case in enumerate(grid(30, seed=80, most=3e8))
]
SMALL_STEPS = [  # which two threads share if they seldom meet, or soon
    Case("lstm T=90 B=30 H=15", Shape(90, 30, 15, 15, 1)),
    Case("lstm T=100 B=1 H=32 both ways", Shape(100, 1, 32, 32, 1), bidirectional=True),
    Case("gru T=35 B=4 H=32 both ways", Shape(35, 4, 32, 32, 1), cell="gru", bidirectional=True),
]
TWO_LAYERS = [  # of an odd number of blocks of units, each layer one thread's
    Case("gru T=100 B=8 H=100 L=2", Shape(100, 8, 100, 100, 2), cell="gru"),
    Case("lstm T=35 B=4 H=100 L=2", Shape(35, 4, 100, 100, 2)),
]


@pytest.mark.parametrize(
    ("case", "dtype"),
    [*product([*DRAWN, *SMALL_STEPS, *TWO_LAYERS], ("float32", "bfloat16"))],
    ids=str,
)
def test_prepared_is_at_most_a_little_slower(case, dtype):
    """A busy machine may slow one of three measurements, and not all of them."""
    problem = make_problem(case, CPU, DTYPES[dtype])
    layer = serve.ours(problem)
    modules = {OURS: layer, PREPARED: fused_lstm.prepare(serve.ours(problem))}
    calls = {label: partial(serve.inference, m, problem) for label, m in modules.items()}
    group = core.Group(core.Work(calls))
    found = []
    while len(found) < 3 and (not found or found[-1].high < 0.97):
        turns = group.time(["inference"], PACE)
        found.append(core.ratio(*(list(map(median, turns[k, "inference"])) for k in modules)))
    assert found[-1].high >= 0.97, f"layer / prepared: {found}"
