"""The command line of lm.train: what it offers, and what it refuses in one line."""

import dataclasses
import os
import subprocess
import sys

import pytest

from lm.config import PRESETS, Config
from lm.options import parse
from lm.train import main
from lm_cases import ROOT, SMALL, TRAIN, refused, train

ABSENT = ["meta", "mps", "xpu", "hpu", "mtia", "vulkan", "mkldnn", "privateuseone"]
PATHS = ["--data", "--save", "--resume", "--summary", "--tensorboard"]
LONG = "x" * 5000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--epochs 0", "--epochs: must be a whole number, at least 1; got '0'"),
        ("--epochs two", "--epochs: must be a whole number"),
        (f"--epochs 1{'0' * 400}", "--epochs: must be a whole number, at least 1; got '1000"),
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
        *((f"--device {kind}", f"PyTorch finds no {kind} here") for kind in ABSENT),
        ("--data nowhere", "data 'nowhere' does not exist"),
        ("--batch-size 60000", "python-docs (train) is shorter than a batch"),
        ("--save /dev/null/run", "--save: cannot write to '/dev/null/run'"),
        ("--summary /dev/null/file", "--summary: cannot write to '/dev/null'"),
        ("--summary /", "--summary: '/' is a directory"),
        ("--summary /dev/null", "--summary: '/dev/null' is no file"),
        *((f"{option}={LONG}", "File name too long") for option in PATHS),
        ("--cuda-graph", "--cuda-graph needs an NVIDIA GPU"),
    ],
    ids=lambda value: value[:40],
)
def test_bad_options_are_one_line_and_status_2(capsys, options, message):
    assert message in refused(capsys, main, "train", *options.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "valid.txt holds no words"), (b"a\n\xff", "valid.txt, line 2: not UTF-8")],
    ids=["empty", "undecodable"],
)
def test_bad_text_is_one_line_and_status_2(capsys, corpus_dir, content, message):
    (corpus_dir / "valid.txt").write_bytes(content)
    assert message in refused(capsys, main, "train", f"--data={corpus_dir}")


def test_text_shorter_than_a_batch_is_named(capsys, corpus_dir):
    message = refused(
        capsys, main, "train", f"--data={corpus_dir}", "--batch-size=66", "--num-steps=10"
    )
    assert "train.txt is shorter than a batch: 720 tokens" in message
    assert "need 726" in message


def test_another_runs_checkpoints_are_not_overwritten(capsys, corpus_dir, tmp_path):
    save = f"--save={tmp_path / 'saved'}"
    train(tmp_path, corpus_dir, "--max-steps=1", save)
    capsys.readouterr()
    assert "holds another run's checkpoints" in refused(capsys, main, "train", save)


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("safetensors", "pip install 'fused-lstm[lm]'"),
        ("tqdm", "pip install 'fused-lstm[lm]'"),
        ("fused_lstm", "pip install --no-build-isolation -e ."),
    ],
)
def test_a_package_that_is_missing_is_one_line(package, command):
    program = (
        "import runpy, sys; sys.argv = ['lm/train.py', '--help'];"
        f"sys.modules[{package!r}] = None; runpy.run_module('lm.train', run_name='__main__')"
    )
    options = {"cwd": ROOT, "capture_output": True, "text": True}
    process = subprocess.run([sys.executable, "-c", program], **options)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr == f"lm.train needs {package}: {command}\n"


def test_a_message_is_one_line_whatever_it_names(capsys):
    message = refused(capsys, main, "train", "--data=a\nb\x1b[1m\udcff")
    assert "data 'a\\nb\\x1b[1m\\udcff' does not exist" in message


def test_too_little_memory_is_one_line(corpus_dir, tmp_path, capsys):
    options = ["--lstm=cudnn", f"--data={corpus_dir}", *SMALL.split(), "--max-steps=1"]
    assert main([*options, "--eval-batch-size=99999999999999"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lm.train: not enough memory for ")
    assert error.count("\n") == 1


def test_an_engine_that_cannot_run_says_why():
    """Through a process of its own: Triton chooses its interpreter once, when it is imported."""
    compiled = {**os.environ, "TRITON_INTERPRET": "0"}
    options = {"cwd": ROOT, "env": compiled, "capture_output": True, "text": True}
    process = subprocess.run([*TRAIN, "--lstm=triton", "--device=cpu"], **options)
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr.startswith("lm.train: engine 'triton' cannot run on 'cpu': ")
    assert process.stderr.count("\n") == 1


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
    option = f"--{setting.name.replace('_', '-')}"
    switch = isinstance(setting.default, bool)
    values = {True} if switch else {getattr(config, setting.name) for config in PRESETS.values()}
    for value in values:
        config = parse([option if switch else f"{option}={value}"]).config
        expected = dataclasses.replace(PRESETS["demo"], **{setting.name: value})
        assert config == expected


# --- a file of options ---


def test_a_file_of_options_is_overridden_by_the_command_line(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        'preset = "small"\nhidden-size = 24\nkeep_prob = 0.5\ntie_weights = true\n'
        'evaluate = false\nsummary = "found.json"\n'
    )
    found = parse([f"--config={file}", "--keep-prob=0.25", "--seed=7"])
    expected = dataclasses.replace(
        PRESETS["small"], hidden_size=24, keep_prob=0.25, tie_weights=True
    )
    assert (found.config, found.preset, found.seed) == (expected, "small", 7)
    assert (found.evaluate, str(found.summary)) == (False, "found.json")
    assert parse([f"--config={file}", "--no-tie-weights", "--eval"]).evaluate


@pytest.mark.parametrize("name", ["eval", "evaluate"], ids=["option", "field"])
def test_a_file_may_have_the_name_that_the_command_line_has(tmp_path, name):
    file = tmp_path / "run.toml"
    file.write_text(f"{name} = false\n")
    assert not parse([f"--config={file}"]).evaluate


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "run.toml: No such file"),
        ("hidden_size", "run.toml: Expected '='"),
        ("nonsense = 1", "run.toml: 'nonsense' is no option of lm.train"),
        ("epochs = [1]", "run.toml: 'epochs' is no option of lm.train"),
        ("tie_weights = 1", "run.toml: option 'tie_weights' is 1"),
        ("epochs = 0", "--epochs: must be a whole number, at least 1"),
    ],
    ids=["absent", "no-toml", "unknown", "a-list", "no-switch", "out-of-range"],
)
def test_a_bad_file_of_options_is_one_line(tmp_path, capsys, content, message):
    file = tmp_path / "run.toml"
    if content is not None:
        file.write_text(content)
    assert message in refused(capsys, main, "train", f"--config={file}")


def test_without_a_verb_they_are_listed():
    command = [sys.executable, "-m", "lm"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in shown.splitlines()[1:]] == [
        *("train", "evaluate", "generate", "export", "plot", "data"),
    ]
    done = subprocess.run([*command, "export"], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.startswith("lm.export: ")
