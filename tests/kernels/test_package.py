"""What is installed: one version, typed, and whether the C++ engine must be in it."""

from __future__ import annotations

import inspect
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
from torch._inductor.runtime.cache_dir_utils import cache_dir

import fresh
import fused_lstm
import lm.model

ROOT = Path(__file__).parents[2]
PACKAGE = Path(fused_lstm.__file__).parent


def setup_py(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "setup.py", *arguments]
    environment = os.environ | environment
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_the_version_has_one_source():
    ran = setup_py("--version")
    assert ran.stdout.splitlines()[-1] == fused_lstm.__version__, ran.stderr
    assert f'"{fused_lstm.__version__}"' not in (ROOT / "pyproject.toml").read_text()


def test_type_checkers_may_read_the_package():
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.parametrize("required", ["0", "1"])
def test_a_failed_build_is_an_error_where_native_is_required(tmp_path, required):
    ran = setup_py(
        "build_ext", f"--build-lib={tmp_path}", f"--build-temp={tmp_path}",
        CXX="false", FUSED_LSTM_REQUIRE_NATIVE=required,
    )  # fmt: skip
    assert (ran.returncode != 0) == (required == "1"), ran.stderr
    assert ("native engine not built" in ran.stderr) == (required == "0")


@pytest.mark.parametrize("required", [None, "", "0", "1"])
def test_so_is_a_torch_that_is_missing(monkeypatch, capsys, required):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delenv("FUSED_LSTM_REQUIRE_NATIVE", raising=False)
    if required is not None:
        monkeypatch.setenv("FUSED_LSTM_REQUIRE_NATIVE", required)
    arguments = runpy.run_path(str(PACKAGE / "native" / "build.py"))["setup_arguments"]
    if required == "1":
        with pytest.raises(SystemExit, match="native engine not built, and FUSED_LSTM_REQUIRE"):
            arguments()
    else:
        assert arguments() == {}
        assert "native engine not built" in capsys.readouterr().err


def test_the_build_on_windows(tmp_path, monkeypatch):
    """Return what ninja would run there: clang-cl, whose flags are Visual Studio's."""
    build = runpy.run_path(str(PACKAGE / "native" / "build.py"))
    ran = []
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(shutil, "which", lambda name, path=None: name)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: ran.append(command[0]))
    monkeypatch.delenv("CXX", raising=False)
    arguments = [PACKAGE / "native" / "plan.cpp"], tmp_path, tmp_path / "a.dll", Path("C:/torch")
    build["compile_all"](*arguments)
    text = (tmp_path / "build.ninja").read_text()
    assert ran == ["ninja"]
    assert "cxx = clang-cl" in text
    assert "/std:c++20" in text
    assert "torch_cpu.lib" in text
    assert not re.search(r"-fPIC|-shared|fopenmp|\.so", text)
    assert build["escaped"]("C:/a b") == "C$:/a$ b"


def test_the_source_distribution_has_all_that_a_build_needs(tmp_path):
    ours = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels", ignore=ours)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    needed = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    subprocess.run([sys.executable, "setup.py", "-q", "sdist"], cwd=tmp_path, check=True)
    (archive,) = (tmp_path / "dist").iterdir()
    with tarfile.open(archive) as source:
        packed = {Path(*Path(name).parts[1:]) for name in source.getnames()}
    assert needed <= packed, needed - packed


def test_compiled_code_of_earlier_runs_is_out_of_sight():
    """A cache file that a killed compile had cut short once made a test fail."""
    triton = pytest.importorskip("triton")
    folders = Path(cache_dir()), Path(triton.knobs.cache.dir)
    assert [folder.name for folder in folders] == ["inductor", "triton"]
    for folder in folders:
        assert folder.parent.name.startswith("fused-lstm-tests-")


def public_functions() -> list:
    """Of fused_lstm and lm.model, with each class's public methods and its constructor."""
    found = []
    for module in (fused_lstm, fused_lstm.reference, lm.model):
        names = getattr(module, "__all__", None) or vars(module)
        for own in (getattr(module, name) for name in names):
            if inspect.isclass(own) and own.__module__.startswith(("fused_lstm", "lm")):
                methods = (m for n, m in vars(own).items() if n == "__init__" or n[0] != "_")
                found += [inspect.unwrap(m) for m in methods if inspect.isfunction(m)]
            elif inspect.isfunction(own):
                found.append(own)
    return list(dict.fromkeys(f for f in found if f.__module__.startswith(("fused_lstm", "lm"))))


@pytest.mark.parametrize("function", public_functions(), ids=lambda f: f.__qualname__)
def test_a_public_signature_is_typed(function):
    """`make lint` checks what it says; what has no types it passes over."""
    signature = inspect.signature(function)
    without = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
    assert without in ([], ["self"])
    assert signature.return_annotation is not signature.empty


def test_the_api_reference_has_every_public_name():
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert set(fused_lstm.__all__) - {"__version__", "ENGINES"} == set(headings)


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize("has_torch", [True, False])
def test_a_wheel_is_built_with_the_pytorch_that_is_there(tmp_path, has_torch):
    """No second environment, which would download PyTorch again, unless there is none."""
    python = sys.executable if has_torch else "false"
    command = ["make", "-n", "wheel", f"VENV={tmp_path / 'none'}", f"PYTHON={python}"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (f"{python} -m pip wheel" in ran.stdout) == has_torch
    assert ("-m venv" in ran.stdout) != has_torch
    assert "compiling the C++ engine" in ran.stdout  # said before the minutes


def test_the_conda_recipe_has_the_packages_version_and_needs():
    """examples/conda/recipe.yaml and pyproject.toml; conda calls torch pytorch."""
    recipe = (ROOT / "examples" / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    assert f'version: "{fused_lstm.__version__}"' in recipe
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    run = re.search(r"^  run:\n(.*?)^  run_constraints:", recipe, re.DOTALL | re.MULTILINE)[1]
    needs = {*re.findall(r"- ([a-z]+(?: >=[\d.]+)?)$", run, re.MULTILINE)}
    wanted = {f"python {project['project']['requires-python']}"}
    for text in project["project"]["dependencies"]:
        name, version = re.match(r"([a-z]+)(>=[\d.]+)?", text).groups()
        wanted.add(f"{'pytorch' if name == 'torch' else name} {version or ''}".strip())
    assert needs == wanted
    host = re.search(r"^  host:\n(.*?)^  run:", recipe, re.DOTALL | re.MULTILINE)[1]
    for text in project["build-system"]["requires"]:
        name, version = re.match(r"([a-z]+)(>=[\d.]+)?", text).groups()
        assert f"- {'pytorch' if name == 'torch' else name} {version or ''}".strip() in host


def test_it_runs_without_triton():
    """Nothing but engine `triton` needs it, which says what to install."""
    script = """
import sys
sys.modules["triton"] = None  # an import fails, as where it is not installed
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "triton" else find(name, *more)
import torch, fused_lstm
x = torch.randn(4, 2, 3)
fused_lstm.LSTM(3, 4)(x)[0].sum().backward()
fused_lstm.fuse(torch.nn.GRUCell(3, 4))(x, torch.zeros(2, 4))
with fused_lstm.install():
    torch.nn.LSTM(3, 4)(x)
try:
    fused_lstm.LSTM(3, 4, engine="triton")(x)
except RuntimeError as error:
    print(error)
"""
    assert "pip install 'triton>=3.6' (Linux only)" in fresh.python(script)


def test_to_define_a_cell_imports_no_compiler():
    """TorchDynamo takes two seconds, which each process with a cell would pay."""
    fresh.python("import sys, fused_lstm.zoo; assert 'torch._dynamo' not in sys.modules")
