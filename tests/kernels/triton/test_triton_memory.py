"""Shared memory: what a plan says beside what the compiler takes, and a kernel with too much."""

from __future__ import annotations

import json
from itertools import product

import pytest

import fresh
from fused_lstm.triton.devices import DEVICES

# Cells with products inside a step, by R h's columns and each product's; with sums over units.
PRODUCTS = ("multiplicative_lstm", "highway", "gru_reset_before", "time_lstm", "co_rnn", "lem")
SUMS = ("norm_of_c", "sums_of_states", "without_a_gate_of_h", "without_a_state")  # sum_cells.py's
BOTH = ("forward", "backward")


def python(script: str):
    """The JSON that a process of its own prints, in which Triton's interpreter is off."""
    return json.loads(fresh.python(script, TRITON_INTERPRET="0", TRITON_DEFAULT_FP_FUSION="1"))


@pytest.mark.parametrize(
    ("card", "kernels"),
    [
        pytest.param(
            "RTX 4090", [("norm_and_product", way, "bf16") for way in BOTH],
            id="RTX 4090, the tightest",
        ),
        *(
            pytest.param(
                card, list(product(PRODUCTS + SUMS, BOTH, (dtype,))), marks=pytest.mark.slow,
                id=f"{card}-{dtype}",
            )
            for card in DEVICES
            for dtype in ("bf16", "fp32")
        ),
    ],
)  # fmt: skip
def test_a_meeting_inside_a_step_takes_what_its_plan_says(tmp_path, card, kernels):
    """At the H and B where the card is tightest: 1 KiB more and the GPU would not load it."""
    call = f"{card!r}, {kernels!r}, {str(tmp_path)!r}"
    rows = python(f"import shared_memory; shared_memory.main({call})")
    assert len(rows) >= len(kernels)
    for row in rows:
        assert row["taken"] <= row["planned"] <= row["limit"], row


REFUSED = """
import json
import torch
from bench.gpu import dry
from fused_lstm.triton import forward, launch, op
from fused_lstm.triton.devices import DEVICES
from triton.compiler import compiler
from triton.runtime import driver

dry.take_over(DEVICES["H100"])
x, h0, weights = dry.zeros((2, 16, 128, 128, 1), torch.bfloat16)
found = []
with torch.no_grad():
    for limit in (227 * 1024, 22 * 1024, 1024):
        driver.active.utils.properties["max_shared_mem"] = limit
        compiler.max_shared_mem.cache_clear()
        op.plan_call.cache_clear()
        op.planned_for.cache_clear()
        forward.lstm_forward_kernel.device_caches.clear()
        dry.LAUNCHES.clear()
        error = ""
        try:
            launch.on_their_device(op.lstm)(x, h0, h0, weights, 0.0, None, "steps", True)
        except RuntimeError as refused:
            error = str(refused)
        shape = op.Shape(L=1, D=1, B=16, H=128, projected=0, P=128)
        plan = op.plan_of("steps", "forward", x.dtype, x.device, shape, norm=0, gates=4, tf32=False)
        found.append([plan.k_parts, len(dry.LAUNCHES), error])
print(json.dumps(found))
"""


def test_where_a_gpu_does_not_load_a_plan_it_has_the_next_one():
    """Sums in parts take 24,576 bytes, sums that warps share 20,480; then there is no other."""
    at_first, next_one, none = python(REFUSED)
    assert at_first == [8, 1, ""]
    assert next_one == [1, 1, ""]
    assert none[1] == 0
    assert "got a kernel with 20480 bytes of shared memory; expected at most 1024" in none[2]
