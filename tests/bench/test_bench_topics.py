"""The topics of `python -m bench` that time the native engine: ratios, refusals, whole runs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import io
import json
import mmap
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import fused_lstm
from bench import training
from bench.__main__ import TOPICS, main
from bench.alone import Shape, make_problem
from bench.contenders import BASE, Contender, engines, everyone, trainers
from bench.measure import memory
from bench.measure.check import WrongAnswer, require_right
from bench.race import line_up
from bench.topics import native, parts, samples, scaling, short, streaming
from bench.topics.native import LEARNERS, LOOP, OURS, STOCK
from bench.training import Learner, expected, make_lesson
from fused_lstm import cudnn
from fused_lstm.engines import ENGINES, LOADED, Engine

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
WHY_NOT = fused_lstm.native.missing(CPU)
needs_native = pytest.mark.skipif(WHY_NOT is not None, reason=f"native: {WHY_NOT}")
TINY = Shape(3, 2, 7, 7, 2)
DRIVEN = [topic for topic in TOPICS if topic not in ("ladder", "post", "gpu")]


@pytest.fixture
def tiny(monkeypatch):
    """The presets take milliseconds; one thread, for two would wait for a busy machine."""
    torch.set_num_threads(1)
    T, B, _, H, L = TINY
    sizes = {"num_steps": T, "batch_size": B, "hidden_size": H, "num_layers": L, "keep_prob": 0.5}
    config = dataclasses.replace(training.PRESETS["small"], **sizes)
    for size in native.PRESETS:
        monkeypatch.setitem(training.PRESETS, size, config)
        monkeypatch.setitem(native.PRESETS, size, TINY)
    monkeypatch.setattr(training, "VOCABULARY", 40)
    monkeypatch.setattr(scaling, "START", TINY)
    monkeypatch.setattr(scaling, "AXES", {"T": (1, 5), "H": (4,)})
    monkeypatch.setattr(short, "PEERS", ())


@pytest.fixture
def wrong(monkeypatch):
    """A contender whose output is one per cent too large."""

    def lstm(*arguments):
        y, h, c = cudnn.lstm(*arguments)
        return y * 1.01, h, c

    module = SimpleNamespace(missing=lambda device: None, describe=str, lstm=lstm)
    monkeypatch.setitem(ENGINES, "wrong", Engine("nowhere", ()))
    monkeypatch.setitem(LOADED, "wrong", module)
    return Contender(OURS, "wrong")


def no_timing(*_, **__):
    pytest.fail("it was timed all the same")


def run(topic: str, tmp_path, *options: str) -> dict:
    file = tmp_path / "new" / "found.json"
    given = ["--sizes=small", "--seconds=0.01", "--threads=1", f"--json={file}", *options]
    assert main([topic, *given]) == 0
    return json.loads(file.read_text())


# --- the driver ---


def test_without_a_topic_it_lists_them(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    assert all(re.search(rf"^{topic} +\w", said, re.MULTILINE) for topic in TOPICS)
    assert main(["nothing"]) == 2


@pytest.mark.parametrize("topic", DRIVEN)
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--threads", "0"], "argument --threads: must be a whole number, at least 1"),
        (["--sizes", "huge"], "--sizes: got 'huge', should be of small, medium, large"),
        (["--device", "toaster"], "--device toaster: "),
    ],
    ids=["threads", "size", "device"],
)
def test_bad_options_are_one_line(topic, options, says, capsys):
    with pytest.raises(SystemExit) as stop:
        main([topic, *options])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"bench {topic}: {says}")
    assert said.count("\n") == 1


@pytest.mark.parametrize("topic", DRIVEN)
def test_without_the_native_engine_it_is_one_line(topic, monkeypatch, capsys):
    monkeypatch.setattr(fused_lstm, "available_engines", lambda device: {"native": "not built"})
    with pytest.raises(SystemExit):
        main([topic])
    says = "the native engine cannot run here: not built"
    assert capsys.readouterr().err == f"bench {topic}: {says}\n"


@pytest.mark.parametrize("contender", {c.proof: c for c in [*everyone(), *trainers()]}.values())
def test_a_contenders_proof_is_a_test(contender):
    file, _, name = contender.proof.partition("::")
    assert f"\ndef {name}(" in (ROOT / file).read_text()


# --- a row's lines, by hand ---


def row(what: str, samples: dict, **about) -> dict:
    found = {"what": what, "size": "small", "samples": samples}
    return found | {"pages": dict.fromkeys(samples, 7)} | about


def test_a_ratio_is_of_medians_and_its_quartiles_are_within_rounds():
    samples = {STOCK: [2.0, 3.0, 4.0], OURS: [1.0, 2.0, 2.0]}
    theirs, ours = native.lines(row("forward + backward", samples, flops=10**9))
    # Within the rounds 2, 1.5 and 2: their median is not 3 / 2.
    assert theirs.endswith("ours x 1.50 (1.75 to 2.00), of 1.3 / 1.5: target")
    assert "2000.000 ms (1500.000 to 2000.000)" in ours
    assert re.search(r" 0 GF/s +7 pages$", ours)


@pytest.mark.parametrize(
    ("size", "stock", "verdict"),
    [
        ("small", 2.9, "BELOW"),
        ("small", 3.0, "floor"),
        ("large", 4.9, "BELOW"),
        ("large", 5, "target"),
    ],
    ids=["below", "at-the-floor", "another-sizes-floor", "at-the-target"],
)
def test_verdicts(size, stock, verdict):
    samples = {LOOP: [stock], OURS: [1.0]}
    line, _ = native.lines(row("forward + backward", samples, size=size))
    assert line.split()[-1] == verdict


def test_rates():
    samples = {OURS: [0.001, 0.002, 0.003]}
    assert " 200000 words/s" in native.lines(row("a step", samples, words=400))[0]
    assert " 500 GB/s" in native.lines(row("a step", samples, bytes=10**9))[0]


# --- who is refused ---


def test_a_wrong_engine_is_not_timed(tiny, wrong, monkeypatch):
    monkeypatch.setattr(native, "LSTMS", [native.LSTMS[0], wrong])
    monkeypatch.setitem(scaling.RACERS, OURS, wrong)
    for module in (native, scaling):
        monkeypatch.setattr(module, "interleave", no_timing)
    for measure in (
        lambda: native.measure_lstm("small", 0.01),
        lambda: scaling.measure(TINY, [1], 0),
        lambda: short.measure(TINY, torch.float32, 0),
    ):
        with pytest.raises(WrongAnswer, match=r"^native-layers: inference differs"):
            measure()


@needs_native
def test_a_training_step_that_updates_nothing_is_not_timed(tiny, monkeypatch):
    def lazy(self, inputs, targets, hidden):
        loss, hidden = self.model.loss(inputs, targets, hidden)
        return loss.detach(), tuple(part.detach() for part in hidden)

    monkeypatch.setattr(training.Ours, "step", lazy)
    monkeypatch.setattr(native, "interleave", no_timing)
    with pytest.raises(WrongAnswer, match=r"^native-layers: losses differ"):
        native.measure_training("small", 0.01, None)


@needs_native
def test_a_wrong_stream_is_not_timed(monkeypatch):
    monkeypatch.setattr(fused_lstm.Streaming, "__call__", lambda self, x: torch.zeros_like(x))
    with pytest.raises(WrongAnswer, match="Streaming: y differs from the reference's"):
        streaming.measure(TINY, 0.01)


def test_who_remembers_its_answer_has_no_time(monkeypatch):
    """An engine that is right on the input that was checked, and computes nothing afterwards."""
    seen = {}

    def lstm(x, *others):
        y, h, c = cudnn.lstm(x, *others)
        first = seen.setdefault("y", y.detach())
        return y * 0 + first, h, c

    module = SimpleNamespace(missing=lambda device: None, describe=str, lstm=lstm)
    monkeypatch.setitem(ENGINES, "lazy", Engine("nowhere", ()))
    monkeypatch.setitem(LOADED, "lazy", module)
    base = next(c for c in engines() if c.label == BASE)
    race = line_up(make_problem(TINY), [base, Contender("lazy", "lazy")])
    assert list(race.runners) == [BASE]  # its gradients are wrong from the start
    race = line_up(make_problem(TINY), [base, Contender("cudnn-2", "cudnn")])
    answer = race.runners["cudnn-2"].answer()
    monkeypatch.setattr(race.runners["cudnn-2"], "answer", lambda: answer)
    assert list(race.time("step", 0, least=1, most=1)) == [BASE]
    assert "cudnn-2, on a fresh input: inference differs" in str(race.failed["cudnn-2"])


# --- memory ---


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_freed_memory_is_kept_on_demand():
    """Three blocks of 8 MiB at once, which glibc gives back: mapped anew each time, or never."""
    program = """
import torch
from bench.measure.memory import Counted
run = Counted(lambda: [torch.ones(2**21) for _ in range(3)])
for _ in range(5): run()
print(run.pages[-1])
"""
    without = {k: v for k, v in os.environ.items() if k not in memory.KEEP}
    ask = functools.partial(
        subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    fresh, kept = (int(ask(env=env).stdout) for env in (without, os.environ | memory.KEEP))
    assert kept == 0 < fresh


def test_memory_is_the_peak_beyond_what_was_there():
    mib, zeros = 64, bytes(64 << 20)
    torch.ones(5 * len(zeros) // 4)  # a peak of before, which must not count
    # From the system itself: malloc may have as much left of what other tests have freed.
    found = memory.peak_mib(lambda: mmap.mmap(-1, len(zeros)).write(zeros))
    if found is None:
        pytest.skip("this system does not say how much memory a process has had")
    assert mib - 8 < found < 2 * mib


def test_memory_is_none_where_the_system_does_not_say(monkeypatch):
    def missing(field):
        raise FileNotFoundError("/proc/self/status")

    monkeypatch.setattr(memory, "_status", missing)
    assert memory.peak_mib(lambda: None) is None


def in_this_process(command, **_):
    """`subprocess.run` for `python -m bench native ...`."""
    assert command[1:3] == ["-m", "bench"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = main(command[3:])
    return subprocess.CompletedProcess(command, status, printed.getvalue(), "")


@needs_native
def test_memory_is_measured_for_both(tiny, monkeypatch):
    monkeypatch.setattr(native.subprocess, "run", in_this_process)
    monkeypatch.setattr(native, "memory_of", lambda name, size, text: (name, size, text))
    found = native.measure_memory("small", "a-text")
    assert found == {name: [name, "small", "a-text"] for name in (STOCK, OURS)}


def test_a_memory_process_that_fails_is_an_error_with_its_words(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "out of memory\n")
    monkeypatch.setattr(native.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match=r"^memory of cudnn: out of memory$"):
        native.measure_memory("small", None)


@pytest.mark.parametrize("option", ["--keep-memory", "--isa=avx2"])
def test_what_a_process_has_from_its_start_is_a_process_of_its_own(option, monkeypatch, tmp_path):
    ran, argv = [], ["native", "--sizes", "small", option, f"--json={tmp_path / 'x.json'}"]
    monkeypatch.delenv("FUSED_LSTM_ISA", raising=False)
    monkeypatch.setattr(native, "why_not", lambda device: None)
    done = SimpleNamespace(returncode=3)
    monkeypatch.setattr(native.subprocess, "run", lambda *a, **k: ran.append((a, k)) or done)
    assert main(argv) == 3
    ((command,), how) = ran[0]
    assert command[1:] == ["-m", "bench", *argv]
    wanted = memory.KEEP if option == "--keep-memory" else native.ISAS["avx2"]
    assert not wanted.items() <= os.environ.items()
    assert wanted.items() <= how["env"].items()
    monkeypatch.setattr(os, "environ", how["env"])
    monkeypatch.setattr(native, "run", lambda given: {})
    assert main(argv) == 0  # the other process does not start a third
    assert len(ran) == 1


# --- whole runs ---


@needs_native
def test_a_run_against_stock_pytorch(tiny, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(native, "measure_memory", lambda *_: {STOCK: 10.0, OURS: 5.0})
    written = run("native", tmp_path)
    printed = capsys.readouterr().out
    assert "small: nn.LSTM 10 MiB, native-layers 5 MiB: 0.50 of stock's" in printed
    assert written["machine"]["threads"] >= 1
    assert written["memory_mib"] == {"small": {STOCK: 10, OURS: 5}}
    samples = {found["what"]: found["samples"] for found in written["measured"]}
    assert set(samples) == {what for what, _ in native.GOALS}
    assert set(samples["training step"]) == {STOCK, LOOP, OURS}
    assert set(samples["training step, bf16"]) == {STOCK, OURS}
    for what, sample in samples.items():
        for name in sample:
            line = rf"^{re.escape(what)} +small +{native.CALLED.get(name, name)} +[\d.]+ ms"
            assert re.search(line, printed, re.MULTILINE), (what, name)
            assert min(sample[name]) > 0


@needs_native
def test_a_sweep(tiny, tmp_path):
    measured = run("scaling", tmp_path, "--threads=2")["measured"]
    found = [(m["axis"], m.get("size", m.get("value")), m["threads"]) for m in measured]
    expected = [("threads", "small", 1), ("threads", "small", 2), ("T", 1, 2), ("T", 5, 2)]
    assert found == [*expected, ("H", 4, 2)]
    assert [m["shape"] for m in measured[2:]] == ["l2t1b2h7", "l2t5b2h7", "l2t3b2h4"]


@pytest.mark.parametrize(
    ("threads", "counts"), [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (6, [1, 2, 4, 6])]
)
def test_thread_counts(threads, counts):
    assert scaling.counts_up_to(threads) == counts


@needs_native
def test_each_row_has_its_own_threads(tiny, monkeypatch):
    step, seen = scaling.Local.step, []

    def watched(self):
        seen.append((self.contender.engine, torch.get_num_threads()))
        return step(self)

    monkeypatch.setattr(scaling.Local, "step", watched)
    rows = scaling.measure(TINY, [1, 2], 0)
    assert [r["threads"] for r in rows] == [1, 2]
    counts = {case: seen.count(case) for case in set(seen)}
    assert counts.keys() == {(engine, n) for engine in ("cudnn", "native") for n in (1, 2)}
    assert len(set(counts.values())) == 1, counts


def test_a_burst_is_the_median_less_its_first():
    calls = iter([100.0, *range(short.CALLS), 200.0, *range(10, 10 + short.CALLS)])
    timed, middle = short.burst(lambda: next(calls)), (short.CALLS - 1) / 2
    assert [timed(), timed()] == [middle, middle + 10]


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)], ids=str)
def test_bytes_are_of_what_must_be_read(dtype, size):
    assert short.bytes_of(Shape(16, 1, 3, 5, 2), dtype) == size * 4 * 5 * (3 + 5 + 16 * 2 * 5)


def test_peers_race_in_what_they_can(monkeypatch):
    monkeypatch.setattr(short.peers, "missing", lambda name, device: None)
    labels = {dtype: [c.label for c in short.racing(dtype)] for dtype in short.GOALS}
    assert labels == {torch.float32: ["onnxruntime", "openvino"], torch.bfloat16: ["openvino"]}
    monkeypatch.setattr(short.peers, "missing", lambda name, device: "not installed")
    assert short.racing(torch.float32) == []


@needs_native
def test_short_calls(tiny, tmp_path, capsys):
    measured = run("short", tmp_path)["measured"]
    assert [(m["shape"], m["what"]) for m in measured] == [
        (f"l2t{T}b1h7", dtype) for T in (1, 16) for dtype in ("float32", "bfloat16")
    ]
    assert all(min(s) > 0 for m in measured for s in m["samples"].values())
    assert len(re.findall(r"^a sum over 0 MB: \d+ GB/s$", capsys.readouterr().out, re.M)) == 2


@needs_native
def test_streams(tiny, tmp_path, capsys):
    rows = run("streaming", tmp_path, "--batch-size=2")["measured"]
    names = [row["contender"] for row in rows]
    assert names[:3] == ["Streaming", "the module", "nn.LSTM"]
    assert all(0 < row["p50"] <= row["p99"] for row in rows)
    out = capsys.readouterr().out
    assert all(f" {name} " in out for name in names)


@needs_native
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # of DPLSTM's own layers
def test_gradients_of_samples(tiny, tmp_path, capsys):
    (found,) = run("samples", tmp_path, "--batch-size=3")["measured"]
    names = [samples.ORDINARY, samples.FUNC]
    if importlib.util.find_spec("opacus") is not None:
        names += [samples.OURS, samples.THEIRS]
    assert found["shape"] == "l2t3b3h7"
    assert set(found["samples"]) == set(names)
    assert all(min(sample) > 0 for sample in found["samples"].values())
    assert all(name in capsys.readouterr().out for name in names[:1])


@needs_native
def test_gradients_that_are_wrong_are_not_timed(tiny, monkeypatch):
    monkeypatch.setattr(samples, "interleave", no_timing)
    right = samples.Func.answer
    monkeypatch.setattr(
        samples.Func, "answer", lambda self: {n: g * 1.01 for n, g in right(self).items()}
    )
    with pytest.raises(WrongAnswer, match=r"torch\.func: weight_ih_l0 differs"):
        samples.measure(TINY, 0.01)


# --- parts of a step, and steps under autocast ---


@needs_native
@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [OURS, STOCK])
def test_a_step_is_the_sum_of_its_parts(tiny, name, autocast):
    learner = Learner(LEARNERS[name], make_lesson("small", autocast=autocast))
    found = parts.parts_of(learner, steps=3)
    assert found.keys() == {*parts.PARTS, parts.REST}
    absent = set() if autocast else {"casts"}
    assert all(time > 0 for part, time in found.items() if part not in absent), found


def test_an_operator_within_one_that_has_a_part_is_not_counted_again():
    class Event:
        def __init__(self, name, caller=None):
            self.name, self.cpu_parent = name, caller

    outer = Event("aten::linear")
    between = Event("aten::addmm", outer)
    assert not parts._inside(outer)
    assert parts._inside(Event("aten::to", between))
    assert not parts._inside(Event("aten::to", Event("aten::addmm")))


@needs_native
def test_parts_are_printed_and_written(tiny, tmp_path, capsys):
    measured = run("parts", tmp_path, "--steps=1")["parts_ms"]["small"]
    shown = capsys.readouterr().out
    assert "small, float32" in shown
    assert all(f"\n{part:24}" in shown for part in parts.PARTS)
    assert measured.keys() == {OURS, STOCK}
    assert measured[OURS]["softmax layer and loss"] > 0


@needs_native
@pytest.mark.parametrize("name", [OURS, STOCK])
def test_both_learn_under_autocast_and_round(tiny, name):
    exact = make_lesson("small")
    given = dataclasses.replace(exact, autocast=torch.bfloat16)
    answer, right = Learner(LEARNERS[name], given).answer(), expected(given)
    require_right(name, answer, right, torch.bfloat16)
    with pytest.raises(WrongAnswer):  # no bfloat16 has passed for float32
        require_right(name, answer, right)
    require_right("float32", Learner(LEARNERS[name], exact).answer(), right)
