"""The presets are the published ones; the command line and a file of options say what a run is."""

import dataclasses
import runpy
from pathlib import Path

import pytest

from lm import checkpoint, export, plot
from lm.settings import PRESETS, Config, flag, parse
from lm.train import main
from lm_cases import SMALL, refused, train

# layers, H, T, keep, lr, decay, flat epochs, epochs, clip, init. The first three are those of
# TensorFlow's tutorial, whose first releases decayed from one epoch later on than its last ones.
PUBLISHED = {
    "small": (2, 200, 20, 1.0, 1.0, 0.5, 5, 13, 5, 0.1),
    "medium": (2, 650, 35, 0.5, 1.0, 0.8, 7, 39, 5, 0.05),
    "large": (2, 1500, 35, 0.35, 1.0, 1 / 1.15, 15, 55, 10, 0.04),
    "blog": (2, 1500, 35, 0.35, 20, 1 / 1.15, 14, 40, 0.25, 0.1),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_preset_is_the_published_one(name):
    c = PRESETS[name]
    assert PUBLISHED[name] == (
        *(c.num_layers, c.hidden_size, c.num_steps, c.keep_prob, c.learning_rate, c.lr_decay),
        *(c.flat_epochs, c.epochs, c.max_grad_norm, c.init_scale),
    )
    assert (c.batch_size, c.eval_batch_size, c.test_batch_size) == (20, 20, 1)
    assert c.optimizer == "sgd"
    zaremba = name != "blog"
    assert c.loss_over_time == ("sum" if zaremba else "mean")
    assert c.init_scope == ("all" if zaremba else "softmax")
    assert c.lr_schedule == ("zaremba" if zaremba else "compound")


def test_zarembas_rate_decays_from_the_first_one():
    c = PRESETS["small"]
    rates = [c.learning_rate_at(epoch) for epoch in range(8)]
    assert rates == [1, 1, 1, 1, 1, 0.5, 0.25, 0.125]


def test_the_blogs_rate_compounds():
    c = PRESETS["blog"]
    rate, expected = 20.0, []
    for epoch in range(c.epochs):
        rate = rate * (1 / 1.15) ** max(epoch - 14, 0)
        expected.append(rate)
    assert [c.learning_rate_at(epoch) for epoch in range(c.epochs)] == pytest.approx(expected)
    assert expected[14] == 20.0 > expected[15] > expected[16] * 1.3


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("linear", [1, 1, 0.75, 0.5, 0.25]),
        ("cosine", [1, 1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_schedules_by_name(schedule, expected):
    c = dataclasses.replace(PRESETS["small"], lr_schedule=schedule, flat_epochs=1, epochs=5)
    assert [c.learning_rate_at(epoch) for epoch in range(5)] == pytest.approx(expected, rel=1e-5)


# --- the command line ---


def parsed(*argv):
    return parse(argv, checkpoint.load)


def test_every_setting_has_an_option_that_overrides_the_preset(capsys):
    for field in dataclasses.fields(Config):
        values = {getattr(config, field.name) for config in PRESETS.values()}
        for value in {True} if isinstance(field.default, bool) else values:
            option = flag(field.name) + ("" if value is True else f"={value}")
            expected = dataclasses.replace(PRESETS["demo"], **{field.name: value})
            assert parsed(option).config == expected
    assert main(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(f"{flag(field.name)} " in shown for field in dataclasses.fields(Config))
    assert "demo 1, small 2, medium 2, large 2, blog 2" in shown


def test_a_file_of_options_is_overridden_by_the_command_line(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        'preset = "small"\nhidden-size = 24\nkeep_prob = 0.5\ntie_weights = true\n'
        'eval = false\nsummary = "figures.json"\n'
    )
    args = parsed(f"--config={file}", "--keep-prob=0.25", "--seed=7")
    expected = dataclasses.replace(
        PRESETS["small"], hidden_size=24, keep_prob=0.25, tie_weights=True
    )
    assert (args.config, args.preset, args.seed) == (expected, "small", 7)
    assert (args.eval, args.summary) == (False, Path("figures.json"))
    args = parsed(f"--config={file}", "--preset=medium", "--no-tie-weights", "--eval")
    assert args.eval
    assert args.config == dataclasses.replace(PRESETS["medium"], hidden_size=24, keep_prob=0.5)


# --- bad input: one line and status 2 ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--epochs 0", "--epochs: got '0'; expected a whole number, at least 1"),
        (f"--epochs 1{'0' * 400}", "--epochs: got '1000"),
        ("--learning-rate nan", "--learning-rate: got 'nan'; expected a number more than 0"),
        ("--optimizer rprop", "--optimizer: invalid choice: 'rprop'"),
        ("--nonsense", "--nonsense"),
        ("--lstm tpu", "tpu"),
        ("--lstm loop --fuse layers", "'layers'"),
        ("--device nowhere", "--device nowhere: "),
        ("--device meta", "--device meta: "),
        ("--data nowhere", "--data: got 'nowhere'; expected a directory, python-docs, ptb"),
        (f"--data {'x' * 300}", "File name too long"),
        ("--batch-size 60000", "--batch-size: got 60000; a text of"),
        ("--accumulate 65", "--batch-size: got 64; expected at least one column for each of 1 pr"),
        ("--save /dev/null/run", "'/dev/null/run': Not a directory"),
        ("--summary /dev/null", "--summary: got '/dev/null'; expected a file"),
        ("--resume nowhere", "'nowhere' holds no checkpoint"),
        ("--config nowhere", "--config: nowhere: No such file"),
    ],
    ids=lambda value: value[:30],
)
def test_bad_options(capsys, options, message):
    assert message in refused(capsys, main, "train", *options.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hidden_size", "run.toml: Expected '='"),
        ("nonsense = 1", "run.toml: unrecognized arguments: --nonsense=1"),
        ("epochs = [1]", "run.toml: argument --epochs: got '[1]'; expected"),
        ("optimizer = 'rprop'", "run.toml: argument --optimizer: invalid choice: 'rprop'"),
        ("tie_weights = 1", "run.toml: argument --tie-weights"),
        ("epochs = 0", "run.toml: argument --epochs: got '0'; expected"),
        (f"a = {'[' * 100_000}", "run.toml: "),
    ],
    ids=["no-toml", "unknown", "a-list", "no-choice", "no-switch", "out-of-range", "nested"],
)
def test_a_bad_file_of_options(tmp_path, capsys, content, message):
    file = tmp_path / "run.toml"
    file.write_text(content)
    assert message in refused(capsys, main, "train", f"--config={file}")


@pytest.mark.parametrize("kind", ["torch", "native"])
def test_too_little_memory(corpus_dir, capsys, monkeypatch, kind):
    """PyTorch's own message, and this project's engine's."""
    if kind == "native":

        def step(*arguments):
            raise RuntimeError("out of memory: could not allocate 123456 bytes")

        monkeypatch.setattr("lm.train.Trainer.train_step", step)
    options = ["--lstm=cudnn", f"--data={corpus_dir}", *SMALL.split(), "--max-steps=1"]
    assert main([*options, f"--eval-batch-size={2**31 - 1 if kind == 'torch' else 1}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lm.train: not enough memory; try a smaller model or batch (")
    assert error.count("\n") == 1


def test_another_error_is_not_one_of_memory(corpus_dir, monkeypatch):
    def step(*arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr("lm.train.Trainer.train_step", step)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["--lstm=cudnn", f"--data={corpus_dir}", *SMALL.split()])


@pytest.mark.parametrize("main", [export.main, plot.main], ids=["export", "plot"])
@pytest.mark.parametrize("suffix", ["", ".svg", ".pt2"])
def test_a_name_that_is_too_long(capsys, main, suffix):
    name = main.__module__.removeprefix("lm.")
    message = refused(capsys, main, name, "nowhere", f"--output={'x' * 300}{suffix}")
    assert "File name too long" in message or "expected it to end in" in message


def test_a_message_is_one_line_whatever_it_names(capsys):
    message = refused(capsys, main, "train", "--data=a\nb\x1b[1m\udcff")
    assert "got 'a\\nb\\x1b[1m\\udcff'" in message


def test_another_runs_checkpoints_are_not_overwritten(capsys, corpus_dir, tmp_path):
    save = f"--save={tmp_path / 'saved'}"
    train(tmp_path, corpus_dir, "--max-steps=1", save)
    capsys.readouterr()
    assert "holds another run; --resume" in refused(capsys, main, "train", save)


def test_an_engine_that_cannot_run_says_why(capsys, monkeypatch):
    def choose(*arguments):
        raise RuntimeError("engine 'triton' cannot run on 'cpu': no compiler")

    monkeypatch.setattr("lm.device.choose", choose)
    message = refused(capsys, main, "train", "--lstm=triton")
    assert message == "lm.train: engine 'triton' cannot run on 'cpu': no compiler\n"


def test_the_verbs_are_listed(capsys):
    runpy.run_module("lm", run_name="__main__")
    listed = [line.split()[2] for line in capsys.readouterr().out.splitlines() if "-m" in line]
    assert listed == ["lm.train", "lm.evaluate", "lm.generate", "lm.export", "lm.plot"]
