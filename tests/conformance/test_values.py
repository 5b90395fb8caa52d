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
# Each cell of bench/zoo.py that no list has.
ZOO = [Case(f"zoo.{n}", B=5, H=20, rows="lengths") for n in zoo.ALL if f"zoo.{n}" not in HAS]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    lists, first, one = (metafunc.config.getoption(name) for name in ("lists", "first", "case"))
    every = [*LARGE, *EMPTY, *ZOO, *cases(lists, first), *interpreted(lists, first)]
    if one is not None:
        every = [eval(one, {"Case": Case})]
    metafunc.parametrize("case", every, ids=[f"{c.engine}-{n}" for n, c in enumerate(every)])


def test_values(case):
    if WHY is not None and case.engine.startswith("native"):
        pytest.skip(f"native: {WHY}")
    check(case)
