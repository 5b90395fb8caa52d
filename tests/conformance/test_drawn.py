"""Drawn cells with drawn options beside a step loop in float64: values, states and all gradients.

EXAMPLES in the environment is how many cells are drawn, CALLS how many calls of each, and SEED the
first cell's number: see `make fuzz`.
"""

from __future__ import annotations

import os

import pytest
import torch
from calls import check
from drawn import drawn, drawn_case

from fused_lstm import native

WHY = native.missing(torch.device("cpu"))
EXAMPLES, CALLS = int(os.environ.get("EXAMPLES", "6")), int(os.environ.get("CALLS", "1"))
SEED = int(os.environ.get("SEED", "0"))


needs_native = pytest.mark.skipif(WHY is not None, reason=f"native: {WHY}")


@pytest.mark.parametrize("engine", [pytest.param("native", marks=needs_native), "triton"])
@pytest.mark.parametrize("call", range(CALLS))
@pytest.mark.parametrize("seed", range(SEED, SEED + EXAMPLES))
def test_drawn(seed, call, engine):
    case = drawn_case(seed, engine, call)
    cell = drawn(seed)
    if engine == "triton" and (cell.products or cell.has_sums) and case.proj:
        pytest.skip("engine 'triton' has no products or sums inside a step beside a projected h")
    try:
        check(case)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{drawn(seed).text}") from None
