"""The code in docs/ runs, and the worked examples learn what they say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

import fused_lstm
from fused_lstm.adopt.install import is_installed

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def run(page: str, folder: Path = DOCS) -> dict:
    """Run a page's Python; return its names."""
    names = {}
    for code in re.findall(r"^```python\n(.*?)^```", (folder / page).read_text(), re.M | re.S):
        exec(compile(code, page, "exec"), names)
    return names


@pytest.mark.filterwarnings("ignore:engine='auto' takes nn.LSTM")
def test_the_readme():
    """All of its Python, in order; what it installs is taken out again."""
    try:
        names = run("README.md", ROOT)
        assert is_installed()
    finally:
        fused_lstm.uninstall()
    assert names["y"].shape == (35, 20, 650)
    assert type(names["model"]) is fused_lstm.GRU


def test_the_readmes_first_screen_installs():
    """Its first command makes what a user installs, and stands before anything that is measured."""
    page = (ROOT / "README.md").read_text()
    first = page.partition("<!-- table")[0]
    assert re.findall(r"^    (make \w+)", first, re.M) == ["make wheel"]
    commands = re.findall(r"^    (make [\w-]+)", page, re.M)
    assert {"make setup", "make train", "make test"} <= {*commands}
    makefile = (ROOT / "Makefile").read_text()
    for command in commands:
        assert re.search(rf"^{command.split()[1]}:", makefile, re.M)


@pytest.mark.filterwarnings("ignore:engine='auto' takes nn.LSTM")
def test_the_tagger_learns():
    assert runpy.run_path(str(ROOT / "examples" / "tagger.py"))["accuracy"] > 0.9


@pytest.mark.filterwarnings("ignore:engine='auto' takes nn.LSTM")
def test_the_policy_remembers():
    assert runpy.run_path(str(ROOT / "examples" / "policy.py"))["recalled"] > 0.8


@pytest.mark.filterwarnings(
    "ignore:engine='auto' takes nn.LSTM", "ignore:.*torch.jit.* is deprecated"
)
@pytest.mark.parametrize("page", ["models.md", "export.md", "call.md"])
def test_the_code_of_a_page(page):
    run(page)
