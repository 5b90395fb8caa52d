"""The compiler of cells and its cache: what is damaged is made again, what cannot be is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import fresh
import fused_lstm
from cases import needs_native
from fused_lstm.cells import compile as compiling


def run(script: str, **environment: str) -> fresh.Done:
    return fresh.run(script, imported=fresh.CELLS, **environment)[0]


USE = """
import warnings, torch, fused_lstm
warnings.simplefilter("always")
{more}
@fused_lstm.cell(states="h")
def leak(a, *, h):
    return a + {factor} * h
for _ in range(2):
    module = fused_lstm.Recurrent(leak, 4, 8, engine={engine!r})
y, h = module(torch.ones(3, 2, 4))
print(fused_lstm.call.choose.choose(module.engine, None, y.device, module.spec)[0], len(y))
"""


def script(factor: float, engine: str = "auto", more: str = "") -> str:
    """Return a program that makes and runs a cell: in a file, for inspect."""
    return USE.format(factor=factor, engine=engine, more=more)


@needs_native
def test_without_a_compiler_a_loop_runs_and_says_so_once(tmp_path):
    done = run(script(0.75), CXX="no-such-compiler", FUSED_LSTM_CELLS=str(tmp_path / "cells"))
    assert done.stdout == "loop 3\n", done.stderr
    assert done.stderr.count("there is no C++ compiler: install g++ or clang") == 1


@needs_native
def test_without_a_compiler_native_by_name_is_an_error(tmp_path):
    done = run(
        script(0.75, "native"), CXX="no-such-compiler", FUSED_LSTM_CELLS=str(tmp_path / "cells")
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: engine 'native' cannot run cell leak: there is no C++")


@needs_native
def test_a_cache_that_others_can_write_is_not_used(tmp_path):
    folder = tmp_path / "cells"
    folder.mkdir()
    folder.chmod(0o777)
    done = run(script(0.75), FUSED_LSTM_CELLS=str(folder))
    assert done.stdout == "loop 3\n"
    assert "other users can write it" in done.stderr
    assert list(folder.iterdir()) == []


@needs_native
def test_a_home_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    done = run(script(0.75), FUSED_LSTM_CELLS=str(tmp_path / "file" / "cells"))
    assert done.stdout == "loop 3\n"
    assert "set FUSED_LSTM_CELLS to a folder of your own" in done.stderr


@needs_native
def test_a_failed_compilation_leaves_nothing(tmp_path):
    folder = tmp_path / "cells"
    more = "from fused_lstm.cells import print_cpp\nprint_cpp.source = lambda *_: '#error no'"
    done = run(script(0.75, more=more), FUSED_LSTM_CELLS=str(folder))
    assert done.stdout == "loop 3\n"
    assert "failed:" in done.stderr
    assert list(folder.iterdir()) == []


@needs_native
def test_two_processes_compile_one_cell_at_once(tmp_path):
    folder = tmp_path / "cells"
    two = [script(0.625, "native")] * 2
    for done in fresh.run(*two, imported=fresh.CELLS, FUSED_LSTM_CELLS=str(folder)):
        assert done.stdout == "native 3\n", done.stderr
    (cell,) = folder.iterdir()
    assert (cell / "cell.so").exists()
    assert folder.stat().st_mode & 0o777 == 0o700
    written = (cell / "cell.so").stat().st_mtime_ns
    assert run(script(0.625, "native"), FUSED_LSTM_CELLS=str(folder)).stdout == "native 3\n"
    assert (cell / "cell.so").stat().st_mtime_ns == written  # from the cache


# --- damages ---


def half(cell: Path) -> None:
    library = cell / "cell.so"
    library.write_bytes(library.read_bytes()[: library.stat().st_size // 2])


def zeroed(cell: Path) -> None:
    content = bytearray((cell / "cell.so").read_bytes())
    content[4096 : len(content) // 2] = bytes(len(content) // 2 - 4096)
    (cell / "cell.so").write_bytes(content)


def empty(cell: Path) -> None:
    (cell / "cell.so").write_bytes(b"")


def gone(cell: Path) -> None:
    (cell / "cell.so").unlink()


def without_hashes(cell: Path) -> None:
    (cell / compiling.SUMS).unlink()


def other_hashes(cell: Path) -> None:
    (cell / compiling.SUMS).write_bytes(b"\xff\xfe no text")


def emptied(cell: Path) -> None:
    shutil.rmtree(cell)
    cell.mkdir(mode=0o700)


DAMAGES = half, zeroed, empty, gone, without_hashes, other_hashes, emptied


def mend_all() -> None:
    """Damage a cell's library in each way, and run the cell; in a process of its own."""
    isa, x, first = torch.ops.fused_lstm_native.isa(), torch.ones(3, 2, 4), None
    for n, damage in enumerate(DAMAGES):

        @fused_lstm.cell(states="h")
        def leak(a, *, h, factor=float(n)):
            return torch.tanh(a) + 0.01 * factor * h

        source, command = leak.source(), compiling.compiler()
        folder, files = compiling.folder_of(source, isa, command), compiling.files_of(isa)
        if first is None:
            compiling.make(source, files, command, folder)
        else:  # another cell's, whose hashes are in it
            shutil.copytree(first, folder)
        first = folder
        assert compiling.is_whole(folder, files)
        damage(folder)
        module = fused_lstm.Recurrent(leak, 4, 8, engine="native")
        found = module(x)[0]
        module.engine = "loop"
        torch.testing.assert_close(found, module(x)[0])
        assert compiling.is_whole(folder, files)
        assert len(list(folder.parent.iterdir())) == n + 1
        print(damage.__name__)


@needs_native
def test_a_damaged_library_is_compiled_again(tmp_path):
    """Loaded, half a file once killed every process of the user's, and a zeroed block too."""
    program = "import test_custom_cache; test_custom_cache.mend_all()"
    done = run(program, FUSED_LSTM_CELLS=str(tmp_path / "cells"))
    assert done.stdout.split() == [damage.__name__ for damage in DAMAGES], done.stderr


@needs_native
def test_two_processes_mend_one_library_at_once(tmp_path):
    folder = tmp_path / "cells"
    run(script(0.5625, "native"), FUSED_LSTM_CELLS=str(folder))
    (cell,) = folder.iterdir()
    half(cell)
    two = [script(0.5625, "native")] * 2
    both = fresh.run(*two, imported=fresh.CELLS, FUSED_LSTM_CELLS=str(folder))
    assert [done.stdout for done in both] == ["native 3\n"] * 2
    assert list(folder.iterdir()) == [cell]


@needs_native
def test_a_file_system_without_room(tmp_path):
    """No file may have more than some kilobytes: nothing is left, and a loop runs."""
    folder = tmp_path / "cells"
    more = (
        "import resource, signal, torch; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    )
    done = run(script(0.5, more=more), FUSED_LSTM_CELLS=str(folder))
    assert done.stdout == "loop 3\n", done.stderr
    assert "native cannot run" in done.stderr
    assert list(folder.iterdir()) == []


def test_a_command_that_is_none(monkeypatch):
    monkeypatch.setenv("CXX", "'c++")
    with pytest.raises(compiling.CannotCompile, match=r"CXX: got \"'c\+\+\"; expected a command"):
        compiling.compiler()


def test_whose_folder_and_who_may_write_it(tmp_path, monkeypatch):
    """Check one folder, also where root runs the tests, who may write everywhere."""
    tmp_path.chmod(0o700)
    compiling.check_private(tmp_path)
    for mode in (0o720, 0o702):
        tmp_path.chmod(mode)
        with pytest.raises(PermissionError, match="other users can write it"):
            compiling.check_private(tmp_path)
    tmp_path.chmod(0o700)
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr(compiling.os, "geteuid", lambda: owner + 1)
    with pytest.raises(PermissionError, match="it belongs to another user"):
        compiling.check_private(tmp_path)
