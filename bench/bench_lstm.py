"""The LSTM alone: every engine, fuse level and peer, at the three presets, in four modes.

inference: without gradients. forward: keeping what the backward needs. backward: its forward done
beforehand. step: forward and backward. The input's gradient is wanted too: an embedding needs it.
"""

from __future__ import annotations

import pytest

from bench.cases import measure
from bench.session import replay_clock
from bench.work import SIZES

pytestmark = pytest.mark.benchmark(timer=replay_clock)


def test_lstm(benchmark, session, fellows, size, mode, contender):
    shape = SIZES[size]
    benchmark.group = f"LSTM, {size}, {mode}"
    about = {"suite": "lstm", "size": size}
    measure(benchmark, session, contender, fellows, shape, mode, about)
