"""Compiles a printed cell for this CPU, once: what was compiled before lies in the user's cache.

The cache is a folder of the user's alone: a library that others could write is never loaded. A
cell's folder in it is named by a hash of everything that the library is made of, so that processes
may write it at the same time, and another version of this package or of the compiler has another.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from ..native import build

NATIVE = Path(build.__file__).parent
CACHE = "FUSED_LSTM_CELLS"  # in the environment: the folder of compiled cells
FLAGS = [flag for flag in build.FLAGS if flag not in (build.OLDEST_TORCH, "-Wall")]
# The files of native/isa that say how an instruction set's float and double kernels are compiled,
# and the sets that have bfloat16 kernels, in a file of their own name.
FILES = {"amx": "avx512", "avx512_bf16": "avx512", "sse2": "base", "neon": "base"}
NARROW = "amx", "avx512_bf16"
SUMS = "sha256"  # the file of a cell's folder that has the hash and the length of each library


class CannotCompile(Exception):
    """A reason why a cell has no C++ here, and what to do."""


def compiled(source: str, isa: str) -> list[int]:
    """Return the addresses of a cell's tables: of float and double and, if it has it, of bfloat16.

    Args:
        source: what `print_cpp.source` has printed.
        isa: the instruction set in use.

    Raises:
        CannotCompile: there is no compiler, or no folder that it may write.
    """
    command, files = compiler(), files_of(isa)
    folder = folder_of(source, isa, command)
    try:
        if folder.exists():
            check_private(folder)
        if not is_whole(folder, files):
            make(source, files, command, folder)
        return [table_of(folder / f"{name}.so") for name in files]
    except OSError as error:
        raise CannotCompile(
            f"the cache of compiled cells, {folder}, cannot be used: {error}; set {CACHE} to a"
            " folder of your own"
        ) from error


def files_of(isa: str) -> dict[str, str]:
    """Return a cell's libraries: name -> the file of native/isa that says how it is compiled."""
    return {"cell": FILES.get(isa, isa)} | ({"narrow": isa} if isa in NARROW else {})


def folder_of(source: str, isa: str, command: list[str]) -> Path:
    """Return the folder of a cell's libraries, named by all that they are made of."""
    text = repr((source, command, FLAGS, isa, version(command[0]), headers()))
    return cache_folder() / hashlib.sha256(text.encode()).hexdigest()[:32]


def compiler() -> list[str]:
    """Return the command of the C++ compiler."""
    if sys.platform == "win32":
        raise CannotCompile("cells are compiled on Linux and macOS alone")
    told = os.environ.get("CXX", "c++")
    try:
        command = shlex.split(told)
    except ValueError as error:
        raise CannotCompile(f"CXX: got {told!r}; expected a command ({error})") from None
    if not command or shutil.which(command[0]) is None:
        raise CannotCompile(
            "there is no C++ compiler: install g++ or clang, or set CXX to one, for example"
            " `apt install g++`"
        )
    return command


@cache
def version(program: str) -> str:
    """Return what a compiler says it is."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True)
    return done.stdout


@cache
def headers() -> str:
    """Return a hash of the engine's headers, which a cell is compiled with."""
    digest = hashlib.sha256()
    for path in sorted(NATIVE.rglob("*.h")) + sorted(NATIVE.glob("isa/*.cpp")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def cache_folder() -> Path:
    """Return the folder of compiled cells, made where it is not there.

    Raises:
        CannotCompile: others can write it, or it cannot be made.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get(CACHE) or Path(home) / "fused_lstm" / "cells")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_private(folder)
    except OSError as error:
        raise CannotCompile(
            f"the cache of compiled cells, {folder}, cannot be made: {error}; set {CACHE} to a"
            " folder of your own"
        ) from error
    return folder


def check_private(folder: Path) -> None:
    """Raise PermissionError unless a folder is the user's, and nobody else can write it."""
    about = folder.stat()
    if about.st_uid != os.geteuid():
        raise PermissionError("it belongs to another user")
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError("other users can write it")


def table_of(library: Path) -> int:
    """Return the address of a library's CompiledCell."""
    return ctypes.addressof(ctypes.c_char.in_dll(ctypes.CDLL(str(library)), "fused_lstm_cell"))


def sums(folder: Path, files: Iterable[str]) -> str:
    """Return the hash and the length of each library in a folder, a line each."""
    lines = []
    for name in files:
        content = (folder / f"{name}.so").read_bytes()
        lines.append(f"{hashlib.sha256(content).hexdigest()} {len(content)} {name}.so\n")
    return "".join(lines)


def is_whole(folder: Path, files: Iterable[str]) -> bool:
    """Return whether a folder has its libraries as they were written.

    A power failure or a full disk may leave half a library or zeros, which would kill the process
    that loads it.
    """
    try:
        return (folder / SUMS).read_text() == sums(folder, files)
    except (OSError, UnicodeDecodeError):
        return False


def make(source: str, files: dict[str, str], command: list[str], folder: Path) -> None:
    """Compile a cell into `folder`, which appears whole or not at all, in place of a damaged one.

    files: see `files_of`.
    """
    temporary = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))  # the user's alone
    part = temporary / "new"
    try:
        part.mkdir(mode=0o700)
        (part / "cell.h").write_text(source)
        for name, file in files.items():
            text = f'#define FL_CELL\n#define FL_INSTEAD "cell.h"\n#include "isa/{file}.cpp"\n'
            (part / f"{name}.cpp").write_text(text)
        compilers = [
            subprocess.Popen(
                [*command, *FLAGS, "-shared", f"-I{part}", f"-I{NATIVE}", str(part / f"{name}.cpp"),
                 "-o", str(part / f"{name}.so")],
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )
            for name in files
        ]  # fmt: skip
        for process in compilers:  # at the same time
            _, errors = process.communicate()
            if process.returncode:
                raise CannotCompile(f"{shlex.join(command)} failed: {errors.strip()[:2000]}")
        (part / SUMS).write_text(sums(part, files))
        for path in (*part.iterdir(), part):
            synchronize(path)
        if folder.exists() and not is_whole(folder, files):
            folder.rename(temporary / "damaged")
        try:
            part.rename(folder)
        except OSError:
            if not is_whole(folder, files):  # else another process was first
                raise
        synchronize(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def synchronize(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
