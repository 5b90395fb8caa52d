"""A run that was stopped, however, goes on to the same bits as one that never was."""

import json
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
from lm.log import COLUMNS, FILE, Record, read_log
from lm.train import main
from lm_cases import SMALL, Run, refused, train

# Everything that has a state: two moments a weight, random masks, a schedule, a carried state.
STATEFUL = [*SMALL.split(), "--num-layers=2", "--keep-prob=0.5", "--optimizer=adam"]
SAVE_EVERY = 11  # steps, of 35 an epoch: in the middle of it, and never at its end


@pytest.fixture
def options(corpus_dir):
    return [f"--data={corpus_dir}", *STATEFUL, f"--save-every-steps={SAVE_EVERY}", "--threads=1"]


def assert_same_bits(directory, other):
    """Weights, moments, random states and the losses of every step, of the newest checkpoints."""
    saved, expected = checkpoint.load(directory), checkpoint.load(other)
    assert saved.step == expected.step
    assert saved.tensors.keys() == expected.tensors.keys()
    for name, tensor in saved.tensors.items():
        assert torch.equal(tensor, expected.tensors[name]), name


def figures(directory):
    """The lines of log.csv, except what no two runs share."""
    timed = {"seconds", "words_per_second"}
    rows = read_log(directory / FILE)
    return [{name: row[name] for name in row if name not in timed} for row in rows]


def events(directory):
    """What TensorBoard shows of a run, except the speed."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(directory)).Reload()
    tags = set(board.Tags()["scalars"]) - {"words_per_second"}
    return {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in tags}


def steps_saved(directory):
    paths = checkpoint.all_in(directory)
    return checkpoint.step_of(paths[-1]) if paths else -1


# --- stopped from outside ---


def test_kills_at_random_moments_change_no_bit(tmp_path, options):
    options = [*options, "--lstm=auto", "--epochs=4"]
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    moments, argv = random.Random(1), [*options, f"--save={killed}"]
    for number in range(5):
        run = Run(tmp_path / "run", *argv)
        target = (number + moments.random()) * 22  # of 140 steps
        run.wait_for(lambda goal=target: steps_saved(killed) >= goal)
        time.sleep(moments.random() * 0.02)
        assert run.end(signal.SIGKILL) == -signal.SIGKILL
        argv = [f"--resume={killed}"]
    assert main(argv) == 0
    assert main([*options, f"--save={unbroken}"]) == 0
    assert_same_bits(killed, unbroken)
    assert figures(killed) == figures(unbroken)
    assert len([row for row in figures(unbroken) if row["split"] == "valid"]) == 4


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        pytest.param(signal.SIGINT, "Epoch: 2 Learning", id="ctrl-c-while-training"),
        pytest.param(signal.SIGTERM, "Epoch: 2 Train", id="sigterm-while-evaluating"),
    ],
)
def test_a_signal_saves_and_ends_the_run(tmp_path, options, number, moment):
    saved, unbroken = tmp_path / "saved", tmp_path / "unbroken"
    options = [*options, "--lstm=cudnn", "--epochs=1000", "--eval-batch-size=1"]
    run = Run(tmp_path / "run", *options, f"--save={saved}")
    run.wait_for_line(moment)
    assert run.end(number) == (130 if number == signal.SIGINT else 0)
    stopped = checkpoint.load(saved).step
    what = "interrupted" if number == signal.SIGINT else "stopped by SIGTERM"
    message = f"lm.train: {what} after step {stopped}; --resume {saved} goes on\n"
    assert run.err.read_text() == message
    limit = f"--max-steps={stopped + 40}"
    assert main([f"--resume={saved}", limit]) == 0
    assert main([*options, limit, f"--save={unbroken}"]) == 0
    assert_same_bits(saved, unbroken)
    assert figures(saved)[-5:] == figures(unbroken)[-5:]


def test_without_save_a_signal_says_that_nothing_is_kept(tmp_path, options):
    run = Run(tmp_path / "run", *options, "--lstm=cudnn", "--epochs=1000")
    run.wait_for_line("Epoch: 1 Learning")
    assert run.end(signal.SIGTERM) == 128 + signal.SIGTERM
    assert "nothing is kept without --save" in run.err.read_text()


def test_a_closed_pipe_is_no_traceback(tmp_path, options):
    directory = tmp_path / "run"
    directory.mkdir()
    os.mkfifo(directory / "out")
    run = Run(directory, *options, "--lstm=cudnn", "--epochs=1000")
    with run.out.open() as pipe:
        pipe.readline()
    assert run.end() == 128 + signal.SIGPIPE
    assert run.err.read_text() == ""


def test_two_runs_do_not_share_a_directory(tmp_path, capsys, options):
    """The second says so at once, fresh or resumed; the first goes on; kill -9 frees it."""
    saved = tmp_path / "saved"
    argv = [*options, "--lstm=cudnn", "--epochs=1000", f"--save={saved}"]
    first = Run(tmp_path / "run", *argv)
    first.wait_for(lambda: steps_saved(saved) > 0)
    for second in (argv, [f"--resume={saved}"]):
        error = refused(capsys, main, "train", *second)
        assert error == f"lm.train: --save: another run is writing to '{saved}'\n"
    assert first.process.is_alive()
    (saved / ".99999.tmp").touch()
    first.end(signal.SIGKILL)
    limit = f"--max-steps={steps_saved(saved) + 1}"
    assert main([f"--resume={saved}", limit, "--no-eval"]) == 0
    assert not list(saved.glob(".*.tmp"))


# --- what a checkpoint goes on with ---


def test_a_resumed_run_ends_and_writes_as_the_first_would_have(tmp_path, options, monkeypatch):
    """Killed in its second epoch, and resumed from elsewhere, with nothing told again."""
    pytest.importorskip("tensorboard", reason="needs the extra `tensorboard`")
    told = [*options, "--lstm=cudnn", "--max-steps=61", "--save=saved", "--summary=run.json"]
    told += ["--tensorboard=board"]
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    run = Run(killed, *told)
    run.wait_for(lambda: steps_saved(killed / "saved") >= 44)
    run.end(signal.SIGKILL)
    died = time.time()
    assert not (killed / "run.json").exists()
    unbroken.mkdir()
    monkeypatch.chdir(unbroken)
    assert main(told) == 0
    # TensorBoard knows which of two files came first by the second in their names.
    time.sleep(max(0.0, died + 1.1 - time.time()))
    assert main(["--resume=../killed/saved"]) == 0
    assert_same_bits(killed / "saved", unbroken / "saved")
    assert figures(killed / "saved") == figures(unbroken / "saved")
    shown = events(killed / "board")
    assert shown == events(unbroken / "board")
    summaries = [json.loads((run / "run.json").read_text()) for run in (unbroken, killed)]
    assert summaries[1].pop("words_per_second") != summaries[0].pop("words_per_second")
    assert summaries[1] == summaries[0]
    assert summaries[0]["steps"] == len(summaries[0]["losses"]) == 61
    valid = [(p["steps"], pytest.approx(p["valid_perplexity"])) for p in summaries[0]["curve"]]
    assert shown["perplexity/valid"] == valid
    names = ["perplexity/train", "perplexity/test", "grad_norm", "clip_fraction", "learning_rate"]
    assert set(names) <= shown.keys()


def test_options_come_from_the_checkpoint(tmp_path, corpus_dir, capsys):
    saved = tmp_path / "saved"
    train(tmp_path, corpus_dir, "--max-steps=9", "--seed=7", "--no-eval", f"--save={saved}")
    summary = tmp_path / "again.json"
    longer = ["--max-steps=99", "--epochs=1"]
    assert main([f"--resume={saved}", *longer, f"--summary={summary}"]) == 0
    again = json.loads(summary.read_text())
    assert (again["seed"], again["engine"], again["steps"]) == (7, "cudnn", 35)
    assert again["valid_perplexity"] is None
    out = capsys.readouterr().out
    assert f"resumed   {saved}/checkpoint-0000009.safetensors, after step 9" in out
    for change in ("--max-steps 99, was 9", "--epochs 1, was 2", f"--summary {summary}, was /"):
        assert f"changed   {change}" in out


def test_a_limit_that_is_behind_is_said(tmp_path, corpus_dir, capsys):
    saved = tmp_path / "saved"
    train(tmp_path, corpus_dir, "--max-steps=9", f"--save={saved}")
    before = figures(saved)
    assert main([f"--resume={saved}", "--max-steps=5"]) == 0
    note = "note      step 9 of 5: nothing is left to train; more --epochs or --max-steps go on"
    assert note in capsys.readouterr().out.splitlines()
    assert checkpoint.load(saved).step == 9
    assert figures(saved) == before  # nothing twice


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


def test_the_best_checkpoint_is_kept(tmp_path, corpus_dir, capsys):
    """The better the text's order is learned, the worse is a text in another order."""
    words = (corpus_dir / "valid.txt").read_text().split()
    (corpus_dir / "valid.txt").write_text(" ".join(reversed(words)) + "\n")
    saved = tmp_path / "saved"
    train(tmp_path, corpus_dir, "--epochs=3", "--save-every-steps=10", f"--save={saved}")
    assert [checkpoint.step_of(path) for path in checkpoint.all_in(saved)] == [35, 105]
    path = checkpoint.load(saved, best=True).path
    assert checkpoint.step_of(path) == 35
    capsys.readouterr()
    message = refused(capsys, main, "train", f"--resume={path}")
    assert "is not the newest: going on from it would remove checkpoint-0000105" in message


def test_a_checkpoint_that_was_copied_goes_on_without_its_log(tmp_path, corpus_dir):
    """To a directory of its own, as a checkpoint that is not the newest must be."""
    saved, copy = tmp_path / "saved", tmp_path / "copy"
    train(tmp_path, corpus_dir, "--max-steps=9", "--no-eval", f"--save={saved}")
    copy.mkdir()
    path = Path(shutil.copy(checkpoint.load(saved).path, copy))
    assert main([f"--resume={path}", "--max-steps=14"]) == 0
    assert [row["step"] for row in read_log(copy / FILE)] == [11, 14]


@pytest.mark.parametrize("engine", ["loop", "native"])
def test_another_engine_goes_on(tmp_path, corpus_dir, capsys, engine):
    import fused_lstm

    if (why := fused_lstm.available_engines("cpu")[engine]) is not None:
        pytest.skip(why)
    saved = tmp_path / "saved"
    train(tmp_path, corpus_dir, "--max-steps=9", f"--save={saved}")
    expected = train(tmp_path, corpus_dir, "--max-steps=14")
    summary = tmp_path / "again.json"
    argv = [f"--resume={saved}", f"--lstm={engine}", "--max-steps=14", f"--summary={summary}"]
    assert main(argv) == 0
    losses = json.loads(summary.read_text())["losses"]
    assert losses == pytest.approx(expected["losses"], rel=1e-4)
    assert f"not the same bits: engine {engine}, was cudnn" in capsys.readouterr().out


def test_other_instructions_are_said(tmp_path, corpus_dir, capsys):
    """Each sums in an order of its own; what an older run did not write is no change."""
    from fused_lstm import native

    if len(names := native.OPS.isa_names() if native.load() is None else []) < 2:
        pytest.skip("native has one instruction set here")
    saved = tmp_path / "saved"
    train(tmp_path, corpus_dir, "--lstm=native", "--max-steps=4", "--no-eval", f"--save={saved}")
    was = native.OPS.isa()
    native.OPS.use_isa(names[-1])
    try:
        assert main([f"--resume={saved}", "--max-steps=6"]) == 0
    finally:
        native.OPS.use_isa("")
    torchs = torch.backends.cpu.get_cpu_capability()
    note = f"not the same bits: instructions {torchs}, {names[-1]}, was {torchs}, {was}"
    assert note in capsys.readouterr().out
    older = checkpoint.load(saved)
    del older.state["bits"]["instructions"]
    content = older.options, older.vocabulary, older.tensors, older.state
    checkpoint.save(saved, older.step, None, *content)
    assert main([f"--resume={saved}", "--max-steps=7"]) == 0
    assert "not the same bits" not in capsys.readouterr().out


@pytest.mark.parametrize("step", [0, 2])
def test_a_log_that_is_no_file_is_refused(tmp_path, corpus_dir, capsys, step):
    """A FIFO would be waited for, and a device replaced."""
    saved = tmp_path / "saved"
    argv = [f"--data={corpus_dir}", *SMALL.split(), "--lstm=cudnn", f"--save={saved}"]
    if step:
        assert main([*argv, f"--max-steps={step}", "--no-eval"]) == 0
        argv = [f"--resume={saved}"]
    saved.mkdir(exist_ok=True)
    (saved / FILE).unlink(missing_ok=True)
    os.mkfifo(saved / FILE)
    capsys.readouterr()
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error == f"lm.train: --save: got '{saved / FILE}'; expected a file's name\n"


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


def test_what_may_not_change(tmp_path, corpus_dir, capsys):
    saved = tmp_path / "saved"
    train(tmp_path, corpus_dir, "--max-steps=2", "--no-eval", f"--save={saved}")
    capsys.readouterr()
    for option, message in {
        "--hidden-size=8": "--hidden-size cannot change with --resume",
        "--seed=2": "--seed cannot change",
        "--save=elsewhere": "--save cannot change",
    }.items():
        assert message in refused(capsys, main, "train", f"--resume={saved}", option)


# --- when things go wrong ---


def test_a_run_that_diverges_stops_and_keeps_the_last_good_one(tmp_path, corpus_dir, capsys):
    saved = tmp_path / "saved"
    wild = ["--optimizer=sgd", "--learning-rate=1e38", "--max-grad-norm=1e38"]
    argv = ["--lstm=cudnn", f"--data={corpus_dir}", *SMALL.split(), *wild, f"--save={saved}"]
    assert main([*argv, "--save-every-steps=1"]) == 2
    error = capsys.readouterr().err
    match = re.fullmatch(
        r"lm.train: step (\d+) is not finite \(loss \w+, gradient norm [\w.]+\): the run has "
        r"diverged; try a lower --learning-rate or --max-grad-norm; (.*) is kept\n",
        error,
    )
    assert match, error
    kept = checkpoint.load(saved)
    assert (str(kept.path), kept.step) == (match[2], int(match[1]) - 1)


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
    assert checkpoint.load(saved).step == 2


def test_a_log_goes_on_from_the_checkpoints_step(tmp_path):
    """A line of that step stays, later ones go, and a figure is not written twice."""
    rows = [
        dict.fromkeys(COLUMNS) | {"step": n, "split": "train", "perplexity": 9.0 + n}
        for n in (3, 5, 7)
    ]
    first = Record(tmp_path)
    for row in rows:
        first.write(row)
    assert [row["step"] for row in read_log(tmp_path / FILE)] == [3, 5, 7]
    again = Record(tmp_path, step=5)
    assert [row["step"] for row in read_log(tmp_path / FILE)] == [3, 5]
    again.write(rows[1] | {"perplexity": 1.0})
    again.write(rows[2])
    assert [row["perplexity"] for row in read_log(tmp_path / FILE)] == [12.0, 14.0, 16.0]
