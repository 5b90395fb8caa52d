"""A topic of `python -m bench` as the tests run it: in this process, in milliseconds."""

from __future__ import annotations

import json

import pytest
import torch

import fused_lstm
from bench.__main__ import main
from bench.alone import Shape

WHY_NOT = fused_lstm.native.missing(torch.device("cpu"))
needs_native = pytest.mark.skipif(WHY_NOT is not None, reason=f"native: {WHY_NOT}")
TINY = Shape(3, 2, 7, 7, 2)


def no_timing(*_, **__):
    pytest.fail("it was timed all the same")


def run(topic: str, tmp_path, *options: str) -> dict:
    file = tmp_path / "new" / "found.json"
    given = ["--sizes=small", "--seconds=0.01", "--threads=1", f"--json={file}", *options]
    assert main([topic, *given]) == 0
    return json.loads(file.read_text())
