"""What the tests of lm share: the command as a process, and a small run of it."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

from lm import checkpoint
from lm.settings import flag, parse
from lm.train import Trainer, main

ROOT = Path(__file__).parents[1]
SMALL = "--hidden-size=16 --num-steps=5 --batch-size=4 --eval-batch-size=2 --test-batch-size=1"
TRAIN = [sys.executable, "-m", "lm.train"]


def train(directory, text, *options):
    """Train a small model on `text`, in this process; return the summary."""
    file = directory / "summary.json"
    base = ["--lstm=cudnn", "--threads=1", f"--data={text}", *SMALL.split(), f"--summary={file}"]
    assert main([*base, *options]) == 0
    return json.loads(file.read_text())


def make_trainer(text, **options):
    """A trainer of a tiny model on `text`, with options by name."""
    argv = ["--lstm=cudnn", "--threads=1", f"--data={text}", "--preset=small", "--hidden-size=8",
            "--num-steps=5", "--batch-size=4"]  # fmt: skip
    for name, value in options.items():
        switch = flag(name) if value else flag(f"no_{name}")
        argv.append(switch if isinstance(value, bool) else f"{flag(name)}={value}")
    return Trainer(parse(argv, checkpoint.load))


def start(module, *options, cwd=ROOT, **more):
    """`python -m lm.<module>` as a process of its own, on one thread, its outputs in pipes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
    paths = filter(None, [str(ROOT / "kernels"), str(ROOT), environment.get("PYTHONPATH")])
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    return subprocess.Popen(
        [sys.executable, "-m", f"lm.{module}", *map(str, options)],
        cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def refused(capsys, main, name, *options):
    """Call a command that must refuse; return the one line that it says."""
    try:
        status = main(list(map(str, options)))
    except SystemExit as exit:
        status = exit.code
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert captured.err.startswith(f"lm.{name}: ")
    assert captured.err.count("\n") == 1
    return captured.err


def train_quietly(argv):
    """lm.train in this process, its standard output thrown away; the exit status."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return main(argv)
