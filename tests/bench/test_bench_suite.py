"""The suite and the ladder as they are run: what they collect, refuse, write and print."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import conftest
from bench.__main__ import main
from bench.alone import Shape
from bench.contenders import BASE, engines
from bench.measure.counts import Counts
from bench.topics import ladder

ROOT = Path(__file__).parents[2]
# A plugin that the suite's process loads: small shapes, and an engine that is wrong.
PLUGIN = """
from types import SimpleNamespace
from bench import alone
from fused_lstm import cudnn
from fused_lstm.engines import ENGINES, LOADED, Engine

for size in alone.SIZES:
    alone.SIZES[size] = alone.Shape(3, 2, 5, 7, 2)

def lstm(*arguments):
    y, h, c = cudnn.run(*arguments)
    return y * 1.01, h, c

ENGINES["wrong"] = Engine("nowhere", (), {"lstm": ()})
LOADED["wrong"] = SimpleNamespace(missing=lambda device: None, describe=str, run=lstm)
"""


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    (folder / "small_and_wrong.py").write_text(PLUGIN)
    path = os.pathsep.join([str(folder), str(ROOT), str(ROOT / "kernels")])
    # Under pytest-xdist, as in `make test`, pytest-benchmark would refuse to time.
    outside = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "small_and_wrong", "-p", "no:cacheprovider",
         *arguments],
        cwd=ROOT, env=outside | {"PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip


def test_plain_pytest_times_nothing(tmp_path):
    done = pytest_in(tmp_path, "--collect-only", "-q", "bench")
    assert "bench_lstm" not in done.stdout
    assert "no tests" in done.stdout


def test_the_users_command_collects_the_suite_and_no_test(tmp_path):
    done = pytest_in(tmp_path, "--benchmark-only", "--collect-only", "-q")
    assert done.returncode == 0, done.stderr
    for name in ("bench_lstm", "bench_train", "bench_scaling", "bench_lanes"):
        assert f"bench/{name}.py::" in done.stdout
    assert "tests/" not in done.stdout


def test_a_default_run_has_few_lanes_and_the_file_by_name_has_all():
    module = SimpleNamespace(__file__="bench/bench_lanes.py", POINTS=[1, 2, 3], FEW=[1])

    def points(*words, engines=None):
        asked = SimpleNamespace(args=words)
        config = SimpleNamespace(invocation_params=asked, getoption={"engines": engines}.get)
        return conftest._points(config, module)

    assert points("--benchmark-only") == points("bench", "--engines=native") == [1]
    assert points("bench/bench_lanes.py") == points(engines="all") == [1, 2, 3]
    del module.FEW
    assert points("--benchmark-only") == [1, 2, 3]


def test_a_wrong_kernel_is_refused_and_leaves_no_time(tmp_path):
    file = tmp_path / "run.json"
    done = pytest_in(
        tmp_path, "--benchmark-only", "bench/bench_lstm.py", "--sizes=small", "--seconds=0.01",
        "--engines=loop,cudnn,triton,wrong", "--device=cpu", f"--benchmark-json={file}", "-rs",
    )  # fmt: skip
    assert done.returncode == 1
    assert "refused: wrong: inference differs from the reference's by 0.01" in done.stdout
    assert "triton-pointwise: Triton's interpreter verifies and does not race" in done.stdout
    run = json.loads(file.read_text())
    labels = {bench["extra_info"]["label"] for bench in run["benchmarks"]}
    assert labels == {"loop-none", "cudnn"}
    check_facts(run)


def check_facts(run: dict) -> None:
    """Everything that a reader of the file needs is in it."""
    machine = run["machine_info"]["fused_lstm"]
    assert machine["threads"] >= 1
    assert machine["product_peak_gflops"] > 1
    assert machine["copy_bandwidth_gb_per_second"] > 0.1
    assert "torch" in machine["libraries"]
    assert "node" not in run["machine_info"]
    assert "triton-pointwise" in run["not_measured"]
    modes = {bench["extra_info"]["mode"] for bench in run["benchmarks"]}
    assert modes == {"inference", "forward", "backward", "step"}
    for bench in run["benchmarks"]:
        info = bench["extra_info"]
        assert bench["stats"]["rounds"] >= 3
        assert info["tokens_per_second"] == pytest.approx(6 / bench["stats"]["median"])
        assert info["launches"] > 0
        assert info["bytes"] > 0
        assert info["peak_memory"] > 0
        assert info["max_error"] < 1e-5
        assert info["gflops"] > 0
        assert info["percent_of_product_peak"] > 0
        assert info["percent_of_copy_bandwidth"] > 0
        if info["label"] == BASE:
            assert info["speedup_over_nn_lstm"] == 1


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--engines=cudn", "--engines: got 'cudn', should be of"),
        pytest.param(
            "--sizes=huge",
            "--sizes: got 'huge', should be of small, medium, large",
            marks=pytest.mark.slow,
        ),
        ("--device=toaster", "--device toaster: "),
    ],
    ids=["engine", "size", "device"],
)
def test_bad_options_are_one_line(option, says, tmp_path):
    done = pytest_in(tmp_path, "--benchmark-only", "bench/bench_lstm.py", option)
    assert done.returncode != 0
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


# --- the ladder ---


def test_the_ladder_runs_and_answers(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(ladder.PRESETS, "small", Shape(3, 2, 5, 7, 2))
    file = tmp_path / "ladder.json"
    options = ["--seconds", "0.01", "--device", "cpu", "--threads", "1", f"--json={file}"]
    assert main(["ladder", *options]) == 0
    measured = json.loads(file.read_text())["measured"]
    said = capsys.readouterr().out
    labels = [c.label for c in ladder.rungs_on(ladder.torch.device("cpu"))]
    assert labels[0] == "loop-none"
    assert labels[-1] == BASE
    assert [row["label"] for row in measured] == labels
    for label in labels:
        assert re.search(rf"^{label} +\d", said, re.MULTILINE), label
    assert re.search(r"^nn\.LSTM is \d+\.\d\dx as fast as the step loop here; ", said, re.MULTILINE)


def made_up(label: str, milliseconds: float) -> ladder.Rung:
    contender = next(c for c in engines() if c.label == label)
    sample = [milliseconds / 1000] * 3
    counts = Counts(7, 10**6, 10**6, {"products": 3.0, "overhead": 3.0})
    return ladder.Rung(contender, sample, counts)


def test_the_sentence_has_each_fusions_gain():
    times = {"loop-none": 16, "native-pointwise": 8, "native-steps": 4, "native-layers": 2}
    rungs = [made_up(label, ms) for label, ms in (times | {"cudnn": 3}).items()]
    assert ladder.sentence(rungs) == (
        "nn.LSTM is 5.33x as fast as the step loop here; fused one after the other,"
        " pointwise 2.00x, steps 2.00x, layers 2.00x, the loop becomes 8.00x as fast,"
        " which is 1.50x nn.LSTM's speed."
    )
    assert "50%" in ladder.table(rungs)
    assert "no engine of this project's own runs here" in ladder.sentence([rungs[0], rungs[-1]])
