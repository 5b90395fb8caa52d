"""The language model's whole training step, in words per second: the post's own measure."""

from __future__ import annotations

import pytest

from bench.alone import SIZES
from bench.suite import replay_clock

pytestmark = pytest.mark.benchmark(timer=replay_clock)


def test_train(benchmark, session, fellows, size, contender):
    benchmark.group = f"training, {size}"
    group = session.training(size, fellows)
    about = {"suite": "train", "size": size, "mode": "training step", "shape": SIZES[size]}
    session.finish(benchmark, group, contender, about)
