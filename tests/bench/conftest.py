"""What the tests of suites get: presets that take milliseconds."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bench import cases, core, training
from lm.settings import PRESETS

TINY = cases.Shape(3, 2, 7, 7, 2)


@pytest.fixture
def tiny(monkeypatch):
    """The presets take milliseconds and are clipped from the first step on; one thread."""
    torch.set_num_threads(1)
    for name in ("small", "medium", "large"):
        monkeypatch.setitem(cases.CASES, name, cases.Case(name, TINY))
        quick = {"keep_prob": 0.5, "max_grad_norm": 0.3, "init_scale": 0.5}
        monkeypatch.setitem(PRESETS, name, dataclasses.replace(PRESETS[name], **quick))
    monkeypatch.setattr(training, "VOCABULARY", 40)
    monkeypatch.setattr(core, "REST", 0.0)
