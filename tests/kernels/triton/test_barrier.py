"""The barrier's arithmetic in int32, which wraps. The protocol around it: test_ptx_kernels.py."""

from __future__ import annotations

import pytest
import torch

from fused_lstm.triton import barrier
from ptx import build
from ptx.by_hand import launch

LIMIT = 2**31


def wrap(n: int) -> int:
    """n as an int32."""
    return (n + LIMIT) % 2**32 - LIMIT


def ticket(programs: int, round: int, start: int) -> int:
    """The count at which `round` (from 1) is complete, as the kernels compute it."""
    return wrap(start + programs * round)


def is_before(seen: int, target: int) -> bool:
    """Whether barrier.SPIN goes on waiting, in int32 arithmetic."""
    return wrap(seen - target) < 0


STARTS = [0, 1, LIMIT - 3, -LIMIT, -5]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("programs", [1, 2, 94, 132])
def test_a_round_is_over_with_its_last_arrival(programs, start):
    count = start
    for round in range(1, 5):
        target = ticket(programs, round, start)
        for _ in range(programs):
            assert is_before(count, target)
            count = wrap(count + 1)
        assert not is_before(count, target)
        # Others may already have arrived for the next round: still over.
        assert not is_before(wrap(count + programs - 1), target)


@pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))
@pytest.mark.parametrize("target", [4, -LIMIT + 2, LIMIT - 2, 0])
def test_a_wait_is_over_where_the_model_says(target):
    """The wait itself, on the PTX machine: what it cannot leave is a deadlock."""
    for seen in (target - 1, target, target + 1):
        counter = torch.tensor([wrap(seen)], dtype=torch.int32)
        body = f"mov.u32 %r1, {target % 2**32};" + barrier.SPIN.value.replace("$0", "%r0").replace(
            "$1", "%p0"
        ).replace("$2", "%r1")
        report = str(launch(body, counter, max_instructions=20_000))
        assert ("nothing found" not in report) == is_before(wrap(seen), target), report
