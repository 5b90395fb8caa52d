"""The example in C++: a model as lm.export writes it, run from Python and from C++."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fused_lstm
from fused_lstm import native
from lm import export
from lm.model import LM_LSTM
from tolerance import assert_close

CPP = Path(__file__).parents[2] / "examples" / "cpp"
MISSING = native.missing(torch.device("cpu"))
WORDS = [f"w{n}" for n in range(50)]
pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=f"native: {MISSING}"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated"),
]


@pytest.fixture(scope="module")
def model() -> LM_LSTM:
    """A model of random weights."""
    torch.manual_seed(0)
    return LM_LSTM(24, 5, 2, len(WORDS), 2, 1.0, lstm="native").eval()


@pytest.fixture(scope="module")
def package(model, tmp_path_factory) -> Path:
    """That model, compiled by AOTInductor."""
    if shutil.which("c++") is None:
        pytest.skip("AOTInductor needs a C++ compiler")
    path = tmp_path_factory.mktemp("cpp") / "lm.pt2"
    path.write_bytes(export.export_package(model, WORDS))
    return path


def check(model: LM_LSTM, exported, T: int, B: int) -> None:
    """Check the logits and states of an exported model on words [T, B]."""
    inputs, state = torch.randint(50, (T, B)), tuple(torch.randn(2, 2, B, 24))
    with torch.no_grad():
        logits, last = model(inputs, state)
        found, found_last = exported(inputs, state)
    for name, a, b in zip(("logits", "h", "c"), (found, *found_last), (logits, *last), strict=True):
        assert_close(a, b, name)


SIZES = [(1, 1), (7, 3), (2, 5)]


def test_a_trace_is_eager_for_any_steps_and_rows(model):
    """And it has in it what a program without Python needs to know."""
    names = dict.fromkeys(("layers", "h", "c", "vocabulary"), "")
    file = io.BytesIO(export.export_trace(model, WORDS))
    traced = torch.jit.load(file, _extra_files=names)
    about = {name: text.decode() for name, text in names.items()}
    assert about == {"layers": "2", "h": "24", "c": "24", "vocabulary": "\n".join(WORDS)}
    for T, B in SIZES:
        check(model, traced, T, B)


@pytest.mark.slow
def test_a_package_is_eager_for_any_steps_and_rows(model, package):
    compiled = torch._inductor.aoti_load_package(str(package))
    for T, B in SIZES:
        check(model, compiled, T, B)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the example is built on Linux")
def test_the_program_generates_text(model, package, tmp_path):
    where = str(Path(fused_lstm.__file__).parents[1])
    run = {"check": True, "capture_output": True, "text": True, "env": {"PYTHONPATH": where}}
    run["env"] |= {"PATH": "/usr/local/bin:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    python = f"-DPython3_EXECUTABLE={sys.executable}"
    subprocess.run(["cmake", "-S", str(CPP), "-B", str(tmp_path), python], **run)
    subprocess.run(["cmake", "--build", str(tmp_path)], **run)
    program, trace, said = str(tmp_path / "generate"), tmp_path / "lm.pt", []
    trace.write_bytes(export.export_trace(model, WORDS))
    for file in package, trace:
        done = subprocess.run([program, str(file), "w1 w2", "30"], **run)
        text, rate = done.stdout.splitlines()
        said.append(text.split())
        assert float(rate.split()[0]) > 0
    assert said[0] == said[1]
    assert said[0][:2] == ["w1", "w2"]
    assert len(said[0]) == 32
    assert set(said[0]) <= set(WORDS)
    wrong = subprocess.run([program, str(trace), "none"], **run | {"check": False})
    assert wrong.returncode == 1
    assert "expected known words" in wrong.stderr
