"""Processes for tests, forked from one that has imported what they need, which takes seconds.

The process that is forked has run nothing, and has no thread. What is read while libraries are
loaded, such as OMP_NUM_THREADS, is for a process that a test starts itself.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

TORCH = "torch"
CELLS = "fused_lstm,torch._dynamo,torch.fx.experimental.proxy_tensor"  # what a cell is traced with


class Done(NamedTuple):
    """Output of a process, and how it ended."""

    returncode: int
    stdout: str
    stderr: str


@cache
def server(modules: str) -> subprocess.Popen:
    """Start a process that imports modules, and is forked; it ends with this one."""
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    where = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, __file__, modules], env=os.environ | {"PYTHONPATH": where}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    atexit.register(process.communicate)
    return process


def run(*scripts: str, imported: str = TORCH, **environment: str | None) -> list[Done]:
    """Run programs at once, in a process each; one that takes four minutes is killed.

    Args:
        imported: the modules that the processes have, TORCH or CELLS.
        environment: what is changed in it; a variable that is None is not there.
    """
    process = server(imported)
    assert process.stdin is not None
    assert process.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        there = {k: v for k, v in (os.environ | environment).items() if v is not None}
        print(json.dumps([scripts, there, folder]), file=process.stdin, flush=True)
        codes = json.loads(process.stdout.readline())
        texts = [
            [Path(folder, f"{n}.{name}").read_text() for name in ("out", "err")]
            for n in range(len(scripts))
        ]
    return [Done(code, *text) for code, text in zip(codes, texts, strict=True)]


def python(script: str, imported: str = TORCH, **environment: str | None) -> str:
    """Return what a program prints; it may not fail."""
    (done,) = run(script, imported=imported, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def serve() -> str:
    """Fork a process for each program that is asked for; return in it, with the program."""
    for module in sys.argv[1].split(","):
        importlib.import_module(module)
    for line in sys.stdin:
        scripts, environment, folder = json.loads(line)
        children = []
        for n, script in enumerate(scripts):
            children.append(os.fork())
            if children[-1] == 0:
                os.environ.clear()
                os.environ.update(environment)
                files = "/dev/null", f"{folder}/{n}.out", f"{folder}/{n}.err"
                for descriptor, file in enumerate(files):
                    os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), descriptor)
                signal.alarm(240)
                return script
        ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(ends), flush=True)
    return ""


if __name__ == "__main__":
    exec(serve(), {"__name__": "__main__"})
    sys.stdout.flush()
    os._exit(0)  # an interpreter's end takes half a second
