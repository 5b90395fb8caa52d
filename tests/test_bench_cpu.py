"""bench.cpu and bench.cpu_scaling: ratios by hand, who is refused, what a run prints and writes."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import subprocess
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bench import cpu, cpu_scaling, learner, lesson, pages
from bench.check import WrongAnswer
from bench.contenders import Contender
from bench.cpu import LOOP, OURS, RUNGS, STOCK
from bench.work import Shape
from fused_lstm import cudnn, native
from fused_lstm.engines import ENGINES, LOADED, Engine

WHY_NOT = native.missing(cpu.CPU)
needs_native = pytest.mark.skipif(WHY_NOT is not None, reason=f"native: {WHY_NOT}")
TINY = Shape(3, 2, 7, 7, 2)


@pytest.fixture
def tiny(monkeypatch):
    """The small preset takes milliseconds; one thread, for two would wait for a busy machine."""
    torch.set_num_threads(1)
    T, B, _, H, L = TINY
    config = dataclasses.replace(
        lesson.PRESETS["small"], num_steps=T, batch_size=B, hidden_size=H, num_layers=L
    )
    monkeypatch.setitem(lesson.PRESETS, "small", config)
    monkeypatch.setitem(cpu.SIZES, "small", TINY)
    monkeypatch.setattr(lesson, "VOCABULARY", 11)


@pytest.fixture
def wrong(monkeypatch):
    """A contender whose output is one per cent too large."""

    def lstm(*arguments):
        y, h, c = cudnn.lstm(*arguments)
        return y * 1.01, h, c

    module = SimpleNamespace(missing=lambda device: None, describe=str, lstm=lstm)
    monkeypatch.setitem(ENGINES, "wrong", Engine("nowhere", ()))
    monkeypatch.setitem(LOADED, "wrong", module)
    return Contender("wrong", "wrong", None)


def no_timing(*_, **__):
    pytest.fail("it was timed all the same")


# --- ratios ---


@pytest.fixture
def goals(monkeypatch):
    monkeypatch.setattr(
        cpu,
        "GOALS",
        {
            ("forward + backward", STOCK): ((1.3, 1.3, 1.6), 1.8),
            ("training step", LOOP): ((2.0, 2.0, 2.0), 3.0),
        },
    )


def test_a_ratio_is_of_medians_and_its_quartiles_are_within_rounds(goals):
    samples = {STOCK: [2.0, 3.0, 4.0], RUNGS[0].label: [9.0] * 3, RUNGS[-1].label: [1.0, 2.0, 2.0]}
    found = cpu.entry("forward + backward", "large", samples, {})
    # Within the rounds 2, 1.5 and 2: their median is not 3 / 2.
    expected = ("forward + backward", "large", STOCK, 1.5, (1.75, 2.0, 2.0), 1.6, 1.8)
    assert cpu.ratio_rows(found) == [expected]


def test_a_training_steps_ratio_is_ours_by_name(goals):
    found = cpu.entry("training step", "small", {LOOP: [5.0], OURS: [2.0]}, {}, words=40)
    assert cpu.ratio_rows(found) == [
        ("training step", "small", LOOP, 2.5, (2.5, 2.5, 2.5), 2.0, 3.0)
    ]


@pytest.mark.parametrize(
    ("size", "stock", "verdict"),
    [
        ("small", 1.29, "BELOW"),
        ("small", 1.3, "floor"),
        ("small", 1.79, "floor"),
        ("small", 1.8, "target"),
        ("large", 1.3, "BELOW"),
    ],
    ids=["below", "at-the-floor", "above-it", "at-the-target", "another-sizes-floor"],
)
def test_verdicts(goals, capsys, size, stock, verdict):
    samples = {STOCK: [stock], RUNGS[-1].label: [1.0]}
    cpu.print_ratios(cpu.entry("forward + backward", size, samples, {}))
    printed = capsys.readouterr().out
    assert f"{stock:.2f} to {stock:.2f}" in printed
    assert printed.split()[-1] == verdict


@pytest.mark.parametrize(
    ("work", "says"), [({"flops": 10**9}, "500 GF/s"), ({"words": 400}, "200000 words/s")]
)
def test_times_and_rates(capsys, work, says):
    samples = {OURS: [0.001, 0.002, 0.003]}
    cpu.print_times(cpu.entry("a step", "small", samples, {OURS: 7}, **work))
    printed = capsys.readouterr().out
    assert "2.00 ms (1.50 to 2.50)" in printed
    assert re.search(rf" {says} +7 pages$", printed.strip())


# --- who is refused ---


def test_checked_refuses_a_wrong_answer():
    right = {"y": torch.ones(2, 3), "x.grad": torch.ones(3)}
    others = {"close": right | {"y": right["y"] + 1e-5}, "far": right | {"y": right["y"] + 1e-2}}
    known = {STOCK: right, **others}
    contenders = {n: SimpleNamespace(answer=lambda a=a: a) for n, a in known.items()}
    with pytest.raises(WrongAnswer, match=r"^far: y differs from the reference's by 0\.01"):
        cpu.checked(contenders)
    del contenders["far"]
    assert cpu.checked(contenders) == {STOCK: 0, "close": pytest.approx(1e-5, rel=0.1)}


def test_a_wrong_engine_is_not_timed(tiny, wrong, monkeypatch):
    monkeypatch.setattr(cpu, "LSTMS", [cpu.LSTMS[0], wrong])
    monkeypatch.setattr(cpu, "interleave", no_timing)
    with pytest.raises(WrongAnswer, match=r"^wrong: inference differs"):
        cpu.measure_lstm("small", 0.01)


@needs_native
def test_a_training_step_that_updates_nothing_is_not_timed(tiny, monkeypatch):
    def lazy(self, inputs, targets, hidden):
        loss, hidden = self.model.loss(inputs, targets, hidden)
        return loss.detach(), tuple(part.detach() for part in hidden)

    monkeypatch.setattr(learner.Ours, "step", lazy)
    monkeypatch.setattr(cpu, "interleave", no_timing)
    with pytest.raises(WrongAnswer, match=r"^native: losses differ"):
        cpu.measure_training("small", 0.01, None)


# --- memory ---


def test_memory_is_the_peak_beyond_what_was_there(tiny, monkeypatch):
    mib, words = 64, 2**20 // 4
    fake = SimpleNamespace(model=nn.Linear(1, 1), step=lambda: torch.ones(mib * words))
    monkeypatch.setattr(cpu, "Learner", lambda *_: fake)
    torch.ones(5 * mib * words)  # a peak of before, which must not count
    found = cpu.memory_of(STOCK, "small", None)
    if found is None:
        pytest.skip("this system does not say how much memory a process has had")
    assert mib - 8 < found < 2 * mib


def test_memory_is_none_where_the_system_does_not_say(tiny, monkeypatch):
    def missing(field):
        raise FileNotFoundError("/proc/self/status")

    monkeypatch.setattr(cpu, "_status", missing)
    assert cpu.memory_of(STOCK, "small", None) is None


def in_this_process(command, **_):
    """`subprocess.run` for `python -m bench.cpu ...`."""
    assert command[1:3] == ["-m", "bench.cpu"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = cpu.main(command[3:])
    return subprocess.CompletedProcess(command, status, printed.getvalue(), "")


@needs_native
def test_memory_is_measured_for_both(tiny, monkeypatch):
    monkeypatch.setattr(cpu.subprocess, "run", in_this_process)
    monkeypatch.setattr(cpu, "memory_of", lambda name, size, text: (name, size, text))
    found = cpu.measure_memory("small", "a-text")
    assert found == {name: [name, "small", "a-text"] for name in (STOCK, OURS)}


def test_a_memory_process_that_fails_is_an_error_with_its_words(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "out of memory\n")
    monkeypatch.setattr(cpu.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match=r"^memory of nn\.LSTM: out of memory$"):
        cpu.measure_memory("small", None)


# --- the commands ---


@needs_native
def test_a_run_prints_its_tables_and_writes_its_samples(tiny, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cpu, "measure_memory", lambda *_: {STOCK: 10.0, OURS: 5.0})
    file = tmp_path / "new" / "cpu.json"
    options = ["--seconds", "0.01", "--threads", "1", "--json", str(file)]
    assert cpu.main(["--size", "small", *options]) == 0
    printed = capsys.readouterr().out
    for what, against in cpu.GOALS:
        row = rf"^{re.escape(what)} +small +{re.escape(against)} +\d+\.\d\d +\d.* to \d.* / \d"
        assert re.search(row, printed, re.MULTILINE), (what, against)
    for contender in cpu.LSTMS:
        assert printed.count(f"small   {contender.label:18}") >= len(cpu.MODES), contender
    assert "small: nn.LSTM 10 MiB, native 5 MiB: 0.50 of stock's" in printed
    written = json.loads(file.read_text())
    assert written["machine"]["threads"] >= 1
    assert written["memory_mib"] == {"small": {STOCK: 10, OURS: 5}}
    samples = {found["what"]: found["samples"] for found in written["measured"]}
    assert set(samples) == {what for what, _ in cpu.GOALS}
    assert set(samples["training step"]) == {STOCK, LOOP, OURS}
    assert set(samples["training step, bf16"]) == {STOCK, OURS}
    assert all(t > 0 for sample in samples.values() for s in sample.values() for t in s)
    assert all(set(found["pages"]) == set(found["samples"]) for found in written["measured"])


@pytest.mark.parametrize("option", ["--keep-memory", "--isa=avx2"])
def test_what_a_process_has_from_its_start_is_a_process_of_its_own(option, monkeypatch):
    ran = []
    monkeypatch.delenv("FUSED_LSTM_ISA", raising=False)
    monkeypatch.setattr(cpu, "may_run", lambda *_: True)
    monkeypatch.setattr(
        cpu.subprocess, "run", lambda *a, **k: ran.append((a, k)) or SimpleNamespace(returncode=3)
    )
    assert cpu.main(["--size", "small", option]) == 3
    ((command,), how) = ran[0]
    assert command[1:] == ["-m", "bench.cpu", "--size", "small", option]
    wanted = pages.KEEP if option == "--keep-memory" else cpu.ISAS["avx2"]
    assert not wanted.items() <= os.environ.items()
    assert wanted.items() <= how["env"].items()
    monkeypatch.setattr(os, "environ", how["env"])
    monkeypatch.setattr(cpu, "run", lambda given: {})
    monkeypatch.setattr(cpu, "save", lambda *_: None)
    assert cpu.main(["--size", "small", option]) == 0  # the other process does not start a third
    assert len(ran) == 1


COMMANDS = pytest.mark.parametrize("command", [cpu, cpu_scaling], ids=["cpu", "cpu_scaling"])


def refusal(command, arguments, monkeypatch, capsys) -> str:
    monkeypatch.setattr(command, "run", no_timing)
    assert command.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err.removeprefix(f"{command.__name__}: ")


@COMMANDS
def test_without_the_native_engine_it_is_one_line(command, monkeypatch, capsys):
    monkeypatch.setattr(cpu.fused_lstm, "available_engines", lambda device: {"native": "not built"})
    says = refusal(command, [], monkeypatch, capsys)
    assert says == "the native engine cannot run here: not built\n"


@COMMANDS
def test_no_threads_is_one_line(command, monkeypatch, capsys):
    says = refusal(command, ["--threads", "0"], monkeypatch, capsys)
    assert says == "--threads must be at least 1, got 0\n"


# --- scaling ---


def row(native: float, stock: float, threads: int = 2) -> dict:
    seconds = {OURS: native, STOCK: stock}
    return {
        "shape": Shape(20, 20, 200, 200, 2)._asdict(),
        "threads": threads,
        "flops": 4 * 10**8,
        "seconds": {n: {"q1": s / 2, "median": s, "q3": 2 * s} for n, s in seconds.items()},
    }


def test_a_line_by_hand():
    words = cpu_scaling.line("T=20", row(0.002, 0.003)).split()
    assert words == [
        *("T=20", "2", "2.00", "(1.00", "to", "4.00)", "200", "5.00"),  # 2 ms / 400 tokens
        *("3.00", "133", "1.50"),
    ]
    with_gains = cpu_scaling.line("small", row(0.002, 0.003), row(0.004, 0.003, 1))
    assert with_gains.endswith("  2.00, 1.00")


@pytest.mark.parametrize(
    ("threads", "expected"),
    [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (6, [1, 2, 4, 6])],
)
def test_thread_counts(threads, expected):
    assert cpu_scaling.counts_up_to(threads) == expected


@needs_native
def test_a_sweep_prints_a_table_and_writes_quartiles(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cpu_scaling, "SIZES", {"small": TINY})
    monkeypatch.setattr(cpu_scaling, "START", {"T": 3, "B": 2, "H": 7})
    monkeypatch.setattr(cpu_scaling, "AXES", {"T": (1, 5), "H": (4,)})
    file = tmp_path / "scaling.json"
    assert cpu_scaling.main(["--threads", "2", "--seconds", "0.01", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    measured = json.loads(file.read_text())["measured"]
    found = [(m["axis"], m.get("size", m.get("value")), m["threads"]) for m in measured]
    expected = [("threads", "small", 1), ("threads", "small", 2), ("T", 1, 2), ("T", 5, 2)]
    assert found == [*expected, ("H", 4, 2)]
    assert [tuple(m["shape"].values()) for m in measured[2:]] == [
        (1, 2, 7, 7, 2),
        (5, 2, 7, 7, 2),
        (3, 2, 4, 4, 2),
    ]
    for m in measured:
        assert m["flops"] == Shape(**m["shape"]).flops("step")
        for name in (STOCK, OURS):
            assert 0 < m["seconds"][name]["q1"] <= m["seconds"][name]["median"]
        label = m.get("size") or f"{m['axis']}={m['value']}"
        assert re.search(rf"^{label} +{m['threads']} +\d", printed, re.MULTILINE), label
    assert "T, at B=2 H=7" in printed


@needs_native
def test_each_row_has_its_own_threads(monkeypatch):
    step, seen = cpu_scaling.Local.step, []

    def watched(self):
        seen.append((self.contender.engine, torch.get_num_threads()))
        return step(self)

    monkeypatch.setattr(cpu_scaling.Local, "step", watched)
    rows = cpu_scaling.measure(TINY, [1, 2], 0)
    assert [r["threads"] for r in rows] == [1, 2]
    counts = {case: seen.count(case) for case in set(seen)}
    assert counts.keys() == {(engine, n) for engine in ("cudnn", "native") for n in (1, 2)}
    assert len(set(counts.values())) == 1, counts


def test_a_sweep_refuses_a_wrong_engine(wrong, monkeypatch):
    monkeypatch.setitem(cpu_scaling.RACERS, OURS, wrong)
    monkeypatch.setattr(cpu_scaling, "interleave", no_timing)
    with pytest.raises(WrongAnswer, match=r"^native: inference differs"):
        cpu_scaling.measure(TINY, [1], 0)
