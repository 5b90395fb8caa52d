"""The driver, `python -m bench`: what it lists, and what it refuses of every topic."""

from __future__ import annotations

import re

import pytest

import fused_lstm
from bench.__main__ import TOPICS, main
from bench.measure.check import WrongAnswer

ANYWHERE = [topic for topic in TOPICS if topic != "gpu"]  # which asks for a GPU first
NATIVE = [topic for topic in ANYWHERE if topic not in ("ladder", "post")]  # cannot run without it


def test_without_a_topic_it_lists_them(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    assert all(re.search(rf"^{topic} +\w", said, re.MULTILINE) for topic in TOPICS)
    assert main(["nothing"]) == 2
    assert "'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize("topic", ANYWHERE)
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--threads", "0"], "argument --threads: must be a whole number, at least 1"),
        (["--seconds", "0"], "argument --seconds: must be a number, more than 0; got '0'"),
        (["--seconds", "x"], "argument --seconds: must be a number, more than 0; got 'x'"),
        (["--sizes", "huge"], "--sizes: got 'huge', should be of small, medium, large"),
        (["--device", "toaster"], "--device toaster: "),
    ],
    ids=["threads", "seconds", "no-number", "size", "device"],
)
def test_bad_options_are_one_line(topic, options, says, capsys):
    with pytest.raises(SystemExit) as stop:
        main([topic, *options])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"bench {topic}: {says}")
    assert said.count("\n") == 1


def test_a_wrong_answer_is_one_line(monkeypatch, capsys, tmp_path):
    def refuse(given):
        raise WrongAnswer("loop: y differs")

    monkeypatch.setattr("bench.topics.ladder.run", refuse)
    with pytest.raises(SystemExit) as stop:
        main(["ladder", f"--json={tmp_path / 'x.json'}"])
    assert stop.value.code == 1
    assert capsys.readouterr().err == "bench ladder: refused: loop: y differs\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("topic", NATIVE)
def test_without_the_native_engine_it_is_one_line(topic, monkeypatch, capsys):
    monkeypatch.setattr(fused_lstm, "available_engines", lambda device: {"native": "not built"})
    with pytest.raises(SystemExit):
        main([topic])
    says = "the native engine cannot run here: not built"
    assert capsys.readouterr().err == f"bench {topic}: {says}\n"
