"""Every pair of values of two axes: the library's values, states and gradients are the oracle's.

One case again: python -m pytest tests/conformance/test_values.py --case "Case(cell='gru', T=1)"
"""

from __future__ import annotations

import pytest
import torch
from axes import EMPTY, FAULTS, LARGE, cases, interpreted
from calls import check
from case import Case

from fused_lstm import native

WHY = native.missing(torch.device("cpu"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    lists, one = (metafunc.config.getoption(name) for name in ("lists", "case"))
    every = [*LARGE, *EMPTY, *FAULTS, *cases(lists), *interpreted(lists)]
    if one is not None:
        every = [eval(one, {"Case": Case})]
    found = []
    for n, case in enumerate(every):
        fault = FAULTS.get(case)
        marks = [] if fault is None else [pytest.mark.xfail(reason=fault, strict=True)]
        found.append(pytest.param(case, id=f"{case.engine}-{n}", marks=marks))
    metafunc.parametrize("case", found)


def test_values(case):
    if WHY is not None and case.engine.startswith("native"):
        pytest.skip(f"native: {WHY}")
    check(case)
