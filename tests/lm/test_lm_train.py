"""A training run, through its command line: what it says and writes."""

import contextlib
import dataclasses
import os
import pty
import re
import subprocess
import termios

import pytest
import torch

from lm.config import Config
from lm.saving import checkpoint
from lm.text.corpus import load_corpus
from lm.training.log import Log
from lm.training.trainer import Trainer
from lm_cases import ROOT, SMALL, TRAIN, train


@pytest.fixture
def run(corpus_dir, tmp_path):
    """Train on that text with the given options; return the summary."""
    return lambda *options: train(tmp_path, corpus_dir, *options)


FIELDS = {
    *("engine", "fuse", "preset", "data", "device", "dtype", "precision", "vocab_size", "steps"),
    *("words_per_second", "train_perplexity", "valid_perplexity", "test_perplexity"),
    *("unigram_perplexity", "torch_version", "triton_version", "processor", "threads"),
    *("processes", "seed", "config", "curve"),
}


def test_summary(run, corpus_dir):
    found = run("--epochs=3", "--seed=5", "--learning-rate=0.05")
    assert found.keys() == FIELDS
    assert (found["engine"], found["fuse"], found["preset"]) == ("cudnn", None, "demo")
    assert (found["data"], found["dtype"], found["seed"]) == (str(corpus_dir), "float32", 5)
    assert found["vocab_size"] == 12
    assert found["steps"] == 3 * ((60 * 12 // 4 - 1) // 5)
    assert found["words_per_second"] > 0
    assert found["unigram_perplexity"] == pytest.approx(12, rel=1e-3)
    assert found["test_perplexity"] < 2 < found["unigram_perplexity"]  # it learned the order
    assert found["torch_version"] == torch.__version__
    assert found["processor"]
    assert found["config"]["epochs"] == 3
    curve = found["curve"]
    assert [point["epoch"] for point in curve] == [1, 2, 3]
    assert curve[-1]["valid_perplexity"] == found["valid_perplexity"] < curve[0]["valid_perplexity"]
    assert curve[-1]["train_perplexity"] == found["train_perplexity"]
    rates = [Config(**found["config"]).learning_rate_at(epoch) for epoch in range(3)]
    assert [point["learning_rate"] for point in curve] == rates


def test_lines_on_standard_output(run, capsys):
    run("--epochs=2")
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert captured.err == ""  # no bar, no warning
    assert [line.split()[0] for line in lines[:6]] == [
        *("machine", "engine", "data", "unknown", "model", "training"),
    ]
    log = re.compile(
        r"\d\.\d{3} perplexity: \d+\.\d{3} speed: \d+ wps gradient norm: [\d.e+-]+, \d+% clipped"
    )
    logged = [line for line in lines if log.fullmatch(line)]
    assert len(logged) == 20  # ten an epoch
    assert [line.split()[0] for line in logged[-2:]] == ["0.914", "1.000"]
    for epoch in (1, 2):
        for what in ("Learning rate", "Train perplexity", "Valid perplexity"):
            assert sum(line.startswith(f"Epoch: {epoch} {what}: ") for line in lines) == 1
    assert re.fullmatch(r"Test perplexity: [\d.]+, [\d.]+ of the [\d.]+ of .*unigram.*", lines[-1])


def test_a_terminal_gets_a_progress_bar(corpus_dir):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    command = [*TRAIN, "--lstm=cudnn", f"--data={corpus_dir}", *SMALL.split(), "--epochs=1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        bar = read_all(ours)
        lines = process.stdout.read()
    assert process.returncode == 0
    assert "35/35" in bar
    assert b"Test perplexity" in lines
    assert b"35/35" not in lines


def read_all(terminal):
    """What a process writes to a terminal until it ends."""
    content = b""
    with contextlib.suppress(OSError), open(terminal, "rb", buffering=0) as file:
        while chunk := file.read(4096):  # Linux ends a terminal with an error, EIO
            content += chunk
    return content.decode()


def test_max_steps_ends_an_epoch_early_and_lists_the_losses(run, capsys):
    found = run("--max-steps=37", "--epochs=9")
    assert found["steps"] == len(found["losses"]) == 37
    assert [point["steps"] for point in found["curve"]] == [35, 37]
    assert found["test_perplexity"] > 0
    last = torch.tensor(found["losses"][35:]).double().mean().exp()
    assert found["train_perplexity"] == pytest.approx(float(last), rel=1e-5)
    assert "0.057 perplexity" in capsys.readouterr().out


def test_no_eval(run, capsys):
    found = run("--no-eval", "--epochs=1")
    assert found["valid_perplexity"] is found["test_perplexity"] is None
    assert found["unigram_perplexity"] > 0
    assert not re.search("(Valid|Test) perplexity", capsys.readouterr().out)


def test_a_single_step_has_no_speed(run):
    assert run("--max-steps=1")["words_per_second"] is None


def test_a_seed_fixes_the_run(run):
    options = "--max-steps=6", "--keep-prob=0.5", "--no-eval"
    first, again, other = (run(*options, f"--seed={seed}")["losses"] for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_dtypes_learn_alike(run, dtype):
    options = "--max-steps=20", "--no-eval"
    expected = run(*options)["losses"]
    found = run(*options, f"--dtype={dtype}")["losses"]
    assert found == pytest.approx(expected, rel={"float64": 1e-4, "bfloat16": 0.05}[dtype])
    assert found != expected


def test_save_keeps_the_trained_model(run, corpus_dir, tmp_path):
    summary = run("--epochs=2", f"--save={tmp_path / 'new' / 'run'}")
    found = checkpoint.load(tmp_path / "new" / "run")
    assert found.step == summary["steps"]
    assert dataclasses.asdict(found.config) == summary["config"]
    corpus = load_corpus(str(corpus_dir))
    trainer = Trainer(found.model("loop"), corpus, found.config, Log())
    assert trainer.evaluate("test") == pytest.approx(summary["test_perplexity"], rel=1e-4)


def test_threads(run):
    assert run("--threads=2", "--max-steps=1")["threads"] == 2
