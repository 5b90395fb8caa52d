"""Both directions, and rows of unequal length, against nn.LSTM: B = 32, one layer.

inference: without gradients. step: forward and backward. Packed, a token's time stands beside that
of a token where as many are in rows of equal length; with `lengths=` beside that of the same rows
that a user packs before the call and pads after it.
"""

from __future__ import annotations

import pytest

from bench.alone import SENTENCES, Case, Shape
from bench.contenders import highest
from bench.suite import replay_clock

pytestmark = pytest.mark.benchmark(timer=replay_clock)

SHAPES = [Shape(T, 32, H, H, 1) for T, H in ((100, 256), (100, 512), (400, 256), (400, 512))]
SHORT = [Shape(len(SENTENCES), 32, H, H, 1) for H in (256, 512)]
CASES = [Case(shape, bidirectional=True) for shape in SHAPES]
CASES += [Case(shape, False, "equal", "packed") for shape in SHAPES]
CASES += [
    Case(shape, False, spread, form)
    for spread, shapes in (("uniform", SHAPES), ("sentences", SHORT))
    for shape in shapes
    for form in ("packed", "lengths")
]
KNOWN = highest()
POINTS = [(case, mode) for case in CASES for mode in ("inference", "step")]
FEW = [point for point in POINTS if point[0].shape in (SHAPES[0], SHORT[0])]  # all take 5 minutes


def test_lanes(benchmark, session, fellows, point, contender):
    case, mode = point
    group = session.alone(case, mode, fellows, share=0.2, counted=False)
    benchmark.group = f"{case}, {mode}"
    about = {"suite": "bidirectional" if case.bidirectional else "packed", "mode": mode}
    about |= {"case": str(case), "shape": case.shape, "spread": case.spread, "form": case.form}
    session.finish(benchmark, group, contender, about)
