"""What the tests of lm share: a small run of lm.train, in this process or in one of its own."""

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

from lm import checkpoint
from lm.settings import flag, parse
from lm.train import Trainer, main

ROOT = Path(__file__).parents[1]
SMALL = "--hidden-size=16 --num-steps=5 --batch-size=4 --eval-batch-size=2 --test-batch-size=1"


def train(directory, text, *options):
    """Train a small model on `text`, in this process; return the summary."""
    file = directory / "figures" / "summary.json"
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


class Run:
    """lm.train in a process of its own, forked from one that has imported it.

    It runs in `directory`, where its outputs are the files "out" and "err".
    """

    def __init__(self, directory, *argv, **environment):
        directory.mkdir(exist_ok=True)
        processes = multiprocessing.get_context("forkserver")
        # An optimizer's first step imports the other, which takes a second.
        processes.set_forkserver_preload(["lm.train", "torch._dynamo"])
        self.out, self.err = directory / "out", directory / "err"
        arguments = directory, list(map(str, argv)), environment
        self.process = processes.Process(target=_train_in, args=arguments)
        self.process.start()

    def wait_for(self, condition):
        """Return once `condition()` is true; the run must not end before."""
        until = time.monotonic() + 60
        while not condition():
            assert self.process.is_alive(), "it ended too early"
            assert time.monotonic() < until
            time.sleep(0.001)

    def wait_for_line(self, text):
        self.wait_for(lambda: self.out.exists() and f"\n{text}" in self.out.read_text())

    def end(self, number=None):
        """Send a signal, if any; return the exit status, negative where a signal ended it."""
        if number is not None:
            os.kill(self.process.pid, number)
        self.process.join(60)
        return self.process.exitcode


def _train_in(directory, argv, environment):
    os.chdir(directory)
    os.environ.update(environment)
    for name, descriptor in (("out", 1), ("err", 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), descriptor)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    sys.exit(main(argv))


def refused(capsys, main, name, *options):
    """Call a command that must refuse; return the one line that it says."""
    status = main(list(map(str, options)))
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert captured.err.startswith(f"lm.{name}: ")
    assert captured.err.count("\n") == 1
    return captured.err
