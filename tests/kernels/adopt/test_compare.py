"""`python -m fused_lstm.compare`: a model of one's own, its errors, and the notebook of it."""

from __future__ import annotations

import importlib
import json
import os
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from cases import needs_native
from fused_lstm import compare

ROOT = Path(__file__).parents[3]
MODELS = """
import torch
from torch import nn


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.lstm = nn.LSTM(8, 16, 2, bidirectional=True, batch_first=True, dropout=0.5)
        self.cell = nn.RNNCell(32, 4)

    def forward(self, words, scale):
        y, (h, _) = self.lstm(self.embed(words))
        return {"tags": self.cell(y[:, -1]) * scale, "h": h}


def build():
    return Tagger(), {"words": torch.randint(50, (3, 7)), "scale": 2.0}

def gru():
    return nn.GRU(4, 8).to(torch.bfloat16), torch.randn(5, 2, 4, dtype=torch.bfloat16)

def nothing():
    return nn.Linear(3, 4), torch.randn(2, 3)

def double():
    return nn.LSTM(3, 4).half().to(torch.complex64), torch.randn(2, 3)

def alone():
    return nn.LSTM(3, 4)

def no_module():
    return len, 3

def fails():
    raise KeyError("weights")

def wrong():
    return nn.LSTM(3, 4), torch.randn(2, 5, 7)

class OneRow(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.norm = nn.LSTM(3, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(self.lstm(x)[0][-1])

def one_row():
    return OneRow(), torch.randn(2, 1, 3)

class Overwritten(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4)

    def forward(self, x):
        y = self.lstm(x)[0].exp()
        y.mul_(2.0)
        return y

def overwritten():
    return Overwritten(), torch.randn(2, 1, 3)

def frozen():
    return nn.LSTM(3, 4).requires_grad_(False), torch.randn(2, 1, 3)

def no_tensor():
    class Model(nn.LSTM):
        def forward(self, x):
            return "text"
    return Model(3, 4), torch.randn(2, 1, 3)
"""


@pytest.fixture
def target(tmp_path):
    (tmp_path / "my_models.py").write_text(MODELS)
    return lambda name: f"{tmp_path / 'my_models.py'}:{name}"


def run(arguments: list[str], capsys: pytest.CaptureFixture) -> tuple[int, str, str]:
    code = compare.main([*arguments, "--seconds", "0.05"])
    return code, *capsys.readouterr()


@needs_native
@pytest.mark.parametrize("name", ["build", "gru"])
def test_a_model_is_compared_and_timed(name, target, capsys):
    code, out, err = run([target(name)], capsys)
    assert (code, err) == (0, "")
    assert "outputs: equal to rounding; at most" in out
    assert "gradients: equal to rounding; at most" in out
    for line in ("inference", "training step"):
        (row,) = [text for text in out.splitlines() if text.startswith(line)]
        assert re.search(
            r"  \d+\.\d\dx \(\d+\.\d\d to \d+\.\d\d, (95%|range) of \d+ rounds\)$", row
        )
    if name == "build":
        assert "lstm  native at layers" in out
        assert "cell  " in out


@needs_native
def test_a_difference_is_found(target, capsys, monkeypatch):
    """A kernel that is wrong: the comparison says so, and fails."""
    functions = importlib.import_module("fused_lstm.adopt.install")
    right = functions.run
    monkeypatch.setattr(functions, "run", lambda *a, **k: [t * 1.01 for t in right(*a, **k)])
    code, out, _ = run([target("build")], capsys)
    assert code == 1
    assert "outputs: DIFFERENT" in out


@pytest.mark.parametrize(
    ("name", "error"),
    {
        "nothing": "model: got Linear, which has no recurrent layers; expected one with an nn.LSTM",
        "alone": "build: got LSTM; expected 2 values: the model and its inputs",
        "no_module": "build: got builtin_function_or_method as the model; expected a torch.nn",
        "fails": "build: it failed: KeyError: 'weights'",
        "missing": "expected a function 'missing' in",
    }.items(),
)
def test_an_error_is_one_line(name, error, target, capsys):
    code, out, err = run([target(name)], capsys)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("fused_lstm.compare: ")
    assert error in err


@needs_native
@pytest.mark.parametrize(
    ("name", "error"),
    {
        "wrong": "model: its forward failed: RuntimeError: input.size(-1) must be equal to input",
        "no_tensor": "build: got a model whose output has no tensor of numbers",
        "overwritten": "model: its backward failed: RuntimeError: one of the variables needed for",
    }.items(),
)
def test_an_error_of_the_model_is_one_line(name, error, target, capsys):
    code, _, err = run([target(name)], capsys)
    assert (code, err.count("\n")) == (1, 1)
    assert error in err


@needs_native
def test_a_model_that_cannot_train_on_its_input_is_compared_in_inference(target, capsys):
    code, out, err = run([target("one_row")], capsys)
    assert (code, err) == (0, "")
    assert "training step   not timed: model: its forward failed: ValueError: Expected more" in out
    assert "inference " in out
    code, out, err = run([target("frozen")], capsys)
    assert (code, err) == (0, "")
    assert "training step" not in out


@pytest.mark.parametrize(
    ("text", "error"),
    {
        "def build(:": "whose import failed: SyntaxError: invalid syntax",
        "1 / 0": "whose import failed: ZeroDivisionError: division by zero",
        "import nowhere_at_all": "cannot be imported: No module named 'nowhere_at_all'",
        "def build(x): ...": "build: it failed: TypeError: build() missing 1 required positional",
    }.items(),
)
def test_a_module_that_fails_is_one_line(text, error, tmp_path, capsys):
    (tmp_path / "failing.py").write_text(text)
    code, out, err = run([f"{tmp_path / 'failing.py'}:build"], capsys)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert error in err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "the following arguments are required: target"),
        (["a:b", "--seconds", "long"], "argument --seconds: invalid float value: 'long'"),
        (["a:b", "--seconds", "-1"], "--seconds: got -1; expected more than 0"),
        (["a:b", "--threads", "0"], "--threads: got 0; expected 1 or more"),
        (["a:b", "--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_a_bad_command_line_is_one_line(words, error, capsys):
    with pytest.raises(SystemExit) as stopped:
        compare.main(words)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"fused_lstm.compare: {error}\n"


def test_more_threads_than_cores_are_said(capsys):
    before, more = torch.get_num_threads(), 1 + (os.cpu_count() or 1)
    compare.main(["nowhere_at_all:build", "--threads", str(more)])
    torch.set_num_threads(before)
    assert f"--threads: {more} on {more - 1} cores: slow" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "error"),
    {
        "nowhere_at_all:build": "which cannot be imported: No module named 'nowhere_at_all'",
        "nowhere.py:build": "got 'nowhere.py'; expected a Python file",
        "build": "got 'build'; expected module:function, such as my_model:build",
    }.items(),
)
def test_a_target_that_is_none_is_one_line(target, error, capsys):
    code, _, err = run([target], capsys)
    assert (code, err.count("\n")) == (1, 1)
    assert error in err


def test_a_model_that_stays_torchs_says_why(monkeypatch):
    monkeypatch.setattr(compare, "explain", lambda model: {"lstm": "torch's own: it is quantized"})
    model = compare.Model(nn.LSTM(3, 4), torch.randn(2, 1, 3))
    with pytest.raises(compare.Refused, match=r"stay torch's own.*it is quantized"):
        compare.report(model, 0.05)


@needs_native
def test_the_notebook_runs(tmp_path, monkeypatch):
    """Each code cell of examples/compare.ipynb, in order, as Jupyter would run it."""
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "examples" / "compare.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    assert len(cells) >= 3
    space: dict = {"SECONDS": 0.05}
    for text in cells:
        exec(text.replace("SECONDS = 5", "SECONDS = 0.05"), space)
