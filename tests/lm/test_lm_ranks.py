"""Two processes train as one does: the same losses, one writer, and no waiting for the dead."""

import json
import os
import shutil
import signal
import socket
import sys

import pytest
import torch

import fused_lstm
from lm import checkpoint, distributed
from lm.distributed import World
from lm.log import FILE, read_log
from lm.train import main
from lm_cases import SMALL, Run

OPTIONS = [*SMALL.split(), "--batch-size=5", "--eval-batch-size=3", "--num-layers=2", "--threads=1"]


def start_ranks(directory, *argv, size=2):
    """lm.train in `size` processes, as torchrun starts them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    directory.mkdir(exist_ok=True)
    common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        Run(directory / str(rank), *argv, RANK=str(rank), LOCAL_RANK=str(rank), **common)
        for rank in range(size)
    ]


def train_together(directory, *argv):
    assert [run.end() for run in start_ranks(directory, *argv)] == [0, 0]


@pytest.mark.parametrize(
    "engine", ["native", *(pytest.param(e, marks=pytest.mark.slow) for e in ("cudnn", "loop"))]
)
def test_two_ranks_have_the_losses_of_one(tmp_path, corpus_dir, engine):
    if (why := fused_lstm.available_engines("cpu")[engine]) is not None:
        pytest.skip(why)
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    options = [f"--data={corpus_dir}", *OPTIONS, f"--lstm={engine}", "--max-steps=17"]
    assert main([*options, f"--summary={one}"]) == 0
    train_together(tmp_path / "ranks", *options, f"--summary={two}")
    alone, together = json.loads(one.read_text()), json.loads(two.read_text())
    assert together["processes"] == 2
    assert len(alone["losses"]) == 17
    for name in ("losses", "train_perplexity", "valid_perplexity", "test_perplexity"):
        assert together[name] == pytest.approx(alone[name], rel=1e-4), name


def test_one_writes_for_all_and_both_go_on(tmp_path, corpus_dir):
    """Both ranks to the end; stopped and resumed; resumed by one process alone."""
    options = [f"--data={corpus_dir}", *OPTIONS, "--lstm=cudnn", "--keep-prob=0.5", "--no-eval"]
    unbroken, parts, alone = tmp_path / "unbroken", tmp_path / "parts", tmp_path / "alone"
    train_together(tmp_path / "a", *options, "--max-steps=12", f"--save={unbroken}")
    train_together(tmp_path / "b", *options, "--max-steps=5", f"--save={parts}")
    shutil.copytree(parts, alone)
    train_together(tmp_path / "c", f"--resume={parts}", "--max-steps=12")
    first, second = checkpoint.load(unbroken), checkpoint.load(parts)
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, second.tensors[name]), name
    states = first.tensors["random.cpu"]
    assert not torch.equal(states[0], states[1])  # ranks drop units of their own
    assert [row["step"] for row in read_log(unbroken / FILE)] == [3, 6, 9, 12]
    assert (tmp_path / "a" / "1" / "out").read_text() == ""
    assert main([f"--resume={alone}", "--max-steps=12"]) == 0
    assert checkpoint.load(alone).step == 12


def test_a_rank_that_dies_ends_the_others(tmp_path, corpus_dir):
    """The other rank does not wait, and what was saved is intact."""
    saved = tmp_path / "saved"
    options = [f"--data={corpus_dir}", *OPTIONS, "--lstm=cudnn", "--epochs=1000", "--no-eval"]
    first, second = start_ranks(tmp_path / "ranks", *options, f"--save={saved}")
    first.wait_for_line("Epoch: 2 Learning")
    second.end(signal.SIGKILL)
    assert first.end() not in (0, None)
    assert checkpoint.load(saved).step >= 28


@pytest.mark.parametrize(("columns", "size"), [(20, 2), (5, 2), (7, 3), (1, 4)])
def test_every_column_has_one_rank(columns, size):
    parts = [World(rank, size).columns(columns) for rank in range(size)]
    assert [c for part in parts for c in range(columns)[part]] == list(range(columns))


@pytest.mark.parametrize("size", [1, 2])
def test_a_rank_ends_before_python_takes_itself_apart(monkeypatch, size):
    """In that gloo's threads would abort it, now and then."""
    ended = []
    monkeypatch.setenv("WORLD_SIZE", str(size))
    monkeypatch.setattr(os, "_exit", lambda status: ended.append(("at once", status)))
    monkeypatch.setattr(sys, "exit", lambda status: ended.append(("as Python does", status)))
    distributed.leave(3)
    assert ended[0] == ("as Python does" if size == 1 else "at once", 3)
