"""The language model's whole training step, in words per second: the post's own measure."""

from __future__ import annotations

import pytest

from bench.cases import finish
from bench.session import replay_clock
from bench.work import SIZES

pytestmark = pytest.mark.benchmark(timer=replay_clock)


def test_train(benchmark, session, fellows, size, contender):
    shape = SIZES[size]
    benchmark.group = f"training, {size}"
    group = session.training(size, fellows)
    about = {"suite": "train", "size": size, "mode": "training step", "shape": shape._asdict()}
    finish(benchmark, session, group, contender, about, shape.tokens)
