"""The trainer, mostly through its command line: what it prints, writes, refuses and computes."""

import contextlib
import dataclasses
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import torch

from lm import checkpoint
from lm.config import PRESETS, Config
from lm.data import load_corpus
from lm.log import Log
from lm.model import build_model
from lm.train import main
from lm.trainer import Trainer

ROOT = Path(__file__).parents[1]
SMALL = "--hidden-size=16 --num-steps=5 --batch-size=4 --eval-batch-size=2 --test-batch-size=1"
TRAIN = [sys.executable, "-m", "lm.train"]


@pytest.fixture
def corpus_dir(tmp_path):
    """A text whose next word is certain, in a language of 12 words."""
    directory = tmp_path / "text"
    directory.mkdir()
    line = " ".join(f"w{n}" for n in range(11)) + "\n"
    for split, lines in {"train": 60, "valid": 5, "test": 5}.items():
        (directory / f"{split}.txt").write_text(line * lines)
    return directory


@pytest.fixture
def run(corpus_dir, tmp_path):
    """Train on that text with the given options; return the summary."""

    def run(*options):
        file = tmp_path / "summary.json"
        base = ["--lstm=cudnn", f"--data={corpus_dir}", *SMALL.split(), f"--summary={file}"]
        assert main([*base, *options]) == 0
        return json.loads(file.read_text())

    return run


# --- what a run says and writes ---

FIELDS = {
    *("engine", "fuse", "preset", "data", "device", "dtype", "vocab_size", "steps"),
    *("words_per_second", "train_perplexity", "valid_perplexity", "test_perplexity"),
    *("unigram_perplexity", "torch_version", "triton_version", "processor", "threads", "seed"),
    *("config", "curve"),
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
    log = re.compile(r"\d\.\d{3} perplexity: \d+\.\d{3} speed: \d+ wps")
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
    before = torch.get_num_threads()
    try:
        assert run("--threads=1", "--max-steps=1")["threads"] == 1
    finally:
        torch.set_num_threads(before)


# --- what it computes ---


def recorder(corpus_dir, **settings):
    """A trainer of a tiny model, and the (hidden, loss, next hidden) of every call of its loss."""
    tiny = {"hidden_size": 8, "num_steps": 5, "batch_size": 4, "keep_prob": 1.0}
    config = dataclasses.replace(PRESETS["small"], **tiny, **settings)
    corpus = load_corpus(str(corpus_dir))
    model = build_model(config, len(corpus.vocabulary), lstm="cudnn")
    calls, loss = [], model.loss

    def spy(inputs, targets, hidden, reduction="mean"):
        nll, after = loss(inputs, targets, hidden, reduction)
        calls.append((hidden, nll, after))
        return nll, after

    model.loss = spy
    return Trainer(model, corpus, config, Log()), calls


def test_state_is_carried_detached_and_zeroed_each_epoch(corpus_dir):
    trainer, calls = recorder(corpus_dir)
    for epoch in range(2):
        trainer.train_epoch(epoch)
    steps = trainer.epoch_steps
    assert len(calls) == 2 * steps > 20
    for number, (hidden, _, _) in enumerate(calls):
        assert not any(state.requires_grad for state in hidden)
        if number % steps == 0:
            assert not any(state.any() for state in hidden)
        else:
            torch.testing.assert_close(hidden, calls[number - 1][2], rtol=0, atol=0)


@pytest.mark.parametrize("over_time", ["sum", "mean"])
@pytest.mark.parametrize("clip", [0.01, 1e6], ids=["clipped", "free"])
def test_a_step_is_sgd_on_the_clipped_scaled_loss(corpus_dir, over_time, clip):
    settings = {"loss_over_time": over_time, "max_grad_norm": clip, "learning_rate": 0.5}
    trainer, _ = recorder(corpus_dir, **settings)
    model, T = trainer.model, trainer.config.num_steps
    inputs, targets = trainer.columns[:T], trainer.columns[1 : T + 1]
    nll, _ = model.loss(inputs, targets, model.init_hidden())
    scale = T if over_time == "sum" else 1  # the mean over the batch, summed over time
    grads = torch.autograd.grad(nll * scale, list(model.parameters()))
    norm = torch.cat([grad.flatten() for grad in grads]).norm()
    assert (norm > clip) == (clip == 0.01)
    factor = 0.5 * min(1.0, clip / norm)
    pairs = zip(model.parameters(), grads, strict=True)
    expected = [(parameter - factor * grad).detach() for parameter, grad in pairs]
    trainer.step(inputs, targets, model.init_hidden())
    for (name, parameter), value in zip(model.named_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value, msg=name)


def test_each_epoch_has_its_learning_rate(corpus_dir):
    trainer, _ = recorder(corpus_dir, flat_epochs=1)
    rates = [trainer.train_epoch(epoch).learning_rate for epoch in range(3)]
    assert rates == [1.0, 0.5, 0.25]
    assert trainer.optimizer.param_groups[0]["lr"] == 0.25


def test_the_demo_learns(tmp_path):
    file = tmp_path / "summary.json"
    assert main(["--lstm=cudnn", f"--summary={file}"]) == 0
    found = json.loads(file.read_text())
    assert found["test_perplexity"] < 0.5 * found["unigram_perplexity"]


@pytest.mark.parametrize("engine", ["loop", "triton"])
def test_engines_train_alike_on_penn_treebank(ptb, tmp_path, engine):
    def losses(name):
        file = tmp_path / f"{name}.json"
        options = ["--preset=small", "--max-steps=3", "--no-eval"]
        assert main([f"--lstm={name}", f"--data={ptb}", f"--summary={file}", *options]) == 0
        return json.loads(file.read_text())["losses"]

    assert losses(engine) == pytest.approx(losses("cudnn"), rel=1e-4)


# --- what it refuses ---


def refused(capsys, *options):
    """Run the command line, which must be refused before training; return its one line."""
    try:
        status = main(list(options))
    except SystemExit as exit:
        status = exit.code
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert captured.err.startswith("lm.train: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--epochs 0", "--epochs: must be a whole number, at least 1; got '0'"),
        ("--epochs two", "--epochs: must be a whole number"),
        ("--max-steps 0", "--max-steps"),
        ("--keep-prob 1.5", "--keep-prob: must be a number, more than 0 and at most 1"),
        ("--learning-rate nan", "--learning-rate"),
        ("--seed -1", "--seed"),
        ("--optimizer rprop", "--optimizer"),
        ("--preset tiny", "--preset"),
        ("--dtype int8", "--dtype"),
        ("--nonsense", "--nonsense"),
        ("--lstm tpu", "'tpu', should be 'auto' or one of loop"),
        ("--lstm loop --fuse layers", "'layers'"),
        ("--device nowhere", "--device nowhere"),
        ("--device meta", "--device meta"),
        ("--data nowhere", "data 'nowhere' does not exist"),
        ("--batch-size 60000", "python-docs (train) is shorter than a batch"),
        ("--save /dev/null/run", "--save: cannot write to '/dev/null/run'"),
        ("--summary /dev/null/file", "--summary: cannot write to '/dev/null'"),
        ("--summary /", "--summary: '/' is a directory"),
    ],
)
def test_bad_options_are_one_line_and_status_2(capsys, options, message):
    assert message in refused(capsys, *options.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "valid.txt holds no words"), (b"a\n\xff", "valid.txt, line 2: not UTF-8")],
    ids=["empty", "undecodable"],
)
def test_bad_text_is_one_line_and_status_2(capsys, corpus_dir, content, message):
    (corpus_dir / "valid.txt").write_bytes(content)
    assert message in refused(capsys, f"--data={corpus_dir}")


def test_text_shorter_than_a_batch_is_named(capsys, corpus_dir):
    message = refused(capsys, f"--data={corpus_dir}", "--batch-size=66", "--num-steps=10")
    assert "train.txt is shorter than a batch: 720 tokens" in message
    assert "need 726" in message


def test_another_runs_checkpoints_are_not_overwritten(capsys, run, tmp_path):
    save = f"--save={tmp_path / 'saved'}"
    run("--max-steps=1", save)
    capsys.readouterr()
    assert "holds another run's checkpoints" in refused(capsys, save)


def test_a_run_that_diverges_stops(capsys, corpus_dir):
    wild = "--optimizer=sgd --learning-rate=1e30 --max-grad-norm=1e30"
    assert main(["--lstm=cudnn", f"--data={corpus_dir}", *SMALL.split(), *wild.split()]) == 2
    assert "is not finite: the run has diverged; try a lower" in capsys.readouterr().err


def test_an_engine_that_cannot_run_says_why():
    """Through a process of its own: Triton chooses its interpreter once, when it is imported."""
    compiled = {**os.environ, "TRITON_INTERPRET": "0"}
    options = {"cwd": ROOT, "env": compiled, "capture_output": True, "text": True}
    process = subprocess.run([*TRAIN, "--lstm=triton", "--device=cpu"], **options)
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr.startswith("lm.train: engine 'triton' cannot run on 'cpu': ")
    assert process.stderr.count("\n") == 1


def test_control_c_ends_with_a_message(corpus_dir, tmp_path):
    saved = tmp_path / "saved"
    command = [*TRAIN, "--lstm=cudnn", f"--data={corpus_dir}", "--epochs=100000", f"--save={saved}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, *SMALL.split()], cwd=ROOT, **pipes) as process:
        for line in process.stdout:
            if line.startswith("Epoch: 2 Train"):
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == f"lm.train: interrupted; {checkpoint.all_in(saved)[-1]} is kept\n"
    assert checkpoint.load(saved).step >= 35


def test_help_explains_every_setting_with_every_presets_value(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--help"])
    assert exit.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for setting in dataclasses.fields(Config):
        assert f"--{setting.name.replace('_', '-')} " in shown
        assert setting.metadata["help"] in shown
    assert "demo 1, small 2, medium 2, large 2, blog 2" in shown


@pytest.mark.parametrize("setting", dataclasses.fields(Config), ids=lambda field: field.name)
def test_every_setting_has_an_option_that_overrides_the_preset(setting):
    from lm.options import parse

    values = {getattr(config, setting.name) for config in PRESETS.values()}
    for value in values:
        config = parse([f"--{setting.name.replace('_', '-')}={value}"]).config
        expected = dataclasses.replace(PRESETS["demo"], **{setting.name: value})
        assert config == expected
