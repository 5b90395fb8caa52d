"""Any options together against nn.LSTM in float64: values and gradients, as hypothesis draws them.

A hundred in the suite. `make fuzz` draws EXAMPLES of them for each engine and a tenth of that in
Triton's interpreter; it prints its seed, and SEED=... draws the same again.
"""

from __future__ import annotations

import os

import pytest

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

import fused_lstm  # noqa: E402
from fused_lstm import choose  # noqa: E402
from lanes import KINDS, Case, check  # noqa: E402

EXAMPLES = int(os.environ.get("EXAMPLES", "48"))
RUNS = {"loop": EXAMPLES, "native": EXAMPLES, "triton": max(1, EXAMPLES // 10)}


@st.composite
def cases(draw, most: int) -> Case:
    """Sizes up to `most`; odd ones, ones, and more hidden units than a vector has now and then."""
    H = draw(st.integers(1, most))
    return Case(
        kind=draw(st.sampled_from(KINDS)),
        T=draw(st.integers(1, most)),
        B=draw(st.integers(1, most)),
        I=draw(st.integers(1, most)),
        H=H,
        L=draw(st.integers(1, 3)),
        bias=draw(st.booleans()),
        batch_first=draw(st.booleans()),
        bidirectional=draw(st.booleans()),
        proj_size=draw(st.integers(0, H - 1)),
        state=draw(st.booleans()),
        resets=draw(st.booleans()),
        seed=draw(st.integers(0, 2**31)),
    )


@pytest.mark.parametrize("engine", RUNS)
def test_any_options_together(engine):
    if (why := fused_lstm.available_engines("cpu")[engine]) is not None:
        pytest.skip(f"{engine}: {why}")
    levels = choose.ENGINES[engine].fuses

    @settings(
        max_examples=RUNS[engine], deadline=None, database=None, print_blob=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(cases(4 if engine == "triton" else 20), st.sampled_from(levels))
    def agrees(case, fuse):
        check(case, engine, fuse)

    agrees()
