"""Files that are offered to other benchmarks, run by these: clones of them on PYTHONPATH."""

from __future__ import annotations

import importlib.util
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.models


def test_backendbench_finds_every_recurrent_operator_right(capsys):
    pytest.importorskip("BackendBench", reason="needs a clone of meta-pytorch/BackendBench")
    module = runpy.run_path(str(ROOT / "examples" / "backendbench" / "recurrent.py"))
    optests, backend = list(module["RecurrentTestSuite"]), module["FusedLSTMBackend"]()
    assert len(optests) == 8  # four cells, padded rows and packed ones
    assert all(optest.op in backend for optest in optests)
    evaluate = module["eval_one_op"]
    for optest in optests:
        right, _, results, _ = evaluate(optest.op, backend[optest.op], optest.correctness_tests, [])
        assert right == 1, results
    # A backend that is wrong is found.
    optest = optests[0]
    doubled = lambda *a: tuple(2 * t for t in backend[optest.op](*a))  # noqa: E731
    assert evaluate(optest.op, doubled, optest.correctness_tests, [])[0] == 0


@pytest.mark.parametrize("mode", ["--fwd", "--bwd", "--fwd-bwd"])
def test_tritonbench_runs_the_operator(mode, tmp_path):
    spec = importlib.util.find_spec("tritonbench")
    if spec is None or spec.origin is None:
        pytest.skip("needs a clone of meta-pytorch/tritonbench")
    clone = tmp_path / "tritonbench"
    ignored = shutil.ignore_patterns(".git", "submodules")
    shutil.copytree(Path(spec.origin).parents[1], clone, ignore=ignored)
    operators = clone / "tritonbench" / "operators"
    shutil.rmtree(operators / "lstm", ignore_errors=True)
    shutil.copytree(ROOT / "examples" / "tritonbench" / "lstm", operators / "lstm")
    words = ["run.py", "--op=lstm", "--device=cpu", "--hidden-size=8", "--batch=2", "--csv"]
    words += ["--metrics=latency,speedup,accuracy", "--warmup=1", "--iter=2", "--bypass-fail"]
    words += [] if mode == "--fwd" else [mode]
    path = f"{ROOT / 'kernels'}:{clone}"
    ran = subprocess.run(
        [sys.executable, *words], cwd=clone, capture_output=True, text=True,
        env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    header, row, *_ = (line.split(";") for line in ran.stdout.splitlines() if ";" in line)
    named = dict(zip(header, row, strict=True))
    right = {name: value for name, value in named.items() if name.endswith("accuracy")}
    levels = {f"fused_lstm{level}" for level in ("", "_steps", "_hoisted", "_pointwise")}
    assert {name.removesuffix("-accuracy") for name in right} == levels
    assert set(right.values()) <= {"1.0", "1", "True"}, named
