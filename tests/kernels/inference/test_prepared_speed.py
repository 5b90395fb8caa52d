"""A prepared layer is as fast as the layer that it replaces, at sixty drawn sizes."""

from __future__ import annotations

import copy
import random
import time

import pytest
import torch
from torch import nn

import fused_lstm
from fused_lstm import native

CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.skipif(native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"),
    pytest.mark.slow,  # it measures: other processes would take its cores
]

ROUNDS, SECONDS = 15, 2e-3  # of one round of either
LARGEST = 3e8  # multiply-adds of a call's steps: some tens of milliseconds


def drawn(count: int, seed: int = 80) -> list[tuple]:
    """Return `count` calls: kind, dtype, T, B, H, whether it has two directions."""
    draw, found = random.Random(seed), []
    while len(found) < count:
        kind, dtype = draw.choice(("LSTM", "GRU")), draw.choice((torch.float32, torch.bfloat16))
        T, B, H = (round(2 ** draw.uniform(0, most)) for most in (7, 6, 10))
        both = draw.random() < 0.3
        if H >= 8 and 4 * H * H * T * B * (1 + both) < LARGEST:
            found.append((kind, dtype, T, B, H, both))
    return found


def seconds(module: nn.Module, x: torch.Tensor, calls: int) -> float:
    """Return the time of so many calls."""
    began = time.perf_counter()
    for _ in range(calls):
        module(x)
    return time.perf_counter() - began


def slower(layer: nn.Module, prepared: nn.Module, x: torch.Tensor) -> float | None:
    """Return layer / prepared where four rounds of five say that prepared is 3% slower."""
    layer(x), prepared(x)
    calls = max(1, round(SECONDS / seconds(prepared, x, 2) * 2))
    ratios = []
    for turn in range(ROUNDS):  # who is first changes
        pair = (layer, prepared)[:: 1 if turn % 2 else -1]
        taken = {module: seconds(module, x, calls) for module in pair}
        ratios.append(taken[layer] / taken[prepared])
    ratios.sort()
    return ratios[ROUNDS // 2] if ratios[ROUNDS * 4 // 5] < 0.97 else None


@pytest.mark.xfail(reason="LSTM T=90 B=30 H=15 in float32: 0.78 on two threads", strict=False)
@torch.no_grad()
def test_prepared_is_at_most_a_little_slower():
    """A busy machine may slow one round of three of a point, and not all of them."""
    found = {}
    for kind, dtype, T, B, H, both in drawn(60):
        layer = getattr(fused_lstm, kind)(H, H, bidirectional=both).to(dtype).eval()
        prepared = fused_lstm.prepare(copy.deepcopy(layer))
        x = torch.randn(T, B, H, dtype=dtype)
        ratios = []
        while len(ratios) < 3 and (ratio := slower(layer, prepared, x)) is not None:
            ratios.append(round(ratio, 3))
        if len(ratios) == 3:
            found[f"{kind} {dtype} T={T} B={B} H={H} both={both}"] = ratios
    assert not found, f"layer / prepared, where it is below 0.97 three times: {found}"
