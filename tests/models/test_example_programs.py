"""The examples with other packages, examples/with_*.py, on the packages themselves."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
# A file's package, and what its main must return.
RETURNS = {
    "lightning": ("lightning", lambda loss: loss < 0.4),
    "opacus": ("opacus", lambda accuracy: accuracy > 0.75),
    "torchrl": ("torchrl", lambda difference: difference < 1e-5),
    "sb3": ("sb3_contrib", lambda took: len(took) == 2),
}
pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]  # other people's


def test_every_example_is_here():
    assert {path.stem[5:] for path in EXAMPLES.glob("with_*.py")} == set(RETURNS)


@pytest.mark.parametrize("name", RETURNS)
def test_an_example(name, monkeypatch):
    package, is_right = RETURNS[name]
    pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    returned = importlib.import_module(f"with_{name}").main()
    assert is_right(returned), returned
