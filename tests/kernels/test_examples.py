"""The code in docs/ runs, and the worked examples learn what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def run(page: str) -> dict:
    """Run a page's Python; return its names."""
    names = {}
    for code in re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S):
        exec(compile(code, page, "exec"), names)
    return names


@pytest.mark.filterwarnings("ignore:engine='auto' takes nn.LSTM")
def test_the_tagger_learns():
    assert run("tagger.md")["accuracy"] > 0.9


@pytest.mark.filterwarnings("ignore:engine='auto' takes nn.LSTM")
def test_the_policy_remembers():
    assert run("policy.md")["recalled"] > 0.8


@pytest.mark.filterwarnings(
    "ignore:engine='auto' takes nn.LSTM", "ignore:.*torch.jit.* is deprecated"
)
def test_the_page_on_deployment():
    run("deploy.md")
