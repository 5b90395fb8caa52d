"""Options of the conformance tests."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--case", help="one Case, as a failing test prints it")
    parser.addoption("--lists", type=int, default=1, help="how many lists of every pair")
    parser.addoption("--first", type=int, default=0, help="the first list's number")
