"""bench.gpu without a GPU: what it makes of a process that ends, breaks or hangs; its dry run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import fresh
from bench import machine
from bench.__main__ import main, measured
from bench.cases import Shape
from bench.contenders import BASE, NN_LSTM, engines
from bench.core import Record
from bench.gpu import card, compiling, dry, first, gsan, racing, suite, testing, watching
from bench.layers import make_problem, module_of
from fused_lstm.tools import tune
from fused_lstm.triton.devices import AMD, DEVICES

CPU = torch.device("cpu")
CASE = racing.races()[1]
SAY = "import sys, time; from bench.gpu.watching import say; "


def soon() -> float:
    return time.monotonic() + 120


def watch(code: str, take=lambda event: None, **options) -> watching.End:
    program = [sys.executable, "-c", SAY + code]
    return watching.watch(program, take, soon(), **options)


@pytest.fixture
def leap(monkeypatch):
    """Return a function: so many seconds pass at once where a test begins that hangs."""
    plain, passed = watching.watch, []

    def after(seconds: float) -> None:
        def watch(command, take, *limits, **environment):
            def taken(event: dict) -> None:
                take(event)
                if event["event"] == "starts" and "hangs" in event["who"]:
                    passed.append(seconds)

            return plain(command, taken, *limits, **environment)

        monkeypatch.setattr(watching, "watch", watch)

    def now() -> float:
        return time.monotonic() + sum(passed)

    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=now, sleep=time.sleep))
    return after


# --- a process that is watched ---


def test_a_process_that_ends_well():
    events = []
    code = "say('a', 'starts'); print('a library says hello'); say('a', 'right', error=0.1)"
    assert watch(code, events.append) == (None, "")
    assert events == [{"who": "a", "event": "starts"}, {"who": "a", "event": "right", "error": 0.1}]


def test_who_ends_it_is_named():
    code = "say('cudnn', 'starts'); say('bad', 'starts'); sys.exit('illegal memory access')"
    assert watch(code) == ("bad", "illegal memory access")


def test_who_broke_the_context_is_named_and_not_who_comes_next():
    """A kernel's fault shows at some later call: the process asks after each contender."""
    code = "say('bad', 'starts'); say('bad', 'broke', why='misaligned address'); sys.exit(3)"
    end = watch(code)
    assert end.who == "bad"
    assert end.why == f"{watching.BROKE}: misaligned address"


def test_who_hangs_is_named(leap):
    leap(40.0)
    code = "say('cudnn', 'starts'); say('it hangs', 'starts'); time.sleep(100)"
    assert watch(code, silence=30.0) == ("it hangs", watching.HUNG)


# --- races ---


def test_the_race_goes_on_without_whoever_broke_it(monkeypatch, tmp_path, capsys):
    started, ends = [], [watching.End("bad", "broke"), watching.End(None)]

    def watched(command, take, *_):
        started.append(command[5:])
        for label in {"cudnn", "bad"} - set(command[5:]):
            line = Record("gpu-race", "medium", label, "step", (0.1, 0.2)).line()
            take({"who": label, "event": "record", "line": line})
        return ends.pop(0)

    monkeypatch.setattr(watching, "watch", watched)
    keep = partial(suite.append, tmp_path / "races.jsonl")
    records = racing.supervise([CASE], 1.0, soon(), keep, {})
    lines = (tmp_path / "races.jsonl").read_text().splitlines()  # as they came
    assert [json.loads(line)["contender"] for line in lines].count("cudnn") == 2
    assert "step            cudnn            150 ms" in capsys.readouterr().out
    assert started == [[], ["bad"]]
    assert {(r.contender, r.why) for r in records} == {("cudnn", ""), ("bad", ""), ("bad", "broke")}


def test_who_is_not_raced_has_the_machine_too(monkeypatch, events, tmp_path):
    """In the file of races: who is absent, and who broke the GPU's context."""
    monkeypatch.setattr(racing, "DEVICE", "cpu")
    monkeypatch.setattr(machine, "card", lambda device: {"driver_version": "580.65"})
    absent = racing.layers.Work({}, lambda: {}, absent={"flashrnn": "not installed"})
    monkeypatch.setattr(racing, "work_of_race", lambda *_: absent)
    monkeypatch.setattr(racing, "measure", lambda *_, **__: [])
    racing.race(CASE, 0.05, [])
    (line,) = [event["line"] for event in events() if event["event"] == "record"]
    assert line["why"] == "not installed"
    assert_names_the_machine(line)
    monkeypatch.setattr(watching, "watch", lambda *_: watching.End("all", "broke"))
    about = racing.about(CPU)
    (lost,) = racing.supervise([CASE], 1.0, soon(), list, about)
    assert lost.why == "broke"
    assert_names_the_machine(lost.line())


def test_an_amd_gpus_driver_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.version, "hip", "7.0")
    monkeypatch.setattr(machine, "SYS", tmp_path)
    assert machine.card(torch.device("cuda")) == {"driver_version": "unknown"}
    (tmp_path / "module/amdgpu").mkdir(parents=True)
    (tmp_path / "module/amdgpu/version").write_text("6.14.14\n")
    assert machine.card(torch.device("cuda")) == {"driver_version": "6.14.14"}


def test_processes_that_end_again_and_again_are_given_up(monkeypatch):
    ends = [watching.End(f"bad{n}", "broke") for n in range(watching.RESTARTS)]
    monkeypatch.setattr(watching, "watch", lambda *_: ends.pop(0))
    lost = watching.outlive(lambda without: [], lambda event: None, soon())
    assert lost["all"] == f"{watching.RESTARTS} processes ended before they were done"


@pytest.fixture
def events(tmp_path, monkeypatch):
    """Return what this process says, event after event, as its parent would read it."""
    file = tmp_path / "events"
    monkeypatch.setenv(watching.EVENTS, str(file))
    return lambda: [json.loads(line) for line in file.read_text().splitlines()]


def test_a_race_itself(monkeypatch, events):
    """On the CPU, at a small size: the code that runs on a GPU."""
    monkeypatch.setattr(racing, "DEVICE", "cpu")
    monkeypatch.setattr(racing, "LOOPS_IN", ("tiny", "fp32"))
    tiny = racing.GpuRace("tiny", "fp32", (2, 3, 4, 5, 1))
    racing.main(json.dumps([asdict(tiny)]), "0.05")
    assert [e["event"] for e in events() if e["who"] == tiny.title] == ["race", "raced"]
    records = [Record.of_line(e["line"]) for e in events() if e["event"] == "record"]
    timed = {(r.contender, r.mode) for r in records if r.seconds}
    assert {("cudnn", "step"), ("loop-none", "forward")} <= timed
    assert all(r.extra["precision"] == "fp32" for r in records if r.seconds)
    assert all(r.suite == "gpu-race" for r in records)
    began = [e["who"] for e in events() if e["event"] == "starts" and e["what"] == "step"]
    assert {"cudnn", "loop-none"} <= set(began)  # said before each timing


@pytest.mark.parametrize("when", ["answer", "step"])
def test_a_race_ends_with_whoever_breaks_the_context(when, monkeypatch, events):
    """In its answer or while it is timed, without an error: the process ends then and there."""

    class Ended(BaseException):
        """In place of the process's end."""

    broke: list[str] = []
    plain = racing.layers.local

    def local(contender, problem):
        call = plain(contender, problem)
        if contender.label != BASE and when == "answer":
            answer = call.answer
            call.answer = lambda: (broke.append("an illegal memory access"), answer())[1]
        elif contender.label != BASE:
            step = call.modes["step"]
            call.modes["step"] = lambda: (broke.append("an illegal memory access"), step())[1]
        return call

    def end(status):
        raise Ended

    monkeypatch.setattr(racing, "DEVICE", "cpu")
    monkeypatch.setattr(watching.os, "_exit", end)
    loop = next(c for c in engines() if c.engine == "loop")
    monkeypatch.setattr(racing, "everyone", lambda: [loop, NN_LSTM])
    monkeypatch.setattr(racing, "LOOPS_IN", ("tiny", "fp32"))
    monkeypatch.setattr(racing.layers, "local", local)
    monkeypatch.setattr(watching, "broken", lambda device: broke[0] if broke else None)
    with pytest.raises(Ended):
        racing.race(racing.GpuRace("tiny", "fp32", (2, 3, 4, 5, 1)), 0.05, [])
    assert events()[-1] == {"who": loop.label, "event": "broke", "why": broke[0]}


# --- who is raced, and where ---


def test_flashrnns_shape_is_first_and_the_treebanks_next():
    first, *rest = racing.races()
    assert (first.precision, first.shape) == ("fp16", (1024, 16, 768, 768, 1))
    assert "2.01" in first.published
    assert "5.19" in first.published
    assert [case.name for case in rest[:3]] == ["medium", "large", "small"]
    named = " ".join(race.name for race in rest)
    for word in ("GRU, T=64", "GRU, T=512", "a basecaller", "one step", "resets, B=8192",
                 "TorchRL's rollout"):  # fmt: skip
        assert word in named
    titles = [race.title for race in racing.races()]
    assert len(set(titles)) == len(titles)


def test_a_race_in_blocks_has_dense_weights_for_cudnn(monkeypatch, events):
    """One answer: nn.GRU's of recurrent weights that are zero outside of the blocks."""
    monkeypatch.setattr(racing, "DEVICE", "cpu")
    monkeypatch.setattr(racing, "RACED", (BASE, "loop-none"))
    blocks = racing.GpuRace(
        "blocks", "fp32", (3, 2, 4, 12, 1), cell="gru", heads=3, modes=("inference", "step")
    )
    racing.race(blocks, 0.05, [])
    records = [Record.of_line(e["line"]) for e in events() if e["event"] == "record"]
    assert {(r.contender, r.mode) for r in records if r.seconds} == {
        (label, mode) for label in (BASE, "loop-none") for mode in blocks.modes
    }


@pytest.mark.parametrize(
    ("shape", "precision", "expected"),
    [
        ((20, 20, 200, 200, 2), "bf16", "STANDARD"),
        ((20, 20, 192, 192, 2), "fp32", "PERSIST_STATIC_SMALL_H forward, STANDARD backward"),
        ((20, 20, 128, 128, 3), "bf16", "PERSIST_STATIC_SMALL_H"),
        ((1024, 16, 768, 768, 1), "fp16", "PERSIST_STATIC"),
        ((1024, 16, 768, 768, 1), "bf16", "STANDARD"),
        ((1024, 12, 768, 768, 1), "fp16", "STANDARD"),
        ((35, 16, 768, 768, 2), "fp16", "STANDARD"),
    ],
    ids=str,
)
def test_cudnns_algorithm_is_named(shape, precision, expected):
    assert racing.cudnn_algorithms(Shape(*shape), precision) == expected


def test_cudnn_is_nn_lstm_with_its_weights_in_one_buffer(monkeypatch):
    """Clones of the weights would be copied into such a buffer at every call."""
    flattened = []
    original = nn.LSTM.flatten_parameters
    monkeypatch.setattr(
        nn.LSTM, "flatten_parameters", lambda self: (flattened.append(self), original(self))[1]
    )
    problem = make_problem(Shape(2, 3, 4, 5, 2))
    module = module_of(NN_LSTM, problem)
    assert type(module) is nn.LSTM
    assert flattened[-1] is module
    theirs = {w.data_ptr() for w in problem.reference.parameters()}
    assert not {w.data_ptr() for w in module.parameters()} & theirs
    y, _ = problem.reference(problem.x, (problem.h0, problem.c0))
    assert torch.equal(module(problem.x, (problem.h0, problem.c0))[0], y)


# --- tests, one by one ---

PROGRAM = """
import sys, time, pytest
from types import SimpleNamespace
from bench.gpu import watching

@pytest.mark.parametrize("n", range(2))
def test_good(n): pass

def test_wrong(): assert 1 == 2, "one is two"

@pytest.mark.skip(reason="not today")
def test_skipped(): pass

def test_breaks():
    there = SimpleNamespace(is_available=lambda: True)
    sys.modules["torch"] = SimpleNamespace(cuda=there, device=str)
    watching.broken = lambda device: "misaligned address"

def test_hangs(): time.sleep(200)

def test_after(): pass
"""


def test_each_test_answers_for_itself(tmp_path, capsys, leap):
    leap(40.0)
    path = tmp_path / "test_program.py"
    path.write_text(PROGRAM)
    file = tmp_path / "outcomes.jsonl"
    words = ["-p", "no:cacheprovider", str(path)]
    found = testing.run(soon(), partial(suite.append, file), words, limit=24.0)
    written = [json.loads(line)["event"] for line in file.read_text().splitlines()]
    assert sorted(set(written)) == ["failed", "passed", "skipped"]
    assert found["passed"] == 3 + 1  # who breaks the context has passed by itself
    failed = {name.split("::")[1]: why for name, why in found["failed"].items()}
    assert failed.keys() == {"test_wrong", "test_breaks", "test_hangs"}
    assert "misaligned address" in failed["test_breaks"]
    assert [name.split("::")[1] for name in found["skipped"]] == ["test_skipped"]
    said = capsys.readouterr().out
    assert said.index("test_breaks") < said.index("test_hangs") < said.index("test_after")
    assert said.index("test_wrong: failed: AssertionError: one is two") < said.index("test_after")


def test_what_the_time_cuts_off_has_not_failed(tmp_path, capsys, leap):
    leap(1000.0)
    path = tmp_path / "test_program.py"
    path.write_text(PROGRAM)
    words = ["-p", "no:cacheprovider", str(path), "-k", "good or hangs or after"]
    found = testing.run(soon(), list, words)
    assert found["failed"] == {}
    names = [name.split("::")[1] for name in found["not run"]]
    assert names == ["test_hangs", "test_after", "test_good[1]"]  # one of each family first
    assert found["passed"] == 1
    assert found["families"] == {"test_good": 1, "test_hangs": 0, "test_after": 0}


def test_tests_of_a_gpu_come_by_their_worth():
    """One of each family of kernels, before the second of any; of many dtypes and sizes."""
    events = []
    code = (
        "import sys, pytest; sys.exit(pytest.main(['--collect-only', '-p', 'no:cacheprovider',"
        " '-p', 'bench.gpu.testing', '-m', 'gpu', 'tests/kernels/triton/test_gpu.py']))"
    )
    watch(code, events.append)
    (collected,) = (event["tests"] for event in events if event["event"] == "collected")
    families = list(collected.values())
    count = len(set(families))
    assert len(set(families[:count])) == count > 40
    first = " ".join(list(collected)[:count])
    for word in ("fp32", "tf32", "bf16", "fp16", "slstm", "gru", "pointwise", "layers", "norm"):
        assert word in first


def test_a_checkout_in_a_folder_named_gpu_runs_its_tests(tmp_path):
    """A folder's name is a keyword of its tests, as a mark is.

    They keep Triton's cache, with what was compiled beforehand, and build no C++.
    """
    (folder := tmp_path / "gpu").mkdir()
    tests = Path(__file__).parents[1]
    (folder / "conftest.py").write_text(
        f"import importlib.util, sys\nsys.path[:0] = [{str(tests)!r}, {str(tests.parent)!r}]\n"
        f"spec = importlib.util.spec_from_file_location('whole', {str(tests / 'conftest.py')!r})\n"
        "module = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(module)\n"
        "sys.modules['whole'] = module\n"
        "pytest_addoption = module.pytest_addoption\n"
        "pytest_collection_modifyitems = module.pytest_collection_modifyitems\n"
    )
    (folder / "test_one.py").write_text(
        "import os, sys, pytest\n"
        "def test_one():\n"
        "    assert os.environ['TRITON_CACHE_DIR'] == 'kept'\n"
        "    assert sys.modules['whole'].POISONS is False\n"
        "@pytest.mark.gpu\n"
        "def test_two(): pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        capture_output=True, text=True, cwd=folder,
        env=os.environ | {"BENCH_EVENTS": os.devnull, "TRITON_CACHE_DIR": "kept"},
    )  # fmt: skip
    outcome = "2 passed" if torch.cuda.is_available() else "1 passed, 1 skipped"
    assert outcome in done.stdout, done.stdout + done.stderr


# --- the dry run: kernels compiled for a GPU that is not here ---


@pytest.mark.slow  # half a minute; test_triton_host.py has such a run in every suite
def test_a_dry_run_compiles_what_a_gpu_would(tmp_path, monkeypatch):
    """Forward and backward, a wavefront and a layer at a time; a second run finds all of it."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    device, wanted = DEVICES["H100"], [("bf16", (1024, 16, 64, 64, 2))]
    wanted = [racing.GpuRace("", *each) for each in wanted]
    found = compiling.compile_in_time(device, wanted, time.monotonic() + 500)
    assert found["failed"] == {}
    assert found["kernels"] == 3 + 3  # forward, forward that keeps, backward; L = 2 and 1
    kernels = {path.stem for path in tmp_path.rglob("*.cubin")}
    assert kernels == {"lstm_forward_kernel", "lstm_backward_kernel"}
    before = sorted(tmp_path.rglob("*.cubin"))
    compiling.compile_in_time(device, wanted, time.monotonic() + 500)
    assert sorted(tmp_path.rglob("*.cubin")) == before


def test_what_is_compiled_covers_the_races():
    found = [racing.GpuRace(**fields) for fields in compiling.compiled_of(racing.races())]
    kinds = [(r.precision, r.shape, r.form, r.heads) for r in found]
    assert ("fp16", (16, 16, 768, 768, 1), "dense", 1) in kinds
    assert ("bf16", (16, 16, 512, 512, 1), "dense", 8) in kinds
    assert ("bf16", (16, 8192, 512, 512, 1), "resets", 1) in kinds
    assert len(kinds) == len(set(kinds)) < len(racing.races())  # of two lengths, one


@pytest.mark.slow  # a minute: kernels are compiled for a GPU
def test_the_tests_of_a_gpu_compile_what_they_launch(tmp_path, monkeypatch):
    """Each kernel that the tests launch on a GPU is in Triton's cache after they have run dry."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    chosen = "test_gradcheck_twice", "test_200_launches_of_a_shared_head"
    words = ("-m", "gpu", "-k", " or ".join(chosen), "tests/kernels/triton/test_gpu.py")
    found = compiling.compile_tests(DEVICES["H100"], soon() + 400, words)
    assert found["failed"] == {}
    assert found["jobs"] == 3
    kernels = {path.stem for path in tmp_path.rglob("*.cubin")}
    assert {"lstm_forward_kernel", "lstm_backward_kernel"} <= kernels  # which heads launch too
    assert found["kernels"] >= len(kernels)


@pytest.mark.parametrize("name", ["H100", "MI300X"])
def test_a_dry_run_is_for_any_card(name):
    target = dry._Driver(DEVICES.get(name) or AMD[name]).get_current_target()
    expected = ("cuda", 90, 32) if name == "H100" else ("hip", "gfx942", 64)
    assert (target.backend, target.arch, target.warp_size) == expected


@pytest.mark.parametrize("card", [*DEVICES.values(), *AMD.values()], ids=lambda c: c.name)
def test_what_is_read_to_measure_l2_fits_into_it(card):
    from fused_lstm.triton.measure import MOST_READ, bytes_read

    assert 0 < bytes_read(card) <= min(card.l2 // 2, MOST_READ)
    assert bytes_read(replace(card, l2=6 * 10**6)) <= 3 * 10**6


# --- the command ---


DONE = {"jobs": 9, "kernels": 7, "failed": {"fp32 1": "no"}, "cut off": True, "seconds": 1.0}


def options_in(folder: Path) -> SimpleNamespace:
    return SimpleNamespace(device=CPU, minutes=8.5, json=folder / "r.jsonl", seconds=None)


def assert_names_the_machine(line: dict) -> None:
    """A stranger's file can be read alone."""
    assert line["machine"]
    assert line["card"] == {"driver_version": "580.65"}
    assert {"torch", "triton"} <= line["versions"].keys()
    assert line["commit"]
    assert line["date"]


@pytest.fixture
def staged(monkeypatch) -> list[str]:
    """The stages of both commands, noted, with their processes left out."""
    stages = []
    monkeypatch.setattr("fused_lstm.triton.devices.current", lambda device: DEVICES["H100"])
    monkeypatch.setattr(machine, "card", lambda device: {"driver_version": "580.65"})
    monkeypatch.delenv("FUSED_LSTM_POLLS", raising=False)
    monkeypatch.setattr(suite.signal, "signal", lambda *_: None)
    monkeypatch.setattr(first, "run", lambda *_: stages.append("first"))
    return stages


@pytest.mark.parametrize("name", ["gpu-first", "gpu", "gpu-race"])
def test_a_gpu_that_is_too_old_is_one_sentence(name, staged, monkeypatch, tmp_path, capsys):
    """At once: a T4 compiled for two minutes, and then failed every test with that sentence."""
    t4 = SimpleNamespace(name="Tesla T4", major=7, minor=5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: t4)
    for module, work in ((compiling, "compile_tests"), (compiling, "compile_in_time")):
        monkeypatch.setattr(module, work, lambda *_: staged.append("compile"))
    options = options_in(tmp_path / "none")
    options.device = torch.device("cuda")
    with pytest.raises(SystemExit) as stopped:
        measured(name, options)
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "need compute capability 8.0 (Ampere), and Tesla T4 has 7.5" in said.err
    assert (said.out, staged) == ("", [])
    assert not options.json.parent.exists()


@pytest.mark.parametrize("fails", [True, False])
def test_the_tests_in_order(staged, monkeypatch, tmp_path, capsys, fails):
    began = time.monotonic()

    def written() -> dict:
        return json.loads((tmp_path / "gpu.json").read_text())

    def compiled(device, deadline, tests=testing.TESTS):
        staged.append("compile")
        assert deadline - began < 0.4 * 8.5 * 60
        return DONE

    def tested(deadline, keep):
        staged.append("test")
        assert written()["compiled"]["kernels"] == 7
        failed = {"test_x": "hung"} if fails else {}
        return {"passed": 3, "failed": failed, "skipped": {}, "not run": ["test_y"],
                "families": {"test_x": 0, "test_z": 3}}  # fmt: skip

    def checked(deadline):
        staged.append("gsan")
        assert written()["tests"]["passed"] == 3
        return "a race: somewhere"  # fails nothing

    monkeypatch.setattr(compiling, "compile_tests", compiled)
    monkeypatch.setattr(testing, "run", tested)
    monkeypatch.setattr(gsan, "check", checked)
    # A test that there was no time for has not failed.
    with pytest.raises(SystemExit, match="1") if fails else contextlib.nullcontext():
        list(suite.run("gpu", options_in(tmp_path)))
    assert staged == ["first", "compile", "test", "gsan"]
    assert os.environ.pop("FUSED_LSTM_POLLS") == "5000000"
    assert written()["gsan"] == "a race: somewhere"
    assert_names_the_machine(written())
    first, *_ = (tmp_path / "gpu-tests.jsonl").read_text().splitlines()
    assert_names_the_machine(json.loads(first))
    assert written()["tests"]["failed"] == ({"test_x": "hung"} if fails else {})
    said = capsys.readouterr().out
    assert "1 not run: out of time" in said
    assert "families of kernels with a test that passed: 1 of 2\n  test_x: no test" in said
    assert "then cut off" in said


def test_the_races_in_order(staged, monkeypatch, tmp_path, capsys):
    def compiled(device, races, deadline):
        staged.append("compile")
        return DONE

    def post(path, limit):
        staged.append("post")
        assert path == tmp_path / "gpu-post.jsonl"
        return "bench post: cut off"

    record = Record("gpu-race", "medium", "cudnn", "step", (0.1, 0.2))

    def raced(races, seconds, deadline, keep, about):
        assert_names_the_machine(about)
        staged.extend(race.name for race in races[:2])
        return [record] * len(races)

    monkeypatch.setattr(compiling, "compile_in_time", compiled)
    monkeypatch.setattr(suite, "post", post)
    monkeypatch.setattr(racing, "supervise", raced)
    records = list(suite.run("gpu-race", options_in(tmp_path)))
    os.environ.pop("FUSED_LSTM_POLLS")
    assert staged == ["first", "compile", "FlashRNN's", "medium", "post"]
    assert len(records) == len(racing.races())
    assert "7 kernels compiled" in capsys.readouterr().out


@pytest.mark.parametrize(
    "end",
    [(None, ""), ("the grid barrier", watching.HUNG), ("all", "why"), (card.LAST, watching.HUNG)],
)
def test_the_first_launches_are_watched(end, monkeypatch):
    """A barrier that hangs ends a process of its own, and not `make gpu`."""

    def watched(command, take, deadline, silence):
        assert command[1:] == ["-m", "bench.gpu.card"]
        assert silence <= 30
        take({"who": "card", "event": "measured", "found": {"barrier_us": 1.5}})
        return watching.End(*end)

    monkeypatch.setattr(card, "watch", watched)
    expected = {key: {"barrier_us": 1.5} for key in (None, card.LAST)}
    expected["the grid barrier"] = "the grid barrier hung"
    assert card.measured(soon()) == expected.get(end[0], "why")


def test_a_step_is_timed_with_the_barrier_and_without_in_turns(monkeypatch):
    timed = []

    def microseconds(plan) -> float:
        timed.append((plan.hidden, plan.phase))
        return 2.0 if plan.phase else 3.0 + len(timed)

    monkeypatch.setattr(tune, "microseconds", microseconds)
    found = card.steps(DEVICES["H100"])
    assert timed == [(200, False), (200, True)] * 3 + [(650, False), (650, True)] * 3
    assert found == {
        "small_barrier_step_us": 6.0, "small_phase_step_us": 2.0,
        "medium_barrier_step_us": 12.0, "medium_phase_step_us": 2.0,
    }  # fmt: skip
    assert card.steps(DEVICES["B200"]) == {}, "it has no plan with a phase"


# --- the first two minutes ---

MEASURED = {"barrier_us": 1.25, "fence_us": 0.5, "load_us": 0.25, "l2_rate": 5000.0,
            "medium_barrier_step_us": 2.5, "medium_phase_step_us": 2.0}  # fmt: skip
FIRST = """
import os, signal, time
from pathlib import Path
import torch
from bench import machine
from bench.core import Record
from bench.gpu import card, compiling, first, racing, testing
from fused_lstm.triton import devices

stage, file = STAGE, Path(FILE)
devices.current = lambda device: devices.DEVICES["H100"]
machine.card = lambda device: {"driver_version": "580.65"}
machine.name = lambda device: "NVIDIA H100"
first.memory = lambda device: {"free": 70 << 30, "total": 80 << 30}
done = {"jobs": 1, "kernels": 7, "failed": {}, "cut off": False, "seconds": 20.0}
names = [*first.FAMILIES.values()]

def wait(at, result=None):
    if stage == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

def tested(deadline, keep, tests):
    for name in names[:-1]:
        keep({"who": name, "event": "passed", "why": ""})
        if name == names[2]:
            wait("test")
    return {"failed": {names[-1]: "hung"}}

def raced(races, pace, deadline, keep, about):
    for mode in racing.MODES:
        for n, label in enumerate(racing.RACED):
            keep(Record("gpu-race", "medium", label, mode, (0.002 / (1 + n),) * 3).line())
        wait("race")
    keep(Record("gpu-race", "medium", "flashrnn", mode, why="not installed").line())

compiling.compile_in_time = compiling.compile_tests = lambda *_: done
card.measured = lambda deadline: wait("measure", MEASURED)
testing.run, racing.supervise = tested, raced
first.run(file, torch.device("cuda"), time.monotonic())
"""


def first_report(tmp_path: Path, stage: str) -> tuple[dict, str]:
    """Return the file that a run leaves which is cut off at a stage, and what was printed."""
    file = tmp_path / "gpu-first.json"
    script = FIRST.replace("MEASURED", repr(MEASURED))
    script = script.replace("STAGE", repr(stage)).replace("FILE", repr(str(file)))
    (done,) = fresh.run(script)
    assert done.returncode == (-signal.SIGKILL if stage else 0), done.stderr
    return json.loads(file.read_text()), done.stdout


def test_the_first_two_minutes_are_one_file_that_prints_itself(tmp_path):
    report, printed = first_report(tmp_path, "")
    assert_names_the_machine(report)
    assert report["compiled"]["kernels"] == 14
    assert report["measured"] == MEASURED
    assert [*report["tests"].values()] == ["passed"] * 8 + ["failed: hung"]
    assert len(report["race"]) == 3 * 4 + 1
    said = first.table(report)
    assert said in printed
    for words in ("NVIDIA H100", "580.65", "70.0 of 80.0 GiB free", "14 kernels in 40.0 s",
                  "fence_us  0.500", "meeting, medium  barrier 2.500 us, phase 2.000 us",
                  "test: heads  passed", "failed: hung",
                  "triton-steps  forward 1.000 ms (2.00x), step 1.000 ms (2.00x), forward in a"
                  " graph 1.000 ms (2.00x)", "flashrnn  not installed"):  # fmt: skip
        assert words in said, words


@pytest.mark.parametrize("stage", ["measure", "test", "race"])
def test_a_first_run_that_is_cut_off_leaves_what_it_has(stage, tmp_path):
    """Killed outright: the file is whole, and its table has what was done."""
    report, _ = first_report(tmp_path, stage)
    assert_names_the_machine(report)
    passed = [*report["tests"].values()].count("passed")
    found = report["compiled"] is not None, report["measured"] is not None, passed
    assert (*found, len(report["race"])) == {
        "measure": (True, False, 0, 0), "test": (True, True, 3, 0), "race": (True, True, 8, 3),
    }[stage]  # fmt: skip
    assert ("not raced" in first.table(report)) == (stage != "race")


def test_each_family_of_the_first_run_is_a_test(request):
    tests = {item.nodeid: item for item in request.session.items}
    if not any(name.startswith(first.HERE) for name in tests):
        pytest.skip("the tests of a GPU are not in this run of pytest")
    found = {testing.family(tests[name]) for name in first.FAMILIES.values()}
    assert len(found) == len(first.FAMILIES) == 9


CUT_OFF = """
import os, signal, time
from types import SimpleNamespace
from pathlib import Path
import torch
from bench.gpu import compiling, first, gsan, racing, suite, testing
from fused_lstm.triton import devices

devices.current = lambda device: devices.DEVICES["H100"]
compiled = {"jobs": 1, "kernels": 7, "failed": {}, "cut off": False, "seconds": 1.0}
compiling.compile_tests = lambda *_: compiled
tests = {"passed": 3, "failed": {}, "skipped": {}, "not run": [], "families": {}}
first.run = lambda *_: None
stage = STAGE

def wait(at, result):
    if stage == at:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(100)
    return result

testing.run = lambda *_: wait("test", tests)
gsan.check = lambda deadline: wait("gsan", "fine")
compiling.compile_in_time = lambda *_: wait("compile", compiled)
path, name = Path(FILE), "gpu" if stage in ("test", "gsan") else "gpu-race"
cpu = torch.device("cpu")
list(suite.run(name, SimpleNamespace(device=cpu, minutes=8.5, json=path, seconds=None)))
"""


@pytest.mark.parametrize("stage", ["gsan", pytest.param("test", marks=pytest.mark.slow)])
def test_what_is_done_when_it_is_cut_off_is_on_the_disk(stage, tmp_path):
    file = str(tmp_path / "r.jsonl")
    script = CUT_OFF.replace("STAGE", repr(stage)).replace("FILE", repr(file))
    (done,) = fresh.run(script)
    assert done.returncode == 143, done.stderr
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["compiled"]["kernels"] == 7
    assert (report["tests"] is None) == (stage == "test")
    assert report["gsan"] is None


def test_what_is_watched_ends_with_who_watches():
    """SIGTERM ends the command by an exception, and its process with it."""
    pids = []
    code = "import os; say(str(os.getpid()), 'starts'); time.sleep(100)"

    def stop(event: dict) -> None:
        pids.append(int(event["who"]))
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        watch(code, stop)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_no_gpu_is_one_line(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit) as stopped:
        main(["gpu"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "bench: --device: got cpu; expected cuda for gpu\n"


def test_the_notebook_runs_the_makefiles_command():
    """examples/first_gpu.ipynb: its code parses, and its command is that of `make gpu-first`."""
    root = Path(__file__).parents[2]
    notebook = json.loads((root / "examples" / "first_gpu.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    for cell in cells:
        compile(cell, "first_gpu.ipynb", "exec")
    assert '"-m", "bench", "gpu-first"' in cells[1]
    assert "PYTHONPATH=kernels:. $(if" in (root / "Makefile").read_text()
    assert '"PYTHONPATH": "kernels:."' in cells[1]
    assert first.__name__ == "bench.gpu.first"  # which the last cell calls
    assert '"bench.gpu.first"' in cells[2]


def test_the_notebook_prints_a_file(tmp_path, monkeypatch, capfd):
    """Its last cell, on a file that a run has left that was cut off."""
    report, _ = first_report(tmp_path, "test")
    root = Path(__file__).parents[2]
    notebook = json.loads((root / "examples" / "first_gpu.ipynb").read_text(encoding="utf-8"))
    last = "".join(notebook["cells"][-1]["source"])
    file = tmp_path / "gpu-first.json"
    monkeypatch.chdir(root)
    exec(last.replace("out/gpu-first.json", str(file)), {})
    said = capfd.readouterr().out
    assert first.table(report) in said
    assert str(file) in said
