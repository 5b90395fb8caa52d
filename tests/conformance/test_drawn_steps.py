"""`fuse` on steps drawn at random, beside the loop that a person runs: `make fuzz` draws more."""

from __future__ import annotations

import os
from collections import Counter

import drawn_steps
import pytest
import torch

import fused_lstm
from own_loop import assert_same

pytestmark = pytest.mark.usefixtures("without_bfloat16")

FIRST, COUNT = int(os.environ.get("SEED", "0")), int(os.environ.get("EXAMPLES", "8"))
TIERS: Counter = Counter()


@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
def test_a_drawn_step(seed):
    module, xs, states = drawn_steps.drawn(seed)
    T, B = 4, 1 + seed % 5
    torch.manual_seed(seed)
    x = tuple(torch.randn(T, B, w, dtype=torch.float64) for w in xs)
    state = tuple(torch.randn(B, w, dtype=torch.float64) for w in states)
    layer = fused_lstm.fuse(module)
    try:
        assert_same(layer, x if len(x) > 1 else x[0], state)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{fused_lstm.explain(layer)}\n{module.text}") from None
    assert "fault" not in fused_lstm.explain(layer), module.text
    TIERS[fused_lstm.explain(layer).partition(":")[0]] += 1
    level = next(iter(layer._plans.values())).tier
    if level != "none":  # T = 4 may be faster as the own loop
        assert_same(fused_lstm.fuse(module, fuse=level), x if len(x) > 1 else x[0], state)
