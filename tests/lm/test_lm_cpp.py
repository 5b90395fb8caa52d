"""The example in C++: a model compiled by AOTInductor, run from Python and from C++."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fused_lstm
from fused_lstm import native
from lm.model import LM_LSTM
from tolerance import assert_close

CPP = Path(__file__).parents[2] / "examples" / "cpp"
MISSING = native.missing(torch.device("cpu"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(MISSING is not None, reason=f"native: {MISSING}"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="AOTInductor needs a C++ compiler"),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[LM_LSTM, Path]:
    """A model of random weights, and the folder that the C++ program reads."""
    spec = importlib.util.spec_from_file_location("export", CPP / "export.py")
    assert spec is not None
    assert spec.loader is not None
    export = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(export)
    torch.manual_seed(0)
    model, folder = (
        LM_LSTM(24, 5, 2, 50, 2, 1.0, lstm="native").eval(),
        tmp_path_factory.mktemp("cpp"),
    )
    export.compile_model(model, folder / "model.pt2")
    (folder / "vocabulary.txt").write_text("".join(f"w{n}\n" for n in range(50)))
    return model, folder


@pytest.mark.parametrize(("T", "B"), [(1, 1), (7, 3), (2, 5)])
def test_a_compiled_model_is_eager_for_any_steps_and_rows(exported, T, B):
    model, folder = exported
    compiled = torch._inductor.aoti_load_package(str(folder / "model.pt2"))
    inputs, state = torch.randint(50, (T, B)), tuple(torch.randn(2, 2, B, 24))
    with torch.no_grad():
        logits, last = model(inputs, state)
    found, found_last = compiled(inputs, state)
    for name, a, b in zip(("logits", "h", "c"), (found, *found_last), (logits, *last), strict=True):
        assert_close(a, b, name)


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the example is built on Linux")
def test_the_program_generates_text(exported, tmp_path):
    _, folder = exported
    where = str(Path(fused_lstm.__file__).parents[1])
    run = {"check": True, "capture_output": True, "text": True, "env": {"PYTHONPATH": where}}
    run["env"] |= {"PATH": "/usr/local/bin:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    python = f"-DPython3_EXECUTABLE={sys.executable}"
    subprocess.run(["cmake", "-S", str(CPP), "-B", str(tmp_path), python], **run)
    subprocess.run(["cmake", "--build", str(tmp_path)], **run)
    program = str(tmp_path / "generate")
    text, rate = subprocess.run([program, str(folder), "w1 w2", "30"], **run).stdout.splitlines()
    words = text.split()
    assert words[:2] == ["w1", "w2"]
    assert len(words) == 32
    assert {word[0] for word in words} == {"w"}
    assert float(rate.split()[0]) > 0
    wrong = subprocess.run([program, str(folder), "none"], **run | {"check": False})
    assert wrong.returncode == 1
    assert "expected known words" in wrong.stderr
