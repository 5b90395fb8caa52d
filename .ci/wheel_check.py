"""Our wheel in a bare environment, beside Hugging Face's `kernels`: neither harms the other.

    python .ci/wheel_check.py

Run by a Python that has torch and what builds the C++ engine. torch is not installed again: the
bare environment finds it where this Python does. `kernels` comes from PyPI.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "kernels" / "fused_lstm"

RUN_A_MODEL = """
import importlib.metadata, sys, torch, fused_lstm
assert fused_lstm.__file__.startswith(sys.prefix), fused_lstm.__file__
assert fused_lstm.__version__ == importlib.metadata.version("fused-lstm")
x, lstm = torch.randn(5, 2, 3), fused_lstm.LSTM(3, 4, 2, engine="native")
theirs = torch.nn.LSTM(3, 4, 2)
theirs.load_state_dict(lstm.state_dict())
torch.testing.assert_close(lstm(x)[0], theirs(x)[0])
lstm(x)[0].sum().backward()
"""

RUN_KERNELS = """
import sys, kernels
assert kernels.__file__.startswith(sys.prefix), kernels.__file__
kernels.get_kernel
"""

# Whether every file of a distribution is there, as it was installed.
IS_WHOLE = """
import base64, hashlib, importlib.metadata, sys
for file in importlib.metadata.distribution(sys.argv[1]).files:
    if file.hash is not None:
        found = hashlib.new(file.hash.mode, file.locate().read_bytes()).digest()
        expected = base64.urlsafe_b64decode(file.hash.value + "=" * (-len(file.hash.value) % 4))
        assert found == expected, file
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(folder)
        check_contents(wheel)
        python = bare_environment(folder / "env")
        pip(python, "install", "kernels")
        # --no-deps: torch is borrowed; --force-reinstall: so is an editable fused-lstm, perhaps.
        ours = ("install", "--no-deps", "--force-reinstall", str(wheel))
        pip(python, *ours)
        both = {"kernels": RUN_KERNELS, "fused-lstm": RUN_A_MODEL}
        check(python, folder, both)
        pip(python, "uninstall", "--yes", "kernels")
        check(python, folder, {"fused-lstm": RUN_A_MODEL})
        pip(python, "install", "kernels")
        pip(python, "uninstall", "--yes", "fused-lstm")
        check(python, folder, {"kernels": RUN_KERNELS})
    print(f"wheel-check: {wheel.name} and kernels leave each other whole")


def build(folder: Path) -> Path:
    """The wheel, with the C++ engine or an error; what is compiled already is taken as it is."""
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)
    for left in (ROOT / "build").glob("lib.*"):  # would put modules that are gone into the wheel
        shutil.rmtree(left)
    command = ["-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-q", "-w", folder, ROOT]
    subprocess.run(
        ["env", "FUSED_LSTM_REQUIRE_NATIVE=1", sys.executable, *map(str, command)], check=True
    )
    return next(folder.glob("*.whl"))


def check_contents(wheel: Path) -> None:
    """The package's files, all of them, its engine and nothing else."""
    names = {Path(name) for name in zipfile.ZipFile(wheel).namelist()}
    packaged = {name for name in names if not name.parts[0].endswith(".dist-info")}
    expected = {
        path.relative_to(SOURCES.parent)
        for path in SOURCES.rglob("*")
        if path.suffix in (".py", ".cpp", ".h", ".typed")
    }
    [engine] = packaged - expected
    assert engine.match("fused_lstm/native/_C*"), engine
    assert packaged > expected, expected - packaged


def bare_environment(folder: Path) -> Path:
    """A Python with nothing of its own but pip, which finds torch where this one does."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    where = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    # A path in a .pth file: what that folder's own .pth files would add is not added.
    borrowed = Path(torch.__file__).parents[1]
    (Path(where.strip()) / "borrowed.pth").write_text(f"{borrowed}\n")
    return python


def check(python: Path, folder: Path, programs: dict[str, str]) -> None:
    """Each distribution is whole and its program runs, outside of the checkout."""
    for name, program in programs.items():
        run(python, "-c", IS_WHOLE, name, cwd=folder)
        run(python, "-c", program, cwd=folder)


def pip(python: Path, *arguments: str) -> None:
    run(python, "-m", "pip", "--disable-pip-version-check", *arguments)


def run(python: Path, *arguments: str, cwd: Path | None = None) -> str:
    """A program's output; where it fails all that it printed is shown. No PYTHONPATH reaches it."""
    command = ["env", "-u", "PYTHONPATH", str(python), *arguments]
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if ran.returncode != 0:
        sys.exit(f"wheel-check: {' '.join(arguments)}\n{ran.stdout}{ran.stderr}")
    return ran.stdout


if __name__ == "__main__":
    main()
