"""What the tests of bfloat16 terms get: who has them, how many, and the switches as they were."""

from __future__ import annotations

import pytest
import torch

from fused_lstm import native
from terms import MATMUL, RNN, TERMS, UNITS, set_switches


@pytest.fixture
def restored():
    """PyTorch's switches and the engine's instruction set, afterwards."""
    before = RNN.fp32_precision, MATMUL.fp32_precision
    word = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(word)
    RNN.fp32_precision, MATMUL.fp32_precision = before
    native.OPS.use_isa("")


@pytest.fixture(params=UNITS)
def unit(request, restored) -> str:
    native.OPS.use_isa(request.param)
    return request.param


@pytest.fixture(params=TERMS)
def terms(request, unit) -> int:
    """How many; both switches ask for them."""
    set_switches(request.param)
    return TERMS[request.param]
