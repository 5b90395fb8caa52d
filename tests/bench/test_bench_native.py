"""The topic `native`: a row's lines, who is refused, and a run against stock PyTorch."""

from __future__ import annotations

import dataclasses
import os
import re
from types import SimpleNamespace

import pytest
import torch

from bench import rows, training
from bench.__main__ import main
from bench.contenders import BASE, LOOP, NAMES, Contender
from bench.measure import memory
from bench.measure.check import WrongAnswer, require_right
from bench.rows import OURS
from bench.topics import native, scaling, short
from bench.topics.native import LEARNERS
from bench.training import Learner, expected, make_lesson
from entrant import enter
from fused_lstm import cudnn
from topic import TINY, needs_native, no_timing, run

# --- a row's lines, by hand ---


def row(samples: dict, size: str = "small", **about) -> dict:
    found = native.named("forward + backward", "float32", size) | about
    return found | {"samples": samples, "pages": dict.fromkeys(samples, 7)}


def test_a_ratio_is_of_medians_and_its_quartiles_are_within_rounds():
    samples = {BASE: [2.0, 3.0, 4.0], OURS: [1.0, 2.0, 2.0]}
    theirs, ours = rows.lines(row(samples, flops=10**9))
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
    line, _ = rows.lines(row(samples, size))
    assert line.split()[-1] == verdict


def test_rates():
    samples = {OURS: [0.001, 0.002, 0.003]}
    assert " 200000 words/s" in rows.lines(row(samples, words=400))[0]
    assert " 500 GB/s" in rows.lines(row(samples, bytes=10**9))[0]


# --- who is refused ---


@pytest.fixture
def wrong(monkeypatch):
    """A contender whose output is one per cent too large."""

    def lstm(*arguments):
        y, h, c = cudnn.run(*arguments)
        return y * 1.01, h, c

    enter(monkeypatch, "wrong", lstm)
    return Contender(OURS, "wrong")


def test_a_wrong_engine_is_not_timed(tiny, wrong, monkeypatch):
    monkeypatch.setattr(native, "LSTMS", [native.LSTMS[0], wrong])
    monkeypatch.setitem(scaling.RACERS, OURS, wrong)
    for module in (rows, scaling):
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
    monkeypatch.setattr(rows, "interleave", no_timing)
    with pytest.raises(WrongAnswer, match=r"^native-layers: losses differ"):
        native.measure_training("small", 0.01, None)


@needs_native
def test_a_text_is_timed_and_random_words_are_compared(tiny, corpus_dir, monkeypatch):
    """PyTorch's float32 norm, which clips a text's first gradient, is off by up to 3e-4."""
    checked, timed, text = [], [], make_lesson("small", text=str(corpus_dir))
    monkeypatch.setattr(native, "check", lambda runners, _: checked.extend(runners.values()))
    monkeypatch.setattr(native, "take_turns", lambda cases, *_, **__: timed.extend(cases.values()))
    monkeypatch.setattr(Learner, "timed", lambda self, mode: self.lesson)
    native.measure_training("small", 0, str(corpus_dir))
    assert len(timed) == len(checked) == 3
    assert not any(torch.equal(learner.lesson.inputs, text.inputs) for learner in checked)
    assert all(torch.equal(lesson.inputs, text.inputs) for lesson in timed)


@needs_native
@pytest.mark.parametrize("name", [OURS, BASE])
def test_both_learn_under_autocast_and_round(tiny, name):
    exact = make_lesson("small")
    given = dataclasses.replace(exact, autocast=torch.bfloat16)
    answer, right = Learner(LEARNERS[name], given).answer(), expected(given)
    require_right(name, answer, right, torch.bfloat16)
    with pytest.raises(WrongAnswer):  # no bfloat16 has passed for float32
        require_right(name, answer, right)
    require_right("float32", Learner(LEARNERS[name], exact).answer(), right)


def test_amx_has_goals_of_its_own(monkeypatch):
    monkeypatch.setattr(native, "has_amx", lambda: False)
    assert native.goals_of("forward + backward, bf16", "large") == {}
    monkeypatch.setattr(native, "has_amx", lambda: True)
    assert native.goals_of("forward + backward, bf16", "large") == {BASE: (3.0, 5.0)}
    plain = native.goals_of("forward + backward", "large")
    assert plain == {BASE: (1.3, 1.5), LOOP: (5.0, 5.0)}


@needs_native
def test_switches_are_asked_for_and_put_back(tiny, monkeypatch):
    switches, seen = (torch.backends.mkldnn.rnn, torch.backends.mkldnn.matmul), []
    before = [switch.fp32_precision for switch in switches]

    def measure(size, seconds, numbers):
        seen.append((numbers, *(switch.fp32_precision for switch in switches)))
        return []

    monkeypatch.setattr(native, "has_amx", lambda: True)
    monkeypatch.setattr(native, "measure_lstm", measure)
    monkeypatch.setattr(native, "measure_training", lambda *_: {})
    monkeypatch.setattr(native, "show", lambda row: row)
    monkeypatch.setattr(native, "measure_memory", lambda *_: {BASE: None, OURS: None})
    native.run(SimpleNamespace(sizes=["small"], seconds=0, data=None, isa=None))
    assert seen == [
        ("float32", "ieee", "ieee"), ("bf16", "ieee", "ieee"), ("tf32", "tf32", "tf32")
    ]  # fmt: skip
    assert [switch.fp32_precision for switch in switches] == before
    assert native.numbers_of("avx2") == ["float32"]


# --- whole runs ---


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


@needs_native
def test_a_run_against_stock_pytorch(tiny, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(native, "measure_memory", lambda *_: {BASE: 10.0, OURS: 5.0})
    written = run("native", tmp_path)
    printed = capsys.readouterr().out
    assert "small: nn.LSTM 10 MiB, native-layers 5 MiB: 0.50 of stock's" in printed
    assert written["machine"]["threads"] >= 1
    assert written["memory_mib"] == {"small": {BASE: 10, OURS: 5}}
    samples = {found["what"]: found["samples"] for found in written["measured"]}
    assert set(samples) == {
        what + numbers
        for what in (*native.MODES, "training step")
        for numbers in ("", ", bf16", *([", tf32"] if native.has_amx() else []))
    }
    assert set(samples["training step"]) == {BASE, LOOP, OURS}
    assert all(set(samples[what]) == {BASE, OURS} for what in samples if what.endswith("bf16"))
    for what, sample in samples.items():
        for name in sample:
            line = rf"^{re.escape(what)} +small +{NAMES.get(name, name)} +[\d.]+ ms"
            assert re.search(line, printed, re.MULTILINE), (what, name)
            assert min(sample[name]) > 0
