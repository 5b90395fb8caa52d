"""How each engine's step (forward and backward) grows: T, B, H and L, one at a time."""

from __future__ import annotations

import pytest

from bench.cases import measure
from bench.contenders import engines
from bench.session import replay_clock
from bench.work import Shape

pytestmark = pytest.mark.benchmark(timer=replay_clock)

START = {"T": 20, "B": 20, "H": 256, "L": 2}
AXES = {
    "T": (5, 20, 80),
    "B": (1, 5, 20, 80),
    "H": (64, 128, 256, 512, 1024),
    "L": (1, 2, 4),
}
KNOWN = engines()
POINTS = [(axis, value) for axis, values in AXES.items() for value in values]


def test_scaling(benchmark, session, fellows, point, contender):
    axis, value = point
    at = START | {axis: value}
    shape = Shape(at["T"], at["B"], at["H"], at["H"], at["L"])
    benchmark.group = f"scaling {axis}={value}"
    about = {"suite": "scaling", "axis": axis, "value": value}
    measure(benchmark, session, contender, fellows, shape, "step", about, counted=False)
