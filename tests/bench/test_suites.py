"""`python -m bench`: every suite runs, what it writes, and bad command lines."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import fused_lstm
from bench import __main__, core, samples, suites
from bench.__main__ import BUSY_MACHINE, FAILED, main
from bench.cases import Case, Shape
from bench.suites import DEFAULT, SUITES
from fused_lstm import native
from fused_lstm.call.choose import ENGINES, LOADED, Engine
from fused_lstm.engines import cudnn

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
WHY_NOT = native.missing(CPU)
needs_native = pytest.mark.skipif(WHY_NOT is not None, reason=f"native: {WHY_NOT}")
PARTS = [label for name in SUITES for label in suites.parts(name)]
# test_fusions.py, tests/models, test_parakeet.py and below
ELSEWHERE = ("fusions/levels", "packages/models", "packages/transducer", "kernelbench/forward",
    "kernelbench/both")  # fmt: skip
TINY = Shape(3, 2, 7, 7, 2)


KERNELBENCH = """
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, inputs, units):
        super().__init__()
        self.gru = nn.GRU(inputs, units, 2)

    def forward(self, x, h0):
        return self.gru(x, h0)[1]


def get_inputs():
    return [torch.rand(5, 3, 4), torch.rand(2, 3, 6)]

def get_init_inputs():
    return [4, 6]
"""


def load(file) -> list[core.Record]:
    return [core.Record.of_line(json.loads(line)) for line in file.read_text().splitlines()]


def run(tmp_path, *words: str, status: int = 0, cases=("--cases=large",)) -> list[core.Record]:
    """Run a suite in milliseconds; return its records. A busy machine is no failure here."""
    file = tmp_path / "new" / "records.jsonl"
    options = [*cases, "--quick", "--seconds=0.01", "--threads=1", f"--json={file}"]
    assert main([*words, *options]) in (status, BUSY_MACHINE if status == 0 else status)
    return load(file)


@needs_native
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # of DPLSTM's own layers
@pytest.mark.parametrize("name", [n for n in PARTS if n not in ELSEWHERE])
def test_every_part_runs_and_its_answers_are_right(name, tiny, tmp_path, capsys, monkeypatch):
    suite, _, part = name.partition("/")
    of, own = SUITES[suite].parts[part], ()
    if not callable(of.cases) and of.cases[0].cell not in ("lstm", "gru"):  # whose are their own
        few = [replace(case, shape=TINY._replace(L=1, I=8, H=8)) for case in of.cases[:2]]
        monkeypatch.setitem(SUITES[suite].parts, part, replace(of, cases=few))
        own = few
    cases = [f"--cases={own[0]}"] if own else ["--cases=large"]
    if callable(of.cases):
        cases = []
    words = [w for w in ("--engines=loop,native",) if name == "layers/levels"]  # no torch.compile
    records = run(tmp_path, name, *words, cases=cases)
    assert {r.suite for r in records} == {name}
    assert not [r for r in records if r.why and r.group], "who took part failed"
    wanted = [r for r in records if not r.why]
    assert wanted or all("not installed" in r.why for r in records)
    assert all(r.seconds and min(r.seconds) > 0 for r in wanted)
    assert all(r.machine and r.versions and r.settings and r.threads == 1 for r in wanted)
    printed = capsys.readouterr().out
    assert f"{name}: " in printed
    assert "records: " in printed


def test_a_default_run_is_of_suites_that_are_there():
    assert all(suites.parts(name) for name in DEFAULT)


@needs_native
def test_busy_neighbours_and_pauses_are_there_while_it_is_timed(tiny, tmp_path, capsys):
    records = run(tmp_path, "serve/steps", "--neighbours=0,2", "--pauses=0,0.001")
    ours = [r for r in records if r.contender == suites.OURS and r.dtype == "float32"]
    found = [(r.extra["neighbours"], r.extra.get("pause", 0)) for r in ours]
    assert found == [(0, 0), (0, 0.001), (2, 0), (2, 0.001)]
    assert len({r.group for r in ours}) == 4
    for r in ours:
        assert r.extra["calls"] == 10 * len(r.seconds)
        assert r.extra["p50"] <= r.extra["worst"]
    printed = capsys.readouterr().out
    assert "2 busy processes, 1 ms before each call" in printed
    assert re.search(r"p50 [\d,]+ us, worst of \d+ calls [\d,]+ us", printed)
    assert "p99" not in printed, "of fewer than 1,000 calls"


@needs_native
def test_a_stream_that_forgets_its_state_is_refused(tiny, tmp_path, monkeypatch):
    real = fused_lstm.Streaming

    class Forgetful:
        def __init__(self, lstm, batch_size):
            self.begin = lambda: real(lstm, batch_size)

        def __call__(self, x):
            return self.begin()(x)

    monkeypatch.setattr(fused_lstm, "Streaming", Forgetful)
    records = run(tmp_path, "serve/streams", status=FAILED)
    assert "stream differs" in next(r.why for r in records if r.contender == "streaming")
    assert next(r for r in records if r.contender == "module").seconds


@needs_native
def test_a_training_step_has_its_lstms_time(tiny, tmp_path, capsys):
    records = {r.contender: r for r in run(tmp_path, "post") if r.mode == "train" and r.seconds}
    assert "| PyTorch, nn.LSTM: oneDNN | 7,400 | " in capsys.readouterr().out
    for label in ("stock-cudnn", "native-layers"):
        r = records[label]
        assert len(r.extra["lstm_seconds"]) == len(r.seconds)
        inside = zip(r.extra["lstm_seconds"], r.seconds, strict=True)
        assert all(0 < lstm < whole for lstm, whole in inside)


def test_samples_that_do_not_add_up_are_not_timed(tiny, tmp_path, monkeypatch, capsys):
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    right = samples.by_func
    monkeypatch.setattr(
        samples, "by_func", lambda *of: {n: 1.01 * g for n, g in right(*of).items()}
    )
    with pytest.raises(SystemExit, match=str(FAILED)):
        run(tmp_path, "samples")
    assert "torch.func: weight_ih_l0 differs" in capsys.readouterr().err


# --- who is refused, and command lines that cannot be ---


def test_a_wrong_engine_is_refused_and_the_others_are_timed(tiny, tmp_path, monkeypatch):
    def wrong_by_a_hundredth(*arguments):
        y, h, c = cudnn.run(*arguments)
        return y * 1.01, h, c

    module = SimpleNamespace(missing=lambda device: None, describe=str, run=wrong_by_a_hundredth)
    monkeypatch.setitem(ENGINES, "wrong", Engine("nowhere", (), {"lstm": ()}))
    monkeypatch.setitem(LOADED, "wrong", module)
    records = run(tmp_path, "layers/levels", "--engines=loop,wrong", "--device=cpu", status=FAILED)
    (wrong,) = (r for r in records if r.contender == "wrong")
    assert wrong.why == (
        "inference differs from the reference's by 0.01 of its largest value, at most 0.001 is"
        " allowed; not timed"
    )
    timed = {(r.contender, r.mode) for r in records if r.seconds}
    modes = SUITES["layers"].parts["levels"].modes
    assert timed == {(c, m) for c in ("cudnn", "loop-none", "loop-hoisted") for m in modes}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nothing"], "suite: got 'nothing'; expected of fusions, post, "),
        (["layers/nothing"], "suite: got 'layers/nothing'; expected of layers/best, "),
        (["post", "--cases=huge"], "cases: got 'huge'; expected of small, medium"),
        (["layers/growing", "--engines=cudn"], "engines: got 'cudn'; expected of cudnn"),
        (["layers", "--device=toaster"], "argument --device: got 'toaster'"),
        (["layers", "--threads=0"], "argument --threads: got '0'; expected a whole number"),
        (["layers", "--seconds=x"], "argument --seconds: got 'x'; expected a number more than 0"),
        (["serve", "--device=meta"], "--device: got meta; expected cpu for serve"),
        (["layers", "--before=/nowhere"], "--before: got /nowhere; expected a checkout"),
    ],
    ids=["suite", "part", "case", "engine", "device", "threads", "seconds", "elsewhere", "before"],
)
def test_bad_command_lines_are_one_line(words, says, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OUT", str(tmp_path))
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_a_suite_of_an_engine_that_is_missing_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(native, "missing", lambda device: "no compiler")
    with pytest.raises(SystemExit, match="2"):
        main(["samples", f"--json={tmp_path / 'r.jsonl'}", "--device=cpu"])
    why = "samples: needs the engine 'native', which cannot run: no compiler"
    assert capsys.readouterr().err == f"bench samples: {why}\n"


def test_without_a_name_the_suites_are_listed(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(suite.says in printed for suite in SUITES.values())


def test_a_busy_machine_has_a_status_of_its_own(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(core.machine.ForeignTime, "share", lambda self: 0.4)
    file = tmp_path / "r.jsonl"
    words = ["layers/growing", "--quick", "--engines=native", "--seconds=0.01", f"--json={file}"]
    assert main(words) == BUSY_MACHINE
    assert "other work took up to 40% of the machine" in capsys.readouterr().err
    assert all(r.foreign > core.BUSY for r in load(file) if r.seconds)


def test_a_run_of_an_uncommitted_tree_into_the_results_ends_before_it_measures(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(core, "RESULTS", tmp_path)
    monkeypatch.setattr(__main__.machine, "commit", lambda: "bd0744c522+")
    with pytest.raises(SystemExit, match="2"):
        main(["layers", f"--json={tmp_path / 'r.jsonl'}", "--device=cpu"])
    assert "bench: commit: got 'bd0744c522+'" in capsys.readouterr().err


def test_processes_run_one_after_another_into_one_file(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(__main__.machine, "commit", lambda: "bd0744c522")
    monkeypatch.setattr(
        __main__.subprocess,
        "run",
        lambda command, **how: ran.append(command) or SimpleNamespace(returncode=len(ran) - 1),
    )
    words = ["layers", f"--json={tmp_path / 'r.jsonl'}", "--device=cpu", "--processes=3"]
    assert main(words) == 2
    assert len(ran) == 3
    assert {tuple(command[-2:]) for command in ran} == {("--processes=1", "--append")}


def test_memory_that_is_kept_is_in_the_environment_of_a_process(monkeypatch):
    """The allocator reads it when it starts."""
    ran = []
    monkeypatch.setattr(
        __main__.subprocess,
        "run",
        lambda *a, **k: ran.append((a, k)) or SimpleNamespace(returncode=0),
    )
    words = ["layers", "--keep-memory", "--device=cpu"]
    assert main(words) == 0
    (((command,), how),) = ran
    assert command[1:] == ["-m", "bench", *words]
    assert __main__.machine.KEEP.items() <= how["env"].items()


@pytest.mark.skipif(importlib.util.find_spec("opacus") is None, reason="opacus is not installed")
def test_opacus_takes_part(tiny, tmp_path):
    labels = {r.contender for r in run(tmp_path, "samples") if r.seconds}
    assert {samples.OURS, samples.THEIRS} <= labels


@needs_native
def test_kernelbench_runs_a_clones_tasks_as_their_files_are(tmp_path):
    folder = tmp_path / "KernelBench" / "level3"
    folder.mkdir(parents=True)
    (folder / "40_GRUHidden.py").write_text(KERNELBENCH)
    (folder / "50_ReLU.py").write_text("no task of ours")
    records = run(tmp_path, "kernelbench", str(tmp_path), cases=())
    assert {(r.case, r.contender, r.mode) for r in records if not r.why} == {
        ("40 GRUHidden", contender, mode)
        for contender in ("cudnn", "install")
        for mode in ("inference", "step")
    } | {("40 GRUHidden", "flushed", "step")}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["kernelbench"], "kernelbench: got no folder; expected a clone: bench kernelbench DIR"),
        (["kernelbench", "/nowhere"], "kernelbench: got /nowhere; expected a clone of KernelBench"),
    ],
)
def test_kernelbench_without_a_clone_is_one_line(words, error, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--device=cpu", f"--json={tmp_path / 'r.jsonl'}"])
    assert stopped.value.code == __main__.USAGE
    assert error in capsys.readouterr().err


def test_the_suite_in_the_readme_runs():
    (example, *_) = re.findall(r"```python\n(.*?)```", (ROOT / "bench/README.md").read_text(), re.S)
    names: dict = {}
    exec(example, names)
    work = names["setup"](Case("tiny", TINY), suites.Options(dtype=torch.float32))
    work.calls.pop("compile")
    group = core.Group(work)
    assert group.errors["torch"] < 1e-6
    assert core.measure(group, ["step"], suites.QUICK, suite="s", case="tiny", dtype="float32")
