"""How each engine's step (forward and backward) grows: T, B, H and L, one at a time."""

from __future__ import annotations

import pytest

from bench.alone import Case, Shape
from bench.contenders import engines
from bench.suite import replay_clock

pytestmark = pytest.mark.benchmark(timer=replay_clock)

START = Shape(T=20, B=20, I=256, H=256, L=2)
AXES = {"T": (5, 80), "B": (1, 5, 80), "H": (64, 128, 512, 1024), "L": (1, 4)}
KNOWN = engines()

# Where all axes meet is timed once, in the first.
POINTS = [("T", START.T)] + [(axis, value) for axis, values in AXES.items() for value in values]


def test_scaling(benchmark, session, fellows, point, contender):
    axis, value = point
    shape = START.resized(axis, value)
    benchmark.group = f"scaling {axis}={value}"
    group = session.alone(Case(shape), "step", fellows, share=0.3, counted=False)
    about = {"suite": "scaling", "axis": axis, "value": value, "mode": "step", "shape": shape}
    session.finish(benchmark, group, contender, about)
