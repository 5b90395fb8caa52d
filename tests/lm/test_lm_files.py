"""What is written is whole or absent, and only what a killed process left is removed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lm.errors import UserError
from lm.saving import files
from lm_cases import ROOT

NAME = "x" * 255  # the longest that a file system takes
WRITER = """
import sys
from pathlib import Path
from lm.saving import files
with files.temporary_directory(Path(sys.argv[1])) as place:
    print(place, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path):
    """A process that is writing a directory called "out", and the temporary name that it has."""
    command = [sys.executable, "-c", WRITER, str(tmp_path / "out")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        yield process, tmp_path / process.stdout.readline().strip()
        process.kill()


def test_what_another_process_is_writing_stays(tmp_path, writer):
    _, place = writer
    with files.whole_directory(tmp_path / "out") as own:
        assert own != place
    assert place.is_dir()


def test_what_a_killed_process_was_writing_goes(tmp_path, writer):
    process, place = writer
    process.kill()
    process.wait()
    assert place.is_dir()
    files.write_atomically(tmp_path / "other", b"")
    assert place.is_dir()  # of another file
    files.write_atomically(tmp_path / "out", b"new")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    assert (tmp_path / "out").read_bytes() == b"new"


def test_a_temporary_that_is_taken_for_stale_before_its_lock_is_made_again(tmp_path, monkeypatch):
    real, places = os.open, []

    def removed_first(path, *more):
        if str(path).endswith(".tmp"):
            places.append(path)
            if len(places) == 1:
                os.rmdir(path)
        return real(path, *more)

    monkeypatch.setattr(os, "open", removed_first)
    with files.whole_directory(tmp_path / "out"):
        pass
    assert len(set(places)) > 1
    assert (tmp_path / "out").is_dir()


def test_a_directory_that_came_to_be_meanwhile_stays(tmp_path, monkeypatch):
    real = Path.rename

    def late(place, target):
        target.mkdir()
        (target / "other").touch()
        return real(place, target)

    monkeypatch.setattr(Path, "rename", late)
    with pytest.raises(FileExistsError), files.whole_directory(tmp_path / "out"):
        pass
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "other"]


@pytest.mark.parametrize("make", [files.write_atomically, None], ids=["file", "directory"])
def test_the_longest_name_can_be_written(tmp_path, make):
    path = tmp_path / NAME
    if make is None:
        with files.whole_directory(path):
            pass
    else:
        make(path, b"")
    assert [p.name for p in tmp_path.iterdir()] == [NAME]


def test_a_longer_name_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*: File name too long"):
        files.write_atomically(tmp_path / (NAME + "x"), b"")
    with pytest.raises(UserError, match=r"--summary: cannot write .*: File name too long"):
        files.check_output(tmp_path / (NAME + "x"), "--summary")
    assert list(tmp_path.iterdir()) == []


def test_a_device_is_not_replaced_by_a_file():
    with pytest.raises(UserError, match="--summary: '/dev/null' is no file"):
        files.check_output(files.Path("/dev/null"), "--summary")


def test_half_a_surrogate_pair_is_escaped():
    """A file's name may hold one, where its bytes are no UTF-8."""
    assert files.to_json("\udcff") == b'"\\udcff"\n'
