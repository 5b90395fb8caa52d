"""`python -m bench.measured`: which commands run, what they leave, and what went wrong."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import __main__, machine, measured, tables

ROWS = {
    "quick": {"command": "layers --cases 'a b'", "minutes": 1},
    "tiles": {"command": "post", "minutes": 1, "isa": "amx"},
    "wrong": {"command": "samples", "minutes": 1},
}


@pytest.fixture
def ran(monkeypatch) -> list[list[str]]:
    """Return the commands that were run, without running them; `samples` fails."""
    commands: list[list[str]] = []

    def run(command: list[str], **how: object) -> SimpleNamespace:
        commands.append(command)
        Path(command[-1]).write_text("{}\n")
        return SimpleNamespace(returncode=__main__.FAILED if "samples" in command else 0)

    monkeypatch.setattr(tables, "definitions", lambda: {"measured": ROWS})
    monkeypatch.setattr(machine, "settings", lambda: {"native_isa": "avx2"})
    monkeypatch.setattr(machine, "commit", lambda: "abc")
    monkeypatch.setattr(measured.subprocess, "run", run)
    return commands


def test_all_files_of_this_cpu_are_measured_and_what_failed_is_said_at_the_end(
    ran, tmp_path, capsys
):
    assert measured.main([str(tmp_path)]) == 1
    assert [command[2:-2] for command in ran] == [
        ["bench", "layers", "--cases", "a b"], ["bench", "samples"],
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "quick.jsonl", "quick.log", "wrong.jsonl", "wrong.log",
    ]  # fmt: skip
    assert capsys.readouterr().out.splitlines() == [
        "commit abc, avx2",
        "quick: 0.0 minutes, 0.0 in all",
        "tiles: skipped, needs a CPU with amx",
        "wrong: 0.0 minutes, 0.0 in all",
        f"wrong: a contender failed, see {tmp_path / 'wrong.log'}",
    ]


def test_a_file_that_is_there_is_left(ran, tmp_path):
    (tmp_path / "quick.jsonl").write_text("")
    assert measured.main([str(tmp_path), "--only=quick"]) == 0
    assert not ran


def test_a_run_that_is_cut_off_leaves_no_file(ran, monkeypatch, tmp_path):
    def cut_off(command: list[str], **how: object) -> None:
        Path(command[-1]).write_text("{}\n")
        raise KeyboardInterrupt

    monkeypatch.setattr(measured.subprocess, "run", cut_off)
    with pytest.raises(KeyboardInterrupt):
        measured.main([str(tmp_path), "--only=quick"])
    assert not (tmp_path / "quick.jsonl").exists()


def test_a_name_that_is_none_is_refused(ran, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        measured.main([str(tmp_path), "--only=slow"])
    assert "--only: got 'slow'; expected of quick, tiles, wrong" in capsys.readouterr().err
