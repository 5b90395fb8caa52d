"""bench.cpu_short: a burst, a line and a whole run."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
import torch

from bench import cpu_short
from bench.check import WrongAnswer
from bench.contenders import Contender
from bench.cpu import OURS, STOCK
from bench.work import Shape
from fused_lstm import cudnn, native
from fused_lstm.engines import ENGINES, LOADED, Engine

CPU = torch.device("cpu")
WHY_NOT = native.missing(CPU)
needs_native = pytest.mark.skipif(WHY_NOT is not None, reason=f"native: {WHY_NOT}")


def test_a_burst_is_the_median_less_its_first():
    calls = iter([100.0, *range(cpu_short.CALLS), 200.0, *range(10, 10 + cpu_short.CALLS)])
    timed = cpu_short.burst(lambda: next(calls))
    middle = (cpu_short.CALLS - 1) / 2
    assert [timed(), timed()] == [middle, middle + 10]


@pytest.mark.parametrize(
    ("dtype", "weights"), [(torch.float32, 4), (torch.bfloat16, 2)], ids=["float32", "bfloat16"]
)
def test_bytes_are_of_what_must_be_read(dtype, weights):
    row = cpu_short.Row(Shape(16, 1, 3, 5, 2), dtype, {})
    assert row.bytes() == weights * 4 * 5 * (3 + 5 + 16 * 2 * 5)


@pytest.mark.parametrize(
    ("dtype", "stock", "verdict"),
    [
        (torch.float32, 1.99, "BELOW"),
        (torch.float32, 2.0, "target"),
        (torch.bfloat16, 4.9, "floor"),
        (torch.bfloat16, 5.0, "target"),
    ],
)
def test_lines_by_hand(dtype, stock, verdict):
    samples = {STOCK: [stock] * 3, OURS: [1.0] * 3, "openvino": [1.5, 3.0, 4.5]}
    row = cpu_short.Row(Shape(1, 1, 50, 50, 1), dtype, samples)
    theirs, ours, peer = cpu_short.lines(row)
    assert theirs.split()[-2:] == [f"{stock:.2f}", verdict]
    assert ours.split()[-1] == "1.00"
    assert "3000.000 (2250.000 to 3750.000)" in peer
    assert peer.startswith(f"T=1   H=50   {str(dtype).removeprefix('torch.')}")
    assert peer.split()[-1] == "3.00"


def test_peers_race_in_what_they_can(monkeypatch):
    monkeypatch.setattr(cpu_short.peers, "missing", lambda name, device: None)
    labels = {dtype: [c.label for c in cpu_short.racing(dtype)] for dtype in cpu_short.DTYPES}
    assert labels == {torch.float32: ["onnxruntime", "openvino"], torch.bfloat16: ["openvino"]}
    monkeypatch.setattr(cpu_short.peers, "missing", lambda name, device: "not installed")
    assert cpu_short.racing(torch.float32) == []


def test_a_wrong_answer_is_not_timed(monkeypatch):
    def lstm(*arguments):
        y, h, c = cudnn.lstm(*arguments)
        return y, h * 1.01, c

    module = SimpleNamespace(missing=lambda device: None, describe=str, lstm=lstm)
    monkeypatch.setitem(ENGINES, "wrong", Engine("nowhere", ()))
    monkeypatch.setitem(LOADED, "wrong", module)
    monkeypatch.setitem(cpu_short.ENGINES, OURS, Contender(OURS, "wrong", None))
    monkeypatch.setattr(cpu_short, "PEERS", ())
    monkeypatch.setattr(cpu_short, "interleave", lambda *_: pytest.fail("it was timed"))
    with pytest.raises(WrongAnswer, match=r"^native: h_n differs"):
        cpu_short.measure(Shape(2, 1, 7, 7, 2), torch.float32, 0.01)


@needs_native
def test_a_run_prints_a_line_each_and_writes_its_samples(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cpu_short, "WIDTHS", {"medium": 6, "large": 9})
    monkeypatch.setattr(cpu_short, "PEERS", ())
    file = tmp_path / "short.json"
    options = ["--seconds", "0.01", "--threads", "1", "--json", str(file)]
    assert cpu_short.main(["--size", "large", *options]) == 0
    printed = capsys.readouterr().out
    for T in cpu_short.STEPS:
        for dtype in ("float32", "bfloat16"):
            for name in (STOCK, OURS):
                line = rf"^T={T} +H=9 +{dtype} +{re.escape(name)} +[\d.]+ \([\d.]+ to [\d.]+\)"
                assert re.search(line, printed, re.MULTILINE), (T, dtype, name)
    assert len(re.findall(r"^a sum over 0 MB: \d+ GB/s$", printed, re.MULTILINE)) == 2
    written = json.loads(file.read_text())["measured"]
    assert [(m["shape"]["T"], m["dtype"]) for m in written] == [
        (T, dtype) for T in (1, 16) for dtype in ("float32", "bfloat16")
    ]
    assert all(min(s) > 0 for m in written for s in m["samples"].values())


def test_no_threads_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(cpu_short, "run", lambda given: pytest.fail("it ran"))
    assert cpu_short.main(["--threads", "0"]) == 2
    assert capsys.readouterr().err == "bench.cpu_short: --threads must be at least 1, got 0\n"
