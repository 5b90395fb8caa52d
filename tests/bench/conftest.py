"""What the tests of suites get: presets that take milliseconds."""

from __future__ import annotations

import pytest
import torch

from bench import cases, training

TINY = cases.Shape(3, 2, 7, 7, 2)


@pytest.fixture
def tiny(monkeypatch):
    """The presets take milliseconds and are clipped from the first step on; one thread."""
    torch.set_num_threads(1)
    for name in ("small", "medium", "large"):
        monkeypatch.setitem(cases.CASES, name, cases.Case(name, TINY))
        monkeypatch.setitem(training.SETTINGS, name, training.Settings(0.5, 0.3, 0.5))
    monkeypatch.setattr(training, "VOCABULARY", 40)
