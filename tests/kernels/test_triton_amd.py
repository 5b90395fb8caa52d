"""The kernels as AMD's compiler makes them: ahead of time, since no such GPU has run them."""

from __future__ import annotations

import json

import pytest

from test_inspect import run

CARDS = ["MI210", "MI300X", "MI350X", "7900 XTX", "RX 9070"]


@pytest.mark.parametrize("card", CARDS)
def test_they_compile_for(card, tmp_path):
    """Forward and backward, persistent: with a barrier, without PTX, on the matrix units."""
    path = tmp_path / "kernels.json"
    of = ("--device", card, "--hidden", "200", "--fuse", "steps", "--json", str(path))
    done = run(*of)
    assert done.returncode == 0, done.stderr
    reports = json.loads(path.read_text())
    assert [r["plan"]["direction"] for r in reports] == ["forward", "backward"]
    for report in reports:
        assert report["plan"]["mode"] == "persistent"
        assert report["matrix"] > 0
        assert report["shared_memory"] <= report["shared_memory_limit"]
        if card != "7900 XTX":  # gfx1100 spills a few
            assert report["spills"] == 0
    assert "matrix instructions" in done.stdout
