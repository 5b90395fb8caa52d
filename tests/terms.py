"""float32 as sums of bfloat16 in the native engine: who has them, which switch asks."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench import kernels
from fused_lstm import native

# As in conftest.py: `make gpu` builds no C++.
WHY_NOT = "no C++ under make gpu" if "BENCH_EVENTS" in os.environ else kernels.missing()
of_terms = [  # the pytestmark of a file
    pytest.mark.skipif(WHY_NOT is not None, reason=f"native: {WHY_NOT}"),
    pytest.mark.usefixtures("restored"),
]
ISAS = native.OPS.isa_names() if WHY_NOT is None else []
UNITS = [isa for isa in ISAS if isa in ("amx", "emulated")]
TERMS = {"tf32": 2, "bf16": 1}  # what a switch reads -> bfloat16 terms of a factor
RNN, MATMUL = torch.backends.mkldnn.rnn, torch.backends.mkldnn.matmul


def set_switches(switch: str) -> None:
    RNN.fp32_precision = MATMUL.fp32_precision = switch


def by_fma(function: Callable):
    """What it gives with both switches at "ieee"; they stay as they are."""
    before = RNN.fp32_precision, MATMUL.fp32_precision
    try:
        set_switches("ieee")
        return function()
    finally:
        RNN.fp32_precision, MATMUL.fp32_precision = before


def check(found: dict[str, Tensor], exact: dict[str, Tensor], most: float) -> None:
    """Each result within `most`, of 1 where the right values are smaller."""
    assert found.keys() == exact.keys()
    for name, value in exact.items():
        assert found[name].shape == value.shape
        size = max(value.double().norm().item(), value.numel() ** 0.5)
        wrong = (found[name].double() - value).norm().item()
        assert wrong <= most * size, f"{name}: {wrong / size:.1e}"
