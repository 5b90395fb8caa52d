"""Our wheel in bare environments, where nobody can compile, beside Hugging Face's `kernels`.

    python .ci/wheel_test.py dist/*.whl                      # this Python and its torch
    python .ci/wheel_test.py dist/*.whl --python python3.11 python3.13 --torch 2.11 newest
    python .ci/wheel_test.py --installed                     # what is installed here

Without --torch nothing is installed but the wheel: the bare environment finds torch where this
Python does. Otherwise each --python gets each --torch, in build/wheel-test, and keeps it for the
next run. `kernels`, and such a torch, come from PyPI.

Without --torch, two examples follow: examples/hub, a build that `kernels` loads, and examples/cpp,
whose program has the wheel, torch and a compiler (cmake comes from PyPI).
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "kernels" / "fused_lstm"
BUILD = ROOT / "build" / "wheel-test"
OLDEST_GLIBC = 2, 28  # of PyTorch's wheels

RUN_A_MODEL = """
import importlib.metadata, platform, shutil, sys, torch, fused_lstm
from fused_lstm import native
from pathlib import Path

assert fused_lstm.__file__.startswith(sys.prefix), fused_lstm.__file__
assert fused_lstm.__version__ == importlib.metadata.version("fused-lstm")
why = fused_lstm.available_engines("cpu")["native"]
assert why is None, why

def near(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)

x = torch.randn(5, 2, 3)
ours, theirs = fused_lstm.LSTM(3, 4, 2, bidirectional=True), torch.nn.LSTM(3, 4, 2, bidirectional=True)
theirs.load_state_dict(ours.state_dict())
compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)  # whose products are no code
for run in ours, compiled:
    for _ in range(2):
        losses = []
        for module, call in (ours, run), (theirs, theirs):
            y, (h, c) = call(x)
            loss = y.square().sum() + h.sum() + c.sum()
            optimizer = torch.optim.SGD(module.parameters(), 0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        near(*losses)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            near(a, b)
try:
    fused_lstm.dropout(torch.ones(3, dtype=torch.int64))
except ValueError as error:
    assert str(error).startswith("x: got dtype Long"), error
else:
    raise AssertionError("integers were dropped")
maps = Path("/proc/self/maps")
if maps.exists():
    openmp = {line.split()[-1] for line in maps.read_text().splitlines() if "libgomp" in line}
    assert len(openmp) <= 1, openmp
print(f"Python {platform.python_version()}, torch {torch.__version__}:", native.describe(torch.device("cpu")))
"""  # noqa: E501

CANNOT_COMPILE = """
import shutil
found = [name for name in ("cc", "c++", "gcc", "g++", "clang", "clang++") if shutil.which(name)]
assert not found, found
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
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("wheel", nargs="?", type=Path)
    parser.add_argument("--installed", action="store_true", help="test what is installed here")
    parser.add_argument("--python", nargs="+", default=[sys.executable])
    parser.add_argument("--torch", nargs="+", help="versions such as 2.11, or newest")
    options = parser.parse_args()
    if options.installed:
        return exec(RUN_A_MODEL, {"__name__": "__main__"})
    if options.wheel is None:
        parser.error("wheel: got none, should be a file, or --installed")
    check_contents(options.wheel)
    for python in options.python:
        for torch in options.torch or [None]:
            bare = environment(python, torch)
            test(options.wheel.resolve(), bare)
            if torch is None and sys.platform == "linux":
                try_hub(bare)
                try_cpp(options.wheel.resolve(), bare)
    print(f"wheel-test: {options.wheel.name} and kernels leave each other whole")


def check_contents(wheel: Path) -> None:
    """The package's files, all of them, its library and nothing else, for any Python.

    On Linux for any system that PyTorch's own wheels are for.
    """
    assert re.search(r"-py3-none-(?!any)", wheel.name), wheel.name
    for major, minor in re.findall(r"manylinux_(\d+)_(\d+)_", wheel.name):
        glibc = int(major), int(minor)
        assert glibc <= OLDEST_GLIBC, f"wheel: got {wheel.name}; expected manylinux_2_28 or older"
    names = {Path(n) for n in zipfile.ZipFile(wheel).namelist() if not n.endswith("/")}
    packaged = {name for name in names if not name.parts[0].endswith(".dist-info")}
    expected = {
        path.relative_to(SOURCES.parent)
        for path in SOURCES.rglob("*")
        if path.suffix in (".py", ".cpp", ".h", ".txt", ".typed")
    }
    assert packaged - expected == {Path("fused_lstm/native/_native.so")}, packaged - expected
    assert packaged > expected, expected - packaged


def environment(name: str, torch: str | None) -> Path:
    """The Python of a bare environment: with a torch of its own, or with the one found here."""
    folder = BUILD / f"{Path(name).name}-torch-{torch or 'here'}"
    python = folder / "bin" / "python"
    if torch is None or not python.exists():
        subprocess.run([name, "-m", "venv", "--clear", folder], check=True)
    if torch is not None:
        pip(python, "install", "numpy", "torch" if torch == "newest" else f"torch=={torch}.*")
        return python
    where = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    # A path in a .pth file: what that folder's own .pth files would add is not added.
    borrowed = run(Path(name), "-c", "import torch; print(torch.__path__[0])").strip()
    (Path(where.strip()) / "borrowed.pth").write_text(f"{Path(borrowed).parent}\n")
    return python


def test(wheel: Path, python: Path) -> None:
    pip(python, "install", "kernels")
    # --no-deps: torch is there; --force-reinstall: so is an earlier fused-lstm, perhaps.
    ours = ("install", "--no-deps", "--force-reinstall", str(wheel))
    pip(python, *ours)
    check(python, {"kernels": RUN_KERNELS, "fused-lstm": RUN_A_MODEL})
    pip(python, "uninstall", "--yes", "kernels")
    check(python, {"fused-lstm": RUN_A_MODEL})
    pip(python, "install", "kernels")
    pip(python, "uninstall", "--yes", "fused-lstm")
    check(python, {"kernels": RUN_KERNELS})


def try_hub(python: Path) -> None:
    """Build a repository for `kernels`, and let a model's layers run it, without a network.

    `kernels` refuses a build of which a file was changed, added or removed afterwards.
    """
    hub, folder = ROOT / "examples" / "hub", BUILD / "hub"
    shutil.rmtree(folder, ignore_errors=True)
    run(python, str(hub / "build.py"), str(folder))
    example = str(hub / "example.py"), str(folder)
    print(run(python, *example, cwd=BUILD), end="", flush=True)
    build = folder / "build" / "torch-universal"
    layers, more = build / "hub_layers.py", build / "more.py"
    whole = layers.read_bytes()
    for damage, error in (
        (lambda: layers.write_bytes(whole + b"\n"), "File hash mismatch for hub_layers.py"),
        (layers.unlink, "Missing file: hub_layers.py"),
        (lambda: (layers.write_bytes(whole), more.write_text("")), "Unknown file: more.py"),
    ):
        damage()
        ran = subprocess.run([python, *example], cwd=BUILD, capture_output=True, text=True)
        assert ran.returncode == 1, ran
        assert "example.py: Kernel 'fused-lstm' variant 'torch-universal': " in ran.stderr, ran
        assert error in ran.stderr, ran
        assert "Traceback" not in ran.stderr, ran
    more.unlink()
    run(python, *example, cwd=BUILD)
    print("examples/hub: a build of which a file was changed, added or removed is refused")


def try_cpp(wheel: Path, python: Path) -> None:
    """Train a language model and export it; the C++ program generates the same text from both."""
    pip(python, "install", "--no-deps", "--force-reinstall", str(wheel))
    pip(python, "install", "cmake")
    folder = BUILD / "cpp"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for split, lines in {"train": 60, "valid": 5, "test": 5}.items():
        (folder / f"{split}.txt").write_text("the cat sat on a mat and slept\n" * lines)
    size = "--hidden-size=24", "--max-steps=20", "--preset=small", "--lstm=native"
    lm = ("-m", "lm.train", f"--data={folder}", f"--save={folder / 'run'}", *size)
    run(python, *lm, cwd=ROOT)
    for name, *options in ("lm.pt",), ("lm.pt2", "--compile"):
        export = "lm.export", str(folder / "run"), f"--output={folder / name}", *options
        run(python, "-m", *export, cwd=ROOT)
    cmake, build = python.parent / "cmake", str(folder / "build")
    source = str(ROOT / "examples" / "cpp")
    run(cmake, "-S", source, "-B", build, f"-DPython3_EXECUTABLE={python}")
    run(cmake, "--build", build)
    said = []
    for name in "lm.pt", "lm.pt2":
        program = Path(build) / "generate"
        text, rate = run(program, str(folder / name), "the cat", "50").splitlines()
        assert len(text.split()) == 52, text
        said.append(text)
        print(f"examples/cpp: {name}: {rate}", flush=True)
    assert said[0] == said[1], said


def check(python: Path, programs: dict[str, str]) -> None:
    """Each distribution is whole and its program runs, outside of the checkout and bare."""
    nothing = BUILD / "nothing"
    nothing.mkdir(exist_ok=True)
    for name, program in programs.items():
        run(python, "-c", IS_WHOLE, name, cwd=nothing)
        said = run(python, "-c", CANNOT_COMPILE + program, cwd=nothing, path=nothing)
        print(said, end="", flush=True)


def pip(python: Path, *arguments: str) -> None:
    run(python, "-m", "pip", "--disable-pip-version-check", *arguments)


def run(python: Path, *arguments: str, cwd: Path | None = None, path: Path | None = None) -> str:
    """A program's output; where it fails all that it printed is shown. No PYTHONPATH reaches it."""
    search = [f"PATH={path}"] if path else []
    command = ["env", "-u", "PYTHONPATH", *search, str(python), *arguments]
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if ran.returncode != 0:
        sys.exit(f"wheel-test: {python} {' '.join(arguments)}\n{ran.stdout}{ran.stderr}")
    return ran.stdout


if __name__ == "__main__":
    main()
