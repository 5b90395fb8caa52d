"""The kernels as AMD's compiler makes them: ahead of time, since no such GPU has run them."""

from __future__ import annotations

import json

import pytest
import torch

from fused_lstm.triton.devices import AMD
from fused_lstm.triton.launch import specialized
from test_inspect import run


@pytest.mark.slow  # `make inspect` runs it
def test_they_compile_for_every_card(tmp_path):
    """Forward and backward, persistent: with a barrier, without PTX, on the matrix units."""
    path, cards = tmp_path / "kernels.json", [*AMD]
    of = ("--device", *cards, "--hidden", "200", "--fuse", "steps", "--json", str(path))
    said = run(*of)
    reports = json.loads(path.read_text())
    assert [(r["device"], r["plan"]["direction"]) for r in reports] == [
        (card, direction) for card in cards for direction in ("forward", "backward")
    ]
    for report in reports:
        assert report["plan"]["mode"] == "persistent"
        assert report["matrix"] > 0
        assert report["shared_memory"] <= report["shared_memory_limit"]
        if report["device"] != "7900 XTX":  # gfx1100 spills a few
            assert report["spills"] == 0
    assert "matrix instructions" in said


@pytest.mark.parametrize("amd", [False, True])
def test_a_kernel_of_small_tensors_is_not_launched_on_large_ones(amd):
    """Its offsets have 32 bits there: what lies further on would be read as 0, in silence."""
    backends = pytest.importorskip("triton.backends").backends
    small, large = (torch.empty(n, device="meta", dtype=torch.uint8) for n in (64, 2**31))
    differ = specialized((small,), amd) != specialized((large,), amd)
    backend = backends["amd" if amd else "nvidia"].compiler
    asks = backend.get_tensor_specialization
    assert differ == amd == (asks(small, align=True) != asks(large, align=True))
