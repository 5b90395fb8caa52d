"""Every pair of values of two axes: the library's values, states and gradients are the oracle's.

One case again: python -m pytest tests/conformance/test_values.py --case "Case(cell='gru', T=1)"
"""

from __future__ import annotations

import pytest
import torch
from axes import EMPTY, HAS, LARGE, cases, interpreted
from calls import check
from case import Case

from bench import zoo
from fused_lstm import native

WHY = native.missing(torch.device("cpu"))
# Each cell of bench/zoo.py that no list has, every second with --slow alone: it is what others
# are made of, in another order.
KNOWN = {*HAS, *(case.cell for case in LARGE)}
ZOO = [
    pytest.param(
        Case(f"zoo.{name}", B=5, H=20, rows="lengths"),
        marks=[] if n % 2 else pytest.mark.slow, id=name,
    )
    for n, name in enumerate(name for name in zoo.ALL if f"zoo.{name}" not in KNOWN)
]  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    lists, first, one = (metafunc.config.getoption(name) for name in ("lists", "first", "case"))
    every = [*LARGE, *EMPTY, *cases(lists, first), *interpreted(lists, first)]
    if one is not None:
        every = [eval(one, {"Case": Case})]
    named = [pytest.param(case, id=f"{case.engine}-{n}") for n, case in enumerate(every)]
    metafunc.parametrize("case", named + (ZOO if one is None else []))


def test_values(case):
    if WHY is not None and case.engine.startswith("native"):
        pytest.skip(f"native: {WHY}")
    check(case)
