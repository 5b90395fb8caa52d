"""A run that was stopped, however, goes on to the same bits as one that never was."""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from lm import checkpoint
from lm.log import FILE, read_log
from lm.train import main
from lm_cases import SMALL, refused, start, train, train_quietly

# Everything that has a state: two moments a weight, random masks, a schedule, a carried state.
STATEFUL = [*SMALL.split(), "--num-layers=2", "--keep-prob=0.5", "--optimizer=adam"]
SAVE_EVERY = 11  # steps, of 35 an epoch: in the middle of it, and never at its end


@pytest.fixture
def options(corpus_dir):
    return [f"--data={corpus_dir}", *STATEFUL, f"--save-every-steps={SAVE_EVERY}", "--threads=1"]


def final(directory):
    """What a finished run has: weights, and the losses of every step."""
    saved = checkpoint.load(directory)
    return saved.step, saved.tensors


def assert_same_bits(directory, other):
    (step, tensors), (other_step, others) = final(directory), final(other)
    assert step == other_step
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name


def figures(directory):
    """The lines of log.csv, except what no two runs share."""
    timed = {"seconds", "words_per_second"}
    rows = read_log(directory / FILE)
    return [{name: row[name] for name in row if name not in timed} for row in rows]


def events(directory):
    """What TensorBoard shows of a run, except the speed."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(directory)).Reload()
    tags = set(found.Tags()["scalars"]) - {"words_per_second"}
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in tags}


# --- kill -9 ---


def test_ten_kills_at_random_moments_change_no_bit(tmp_path, options):
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["lm.train"])
    options = [*options, "--lstm=auto", "--epochs=9"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run = processes.Process(target=train_quietly, args=([*options, f"--save={whole}"],))
    run.start()
    moments, argv = random.Random(1), [*options, f"--save={killed}"]
    for number in range(10):
        process = processes.Process(target=train_quietly, args=(argv,))
        process.start()
        target = (number + moments.random()) * 27  # of 315 steps
        wait_for(lambda goal=target: steps_saved(killed) >= goal, process.is_alive)
        time.sleep(moments.random() * 0.02)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        argv = [f"--resume={killed}"]
    assert train_quietly(argv) == 0
    run.join()
    assert run.exitcode == 0
    assert_same_bits(killed, whole)
    assert figures(killed) == figures(whole)
    assert len([row for row in figures(whole) if row["split"] == "valid"]) == 9


def steps_saved(directory):
    paths = checkpoint.all_in(directory)
    return checkpoint.step_of(paths[-1]) if paths else -1


def wait_for(condition, alive):
    until = time.monotonic() + 60
    while not condition():
        assert alive(), "it ended before it was to be killed"
        assert time.monotonic() < until
        time.sleep(0.001)


# --- signals ---


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        pytest.param(signal.SIGINT, "Epoch: 2 Learning", id="ctrl-c-while-training"),
        pytest.param(signal.SIGTERM, "Epoch: 2 Train", id="sigterm-while-evaluating"),
    ],
)
def test_a_signal_saves_and_ends_the_run(tmp_path, options, number, moment):
    saved, whole = tmp_path / "saved", tmp_path / "whole"
    epochs = [*options, "--lstm=cudnn", "--epochs=100000", "--eval-batch-size=1"]
    with start("train", *epochs, f"--save={saved}") as process:
        for line in process.stdout:
            if line.startswith(moment):
                break
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    stopped = checkpoint.load(saved).step
    what = "interrupted" if number == signal.SIGINT else "stopped by SIGTERM"
    assert errors == f"lm.train: {what} after step {stopped}; --resume {saved} goes on\n"
    assert process.returncode == (130 if number == signal.SIGINT else 0)
    limit = f"--max-steps={stopped + 40}"
    assert main([f"--resume={saved}", limit]) == 0
    assert main([*epochs, limit, f"--save={whole}"]) == 0
    assert_same_bits(saved, whole)
    assert figures(saved)[-5:] == figures(whole)[-5:]


def test_without_save_a_signal_says_that_nothing_is_kept(options):
    with start("train", *options, "--lstm=cudnn", "--epochs=100000") as process:
        for line in process.stdout:
            if line.startswith("Epoch: 1 Learning"):
                break
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert "nothing is kept without --save" in errors


# --- what a checkpoint goes on with ---


def test_options_come_from_the_checkpoint(tmp_path, corpus_dir, capsys):
    saved = tmp_path / "saved"
    train(tmp_path, corpus_dir, "--max-steps=9", "--seed=7", "--no-eval", f"--save={saved}")
    summary = tmp_path / "again.json"
    longer = ["--max-steps=99", "--epochs=1"]
    assert main([f"--resume={saved}", *longer, f"--summary={summary}"]) == 0
    found = json.loads(summary.read_text())
    assert (found["seed"], found["engine"], found["steps"]) == (7, "cudnn", 35)
    assert found["valid_perplexity"] is None
    out = capsys.readouterr().out
    assert f"resumed   {saved}/checkpoint-0000009.safetensors, after step 9" in out
    for change in ("--max-steps 99, was 9", "--epochs 1, was 2", f"--summary {summary}, was /"):
        assert f"changed   {change}" in out


def test_a_resumed_run_ends_and_writes_as_the_first_would_have(tmp_path, options, monkeypatch):
    """Killed in its second epoch, and resumed from elsewhere, with nothing told again."""
    pytest.importorskip("tensorboard", reason="needs the extra `tensorboard`")
    told = [*options, "--lstm=cudnn", "--max-steps=61", "--save=saved", "--summary=run.json"]
    told += ["--tensorboard=board"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for directory in (whole, killed):
        directory.mkdir()
    monkeypatch.chdir(whole)
    assert main(told) == 0
    with start("train", *told, cwd=killed) as process:
        wait_for(lambda: steps_saved(killed / "saved") >= 44, lambda: process.poll() is None)
        process.kill()
    assert not (killed / "run.json").exists()
    time.sleep(1.1)  # TensorBoard knows which of two files came first by the second in their names
    assert main(["--resume=../killed/saved"]) == 0
    assert_same_bits(killed / "saved", whole / "saved")
    assert figures(killed / "saved") == figures(whole / "saved")
    assert events(killed / "board") == events(whole / "board")
    summaries = [json.loads((run / "run.json").read_text()) for run in (whole, killed)]
    assert summaries[1].pop("words_per_second") != summaries[0].pop("words_per_second")
    assert summaries[1] == summaries[0]
    assert summaries[0]["steps"] == len(summaries[0]["losses"]) == 61


@pytest.mark.parametrize(
    ("limit", "note"),
    [
        (9, "note      step 9 of 9: nothing is left to train; more --epochs or --max-steps go on"),
        (5, "note      step 9 of 5: nothing is left to train; more --epochs or --max-steps go on"),
    ],
)
def test_a_limit_that_is_behind_is_said(tmp_path, corpus_dir, capsys, limit, note):
    saved = tmp_path / "saved"
    train(tmp_path, corpus_dir, "--max-steps=9", f"--save={saved}")
    before = figures(saved)
    assert main([f"--resume={saved}", f"--max-steps={limit}"]) == 0
    assert note in capsys.readouterr().out.splitlines()
    assert checkpoint.load(saved).step == 9
    assert figures(saved) == before  # nothing twice


def test_one_checkpoint_is_gone_on_from_where_it_is(tmp_path, corpus_dir, capsys):
    saved = tmp_path / "saved"
    wild = ["--learning-rate=0.05", "--lr-decay=1", "--epochs=3"]
    train(tmp_path, corpus_dir, *wild, f"--save={saved}")
    best, last = checkpoint.load(saved, best=True).path, checkpoint.newest(saved)
    if best != last:
        message = refused(capsys, main, "train", f"--resume={best}")
        assert f"is not the newest: going on from it would remove {last.name}" in message
    assert main([f"--resume={last}", "--epochs=4"]) == 0
    assert checkpoint.newest(saved).name == "checkpoint-0000140.safetensors"


def test_a_checkpoint_that_was_copied_goes_on_without_its_log(tmp_path, corpus_dir):
    """To a directory of its own, as a checkpoint that is not the newest must be."""
    saved, own = tmp_path / "saved", tmp_path / "own"
    train(tmp_path, corpus_dir, "--max-steps=9", "--no-eval", f"--save={saved}")
    last = checkpoint.newest(saved)
    own.mkdir()
    shutil.copy(last, own)
    assert main([f"--resume={own}", "--max-steps=14"]) == 0
    assert [row["step"] for row in read_log(own / FILE)] == [11, 14]


# --- one run at a time ---


def test_two_runs_do_not_share_a_directory(tmp_path, capsys, options):
    """The second says so at once, fresh or resumed; the first goes on; kill -9 frees it."""
    saved = tmp_path / "saved"
    argv = [*options, "--lstm=cudnn", "--epochs=100000", f"--save={saved}"]
    with start("train", *argv) as first:
        wait_for(lambda: steps_saved(saved) > 0, lambda: first.poll() is None)
        for second in (argv, [f"--resume={saved}"]):
            error = refused(capsys, main, "train", *second)
            assert error == f"lm.train: --save: another run is writing to '{saved}'\n"
        assert first.poll() is None
        (saved / ".99999.tmp").touch()
        first.kill()
    limit = f"--max-steps={steps_saved(saved) + 1}"
    assert main([f"--resume={saved}", limit, "--no-eval"]) == 0
    assert not list(saved.glob(".*.tmp"))


@pytest.mark.parametrize("engine", ["loop", "native", "triton"])
def test_another_engine_goes_on(tmp_path, corpus_dir, capsys, engine):
    import fused_lstm

    if (why := fused_lstm.available_engines("cpu")[engine]) is not None:
        pytest.skip(why)
    saved = tmp_path / "saved"
    train(tmp_path, corpus_dir, "--max-steps=9", f"--save={saved}")
    whole = train(tmp_path, corpus_dir, "--max-steps=14")
    summary = tmp_path / "again.json"
    argv = [f"--resume={saved}", f"--lstm={engine}", "--max-steps=14", f"--summary={summary}"]
    assert main(argv) == 0
    assert json.loads(summary.read_text())["losses"] == pytest.approx(whole["losses"], rel=1e-4)
    assert f"not the same bits: engine {engine}, was cudnn" in capsys.readouterr().out


@pytest.mark.parametrize("end", ["--epochs=2", "--max-steps=37"])
def test_a_finished_run_is_only_tested_again(tmp_path, corpus_dir, end):
    """Its checkpoints stay as they are, its log too."""
    saved, summary = tmp_path / "saved", tmp_path / "again.json"
    first = train(tmp_path, corpus_dir, end, f"--save={saved}")

    def checkpoints():
        return {path: path.stat().st_mtime_ns for path in checkpoint.all_in(saved)}

    before, log = checkpoints(), (saved / FILE).read_text()
    assert main([f"--resume={saved}", f"--summary={summary}"]) == 0
    again = json.loads(summary.read_text())
    assert again["curve"] == first["curve"]
    assert again["test_perplexity"] == first["test_perplexity"]
    assert (checkpoints(), (saved / FILE).read_text()) == (before, log)


def test_the_best_checkpoint_is_kept(tmp_path, corpus_dir):
    """A rate that ruins the model from the second epoch on leaves the first one's."""
    saved = tmp_path / "saved"
    wild = ["--learning-rate=0.05", "--lr-decay=1", "--epochs=3", "--save-every-steps=10"]
    curve = train(tmp_path, corpus_dir, *wild, f"--save={saved}")["curve"]
    best = min(curve, key=lambda point: point["valid_perplexity"])
    steps = {checkpoint.step_of(path) for path in checkpoint.all_in(saved)}
    assert steps == {best["steps"], 105}
    assert checkpoint.load(saved, best=True).step == best["steps"]


def test_saves_come_by_steps_and_by_minutes(tmp_path, corpus_dir, capsys):
    often = ["--save-every-minutes=1e-9", "--max-steps=6", "--no-eval"]
    train(tmp_path, corpus_dir, *often, f"--save={tmp_path / 'minutes'}")
    rare = ["--save-every-minutes=60", "--save-every-steps=4", "--max-steps=6", "--no-eval"]
    train(tmp_path, corpus_dir, *rare, f"--save={tmp_path / 'steps'}")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Saved")]
    steps = {"minutes": [], "steps": []}
    for line in lines:
        path = Path(line.removeprefix("Saved "))
        steps[path.parent.name].append(checkpoint.step_of(path))
    assert steps == {"minutes": [1, 2, 3, 4, 5, 6], "steps": [4, 6]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hidden-size=8"], "--hidden-size cannot change with --resume"),
        (["--seed=2"], "--seed cannot change"),
        (["--save=elsewhere"], "--save cannot change"),
        (["--data=python-docs"], "--data: 'python-docs' is not the text of"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_may_not_change(tmp_path, corpus_dir, capsys, options, message):
    saved = tmp_path / "saved"
    train(tmp_path, corpus_dir, "--max-steps=2", "--no-eval", f"--save={saved}")
    capsys.readouterr()
    try:
        status = main([f"--resume={saved}", *options])
    except SystemExit as exit:
        status = exit.code
    captured = capsys.readouterr()
    assert (status, captured.err.count("\n")) == (2, 1)
    assert message in captured.err


def test_nothing_to_resume(tmp_path, capsys):
    assert "holds no checkpoint" in refused(capsys, main, "train", f"--resume={tmp_path}")


# --- when things go wrong ---


def test_a_run_that_diverges_stops_and_keeps_the_last_good_one(tmp_path, corpus_dir, capsys):
    saved = tmp_path / "saved"
    wild = [
        "--optimizer=sgd",
        "--learning-rate=1e38",
        "--max-grad-norm=1e38",
        "--save-every-steps=1",
    ]
    argv = ["--lstm=cudnn", f"--data={corpus_dir}", *SMALL.split(), *wild, f"--save={saved}"]
    assert main(argv) == 2
    error = capsys.readouterr().err
    found = re.fullmatch(
        r"lm.train: the loss of step (\d+) is not finite \(loss \w+, gradient norm [\w.]+\): the "
        r"run has diverged; try a lower --learning-rate or --max-grad-norm; (.*) is kept\n",
        error,
    )
    assert found, error
    kept = checkpoint.load(saved)
    assert (str(kept.path), kept.step) == (found[2], int(found[1]) - 1)


def test_a_full_disk_ends_the_run_and_loses_nothing(tmp_path, corpus_dir, capsys, monkeypatch):
    saved, real, synced = tmp_path / "saved", os.fsync, []

    def full_disk(descriptor):
        synced.append(descriptor)
        if len(synced) > 6:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full_disk)
    argv = ["--lstm=cudnn", f"--data={corpus_dir}", *SMALL.split(), "--save-every-steps=1"]
    assert main([*argv, f"--save={saved}"]) == 2
    error = capsys.readouterr().err
    (path,) = checkpoint.all_in(saved)
    assert "No space left on device" in error
    assert error.endswith(f"; {path} is kept\n")
    assert {p.name for p in saved.iterdir()} == {path.name, FILE, ".lock"}
    assert checkpoint.load(saved).step >= 1
