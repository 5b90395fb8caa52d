"""The LSTM alone: every engine, fuse level and peer, at the three presets, in four modes.

inference: without gradients. forward: keeping what the backward needs. backward: its forward done
beforehand. step: forward and backward. The input's gradient is wanted too: an embedding needs it.
"""

from __future__ import annotations

import pytest

from bench.alone import SIZES, Case
from bench.suite import replay_clock

pytestmark = pytest.mark.benchmark(timer=replay_clock)


def test_lstm(benchmark, session, fellows, size, mode, contender):
    benchmark.group = f"LSTM, {size}, {mode}"
    group = session.alone(Case(SIZES[size]), mode, fellows)
    about = {"suite": "lstm", "size": size, "mode": mode, "shape": SIZES[size]}
    session.finish(benchmark, group, contender, about)
