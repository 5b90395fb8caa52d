"""What the tests of topics get: presets that take milliseconds."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bench import training
from bench.topics import native, scaling, short
from topic import TINY


@pytest.fixture
def tiny(monkeypatch):
    """The presets take milliseconds; one thread, for two would wait for a busy machine."""
    torch.set_num_threads(1)
    T, B, _, H, L = TINY
    sizes = {"num_steps": T, "batch_size": B, "hidden_size": H, "num_layers": L, "keep_prob": 0.5}
    config = dataclasses.replace(training.PRESETS["small"], **sizes)
    for size in native.PRESETS:
        monkeypatch.setitem(training.PRESETS, size, config)
        monkeypatch.setitem(native.PRESETS, size, TINY)
    monkeypatch.setattr(training, "VOCABULARY", 40)
    monkeypatch.setattr(scaling, "START", TINY)
    monkeypatch.setattr(scaling, "AXES", {"T": (1, 5), "H": (4,)})
    monkeypatch.setattr(short, "PEERS", ())
