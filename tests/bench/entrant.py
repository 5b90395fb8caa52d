"""An engine of one test's own, which enters the table for as long as the test runs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from fused_lstm.engines import ENGINES, LOADED, Engine


def enter(monkeypatch: pytest.MonkeyPatch, name: str, lstm: Callable) -> None:
    module = SimpleNamespace(missing=lambda device: None, describe=str, run=lstm)
    monkeypatch.setitem(ENGINES, name, Engine("nowhere", (), {"lstm": ()}))
    monkeypatch.setitem(LOADED, name, module)
