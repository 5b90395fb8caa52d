"""Plans that sum in other orders, on the PTX machine under FpSan: equal bits of all results."""

from __future__ import annotations

import pytest

from ptx import build, fpsan, pool
from ptx.cases import Case

pytestmark = [
    pytest.mark.skipif(build.missing() is not None, reason=str(build.missing())),
    pytest.mark.skipif(fpsan.missing() is not None, reason=str(fpsan.missing())),
]


@pytest.mark.parametrize(
    ("dtype", "path"),
    [
        ("tf32", "streamed in parts"),
        *(
            pytest.param(dtype, path, marks=pytest.mark.slow)
            for dtype, path in (
                ("fp32", "own"), ("tf32", "own"), ("tf32", "a gate each"),
                ("fp32", "streamed in parts"), ("fp32", "a gate each"),
            )
        ),
    ],
)  # fmt: skip
def test_plans_that_sum_in_other_orders_agree_in_all_bits(dtype, path):
    """Each plan splits sums, some into parts too, and is compared with one that does not.

    Without FpSan the two differ: were they one plan, equal bits would prove nothing.
    """
    case = Case("steps", dtype, 80, 33, T=2)
    plain, found = (
        pool.pool().submit(fpsan.differing, case, ("no split", path), sanitized).result()
        for sanitized in (False, True)
    )
    assert plain["dx"] > 0
    assert {"y", "h_n", "c_n", "dx", "dh0", "dc0"} < found.keys()
    assert found == dict.fromkeys(found, 0)
