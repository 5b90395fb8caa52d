"""The barrier's arithmetic in int32, which wraps. The protocol around it: test_ptx_kernels.py."""

from __future__ import annotations

import pytest

from fused_lstm.triton import barrier

LIMIT = 2**31


def wrap(n: int) -> int:
    """n as an int32."""
    return (n + LIMIT) % 2**32 - LIMIT


def is_before(seen: int, target: int) -> bool:
    """barrier.is_before in int32 arithmetic."""
    return wrap(seen - target) < 0


STARTS = [0, 1, LIMIT - 3, -LIMIT, -5]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("programs", [1, 2, 94, 132])
def test_a_round_is_over_with_its_last_arrival(programs, start):
    count = start
    for round in range(1, 5):
        target = barrier.ticket(programs, round, start)
        for _ in range(programs):
            assert is_before(count, target)
            count = wrap(count + 1)
        assert not is_before(count, target)
        # Others may already have arrived for the next round: still over.
        assert not is_before(wrap(count + programs - 1), target)


def test_is_before_is_what_the_kernel_computes():
    assert barrier.is_before(3, 4)
    assert not barrier.is_before(4, 4)
    assert not barrier.is_before(5, 4)
