"""Two processes train as one does: the same losses, one writer, and no waiting for the dead."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import fused_lstm
from lm import checkpoint
from lm.command import UserError
from lm.data import load_corpus
from lm.distributed import World
from lm.log import FILE, read_log
from lm.settings import PRESETS
from lm.train import epoch_steps
from lm_cases import ROOT, SMALL, train_quietly

OPTIONS = [*SMALL.split(), "--batch-size=5", "--eval-batch-size=3", "--num-layers=2", "--threads=1"]
# torch.compile takes half a minute a process; that engine is the loop's autograd.
ENGINES = [engine for engine in fused_lstm.ENGINES if engine != "compile"]


def one_rank(rank, size, port, argv):
    """A rank, in a process of its own, that ends with the exit status of lm.train."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    sys.exit(train_quietly(argv))


def train_together(argv, size=2):
    """lm.train in `size` processes; their exit statuses."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["lm.train"])
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    ranks = [
        processes.Process(target=one_rank, args=(rank, size, port, argv)) for rank in range(size)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    return [process.exitcode for process in ranks]


@pytest.mark.parametrize(
    "engine", [pytest.param(e, marks=[pytest.mark.slow] * (e == "triton")) for e in ENGINES]
)
def test_two_ranks_have_the_losses_of_one(tmp_path, corpus_dir, engine):
    if (why := fused_lstm.available_engines("cpu")[engine]) is not None:
        pytest.skip(why)
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    steps = 3 if engine == "triton" else 17  # the interpreter takes its time
    options = [f"--data={corpus_dir}", *OPTIONS, f"--lstm={engine}", f"--max-steps={steps}"]
    if engine == "triton":
        options.append("--no-eval")
    assert train_quietly([*options, f"--summary={one}"]) == 0
    assert train_together([*options, f"--summary={two}"]) == [0, 0]
    alone, together = json.loads(one.read_text()), json.loads(two.read_text())
    assert together["processes"] == 2
    assert len(alone["losses"]) == steps
    names = ["losses", "train_perplexity"]
    names += [] if "--no-eval" in options else ["valid_perplexity", "test_perplexity"]
    for name in names:
        assert together[name] == pytest.approx(alone[name], rel=1e-4), name


def test_one_writes_for_all_and_both_go_on(tmp_path, corpus_dir):
    """Three runs: both ranks to the end; stopped and resumed; resumed by one process alone."""
    options = [f"--data={corpus_dir}", *OPTIONS, "--lstm=cudnn", "--keep-prob=0.5", "--no-eval"]
    whole, parts, alone = tmp_path / "whole", tmp_path / "parts", tmp_path / "alone"
    assert train_together([*options, "--max-steps=12", f"--save={whole}"]) == [0, 0]
    for directory in (parts, alone):
        assert train_together([*options, "--max-steps=5", f"--save={directory}"]) == [0, 0]
    assert train_together([f"--resume={parts}", "--max-steps=12"]) == [0, 0]
    first, second = checkpoint.load(whole), checkpoint.load(parts)
    assert torch.equal(first.tensors["losses"], second.tensors["losses"])
    for name, weight in first.weights().items():
        assert torch.equal(weight, second.weights()[name]), name
    assert train_quietly([f"--resume={alone}", "--max-steps=12"]) == 0
    assert [row["step"] for row in read_log(whole / FILE)] == [3, 6, 9, 12]


def test_ranks_drop_different_units(tmp_path):
    torch.manual_seed(1)
    draws = []
    for rank in range(3):
        torch.manual_seed(1)
        World(rank, 3).seed(1)
        draws.append(torch.rand(5))
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[1], draws[2])


@pytest.mark.parametrize(("columns", "size"), [(20, 2), (5, 2), (7, 3), (1, 4)])
def test_every_column_has_one_rank(columns, size):
    own = [World(rank, size).columns(columns) for rank in range(size)]
    assert [c for part in own for c in range(columns)[part]] == list(range(columns))


def test_more_ranks_than_columns_is_an_error(corpus_dir):
    config = dataclasses.replace(PRESETS["demo"], batch_size=1)
    with pytest.raises(
        UserError, match="--batch-size: got 1; expected at least one for each of 2 processes"
    ):
        epoch_steps(load_corpus(str(corpus_dir)), config, World(0, 2))


def test_a_rank_that_dies_ends_the_job(tmp_path, corpus_dir):
    """Under torchrun itself: the other rank does not wait, and what was saved is intact."""
    saved = tmp_path / "saved"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "-m",
        "lm.train",
    ]
    options = [f"--data={corpus_dir}", *OPTIONS, "--lstm=cudnn", "--epochs=100000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, *options, f"--save={saved}"],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as job:  # fmt: skip
        try:
            for line in job.stdout:
                if line.startswith("Epoch: 2 Learning"):
                    break
            os.kill(worker_of(job.pid, rank=1), signal.SIGKILL)
            begin = time.monotonic()
            _, errors = job.communicate(timeout=60)
        finally:
            job.terminate()
    assert job.returncode != 0
    assert time.monotonic() - begin < 60
    assert "SIGKILL" in errors or "exitcode" in errors
    assert checkpoint.load(saved).step >= 28


def worker_of(parent, rank):
    """The process of `rank` among the children of torchrun, which tells them by environment."""
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            variables = (status.parent / "environ").read_bytes().split(b"\0")
            ours = f"PPid:\t{parent}\n" in status.read_text()
            if ours and f"RANK={rank}".encode() in variables:
                return int(status.parent.name)
    raise AssertionError("no such worker")


@pytest.mark.parametrize(("size", "expected"), [(1, "first\nlast\n"), (2, "first\n")])
def test_a_rank_ends_before_python_takes_itself_apart(size, expected):
    """In that gloo's threads would abort it, now and then; its lines and its status are out."""
    program = (
        "import atexit; from lm.distributed import leave\n"
        "atexit.register(print, 'last'); print('first'); leave(3)"
    )
    environment = {**os.environ, "WORLD_SIZE": str(size)}
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert (process.returncode, process.stdout) == (3, expected)
