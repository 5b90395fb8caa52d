"""A training run, through its command line: what it says and writes."""

import contextlib
import dataclasses
import json
import math
import pty
import re
import sys
import termios
import threading

import pytest
import torch

from lm import checkpoint
from lm.command import UserError
from lm.settings import Config
from lm.train import Trainer, main
from lm_cases import SMALL, make_trainer, train


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
    said = r"Test perplexity: [\d.]+, [\d.]+ of that of plain word frequencies, [\d.]+"
    assert re.fullmatch(said, lines[-1])


def test_a_terminal_gets_progress_bars(corpus_dir, tmp_path, monkeypatch):
    """Of training and of each evaluation, with words per second and the time left.

    What a library prints while a step runs is above the bar, and not within its line.
    """
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    step = Trainer.train_step

    def warns(*arguments):
        print("beware", file=sys.stderr)
        return step(*arguments)

    monkeypatch.setattr(Trainer, "train_step", warns)
    with open(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(sys, "__stderr__", terminal)
        shown = []
        reader = threading.Thread(target=lambda: shown.extend(read_terminal(ours)))
        reader.start()
        train(tmp_path, corpus_dir, "--epochs=1")
    reader.join(30)
    text = b"".join(shown).decode()
    assert re.search(r"train: 100%\|.*\| 700/700 \[\d\d:\d\d<\d\d:\d\d, .*words/s\]", text)
    for split in ("valid", "test"):
        assert re.search(rf"{split}: +\d+%\|.* words/s\]", text)
    assert text.count("beware") == 35
    for line in re.split("[\r\n]+", text):
        assert "beware" not in line or line.strip() == "beware", line


def read_terminal(ours):
    with contextlib.suppress(OSError), open(ours, "rb", buffering=0) as file:
        while chunk := file.read(4096):  # Linux ends a terminal with an error, EIO
            yield chunk


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
    saved = checkpoint.load(tmp_path / "new" / "run")
    assert saved.step == summary["steps"]
    assert dataclasses.asdict(saved.config) == summary["config"]
    trainer = make_trainer(corpus_dir, hidden_size=16, num_layers=1)
    trainer.model.load_state_dict(saved.weights())
    assert trainer.evaluate("test") == pytest.approx(summary["test_perplexity"], rel=1e-4)


def test_threads(run, capsys):
    assert run("--threads=2", "--max-steps=1")["threads"] == 2
    assert ", 2 threads, " in capsys.readouterr().out
    run("--threads=1", "--max-steps=1")
    assert ", 1 thread, " in capsys.readouterr().out


# --- what a step and an epoch compute ---


def recorder(corpus_dir, **options):
    """A trainer of a tiny model, and the (hidden, loss, next hidden) of every call of its loss."""
    trainer = make_trainer(corpus_dir, eval=False, **options)
    calls, loss = [], trainer.model.loss

    def spy(inputs, targets, hidden, reduction="mean"):
        nll, after = loss(inputs, targets, hidden, reduction)
        calls.append((hidden, nll, after))
        return nll, after

    trainer.model.loss = spy
    return trainer, calls


def test_state_is_carried_detached_and_zeroed_each_epoch(corpus_dir):
    trainer, calls = recorder(corpus_dir, epochs=2)
    trainer.run()
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
    inputs, targets = trainer.batch(0)
    nll, _ = model.loss(inputs, targets, model.init_hidden())
    scale = T if over_time == "sum" else 1  # the mean over the batch, summed over time
    grads = torch.autograd.grad(nll * scale, list(model.parameters()))
    grads = [grad.to_dense() for grad in grads]
    norm = torch.cat([grad.flatten() for grad in grads]).norm()
    assert (norm > clip) == (clip == 0.01)
    factor = 0.5 * min(1.0, clip / norm)
    pairs = zip(model.parameters(), grads, strict=True)
    expected = [(parameter - factor * grad).detach() for parameter, grad in pairs]
    trainer.train_step(inputs, targets, *model.init_hidden())
    for (name, parameter), value in zip(model.named_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value, msg=name)


@pytest.mark.parametrize(
    ("settings", "sparse"),
    [
        ({}, True),
        ({"optimizer": "adam"}, False),  # its moments move rows that have no gradient
        ({"weight_decay": 0.1}, False),  # and so does a decay
        ({"tie_weights": True}, False),  # the softmax layer's gradient has all rows
    ],
    ids=["sgd", "adam", "decay", "tied"],
)
def test_the_embedding_gives_rows_where_the_update_can_take_them(corpus_dir, settings, sparse):
    trainer, _ = recorder(corpus_dir, **settings)
    assert trainer.model.word_embeddings.sparse == sparse
    before = trainer.model.word_embeddings.weight.detach().clone()
    inputs, targets = trainer.batch(0)
    trainer.train_step(inputs, targets, *trainer.hidden)
    moved = (trainer.model.word_embeddings.weight != before).any(1)
    if sparse:
        assert moved.nonzero().flatten().equal(inputs.unique())


@pytest.mark.parametrize("clip", [0.2, 1e6], ids=["clipped", "free"])
def test_rows_train_as_a_dense_gradient_does(corpus_dir, clip):
    """Fifty steps: words that are read twice in a step, and words that are not."""
    ways = []
    for sparse in (True, False):
        trainer, _ = recorder(corpus_dir, max_grad_norm=clip, epochs=2)
        assert trainer.model.word_embeddings.sparse
        trainer.model.word_embeddings.sparse = sparse
        trainer.run()
        assert trainer.step >= 50
        ways.append(trainer)
    rows, dense = ways
    assert (max(dense.norms) > clip) == (clip == 0.2)
    assert rows.losses == pytest.approx(dense.losses, rel=1e-5)
    assert rows.norms == pytest.approx(dense.norms, rel=1e-5)
    for name, value in dense.model.state_dict().items():
        torch.testing.assert_close(rows.model.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("parts", [2, 3])
def test_a_step_in_parts_is_the_step(corpus_dir, parts):
    """Gradients of columns read one after another add up to the batch's."""
    ways = []
    for accumulate in (1, parts):
        trainer, calls = recorder(corpus_dir, accumulate=accumulate, epochs=1)
        trainer.run()
        assert len(calls) == accumulate * trainer.step
        ways.append(trainer)
    together, apart = ways
    assert apart.losses == pytest.approx(together.losses, rel=1e-4)
    assert apart.norms == pytest.approx(together.norms, rel=1e-4)
    for name, value in together.model.state_dict().items():
        torch.testing.assert_close(apart.model.state_dict()[name], value, msg=name)


def test_each_epoch_has_its_learning_rate(corpus_dir):
    trainer, _ = recorder(corpus_dir, flat_epochs=1, epochs=3)
    trainer.run()
    assert [point["learning_rate"] for point in trainer.curve] == [1.0, 0.5, 0.25]


def test_a_run_that_diverges_ends_at_the_next_line(corpus_dir):
    """At the fifth step; a line is due after the seventh of 35."""
    trainer, calls = recorder(corpus_dir)
    loss = trainer.model.loss

    def diverges(*arguments):
        nll, hidden = loss(*arguments)
        return nll * (math.nan if len(calls) == 5 else 1), hidden

    trainer.model.loss = diverges
    with pytest.raises(UserError, match="step 5 is not finite"):
        trainer.run()
    assert trainer.step == 7


def test_what_is_not_finite_is_named(corpus_dir):
    trainer, _ = recorder(corpus_dir)
    pairs = [(2.0, 1.0), (2.0, math.inf)]
    trainer.unread = [(torch.tensor(loss), torch.tensor(norm)) for loss, norm in pairs]
    with pytest.raises(UserError, match="step 2 is not finite"):
        trainer.read()
    torch.nn.init.constant_(trainer.model.sm_fc.bias, math.nan)
    with pytest.raises(UserError, match="the perplexity is not finite"):
        trainer.evaluate("valid")


def test_a_run_that_has_diverged_but_is_finite_is_one_line(corpus_dir, tmp_path, capsys):
    """A mean loss of 700 nats or more, of which the perplexity is not finite."""
    options = ["--optimizer=sgd", "--learning-rate=1e6", "--max-grad-norm=1e6", "--no-eval"]
    text, save = f"--data={corpus_dir}", f"--save={tmp_path / 'saved'}"
    summary = f"--summary={tmp_path / 'summary.json'}"
    assert main(["--lstm=cudnn", *SMALL.split(), *options, text, save, summary]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lm.train: the perplexity is not finite (loss ")
    assert error.count("\n") == 1
    assert not (tmp_path / "summary.json").exists()


def test_the_demo_learns(tmp_path):
    """In half an epoch it knows more than how often words come."""
    file = tmp_path / "summary.json"
    assert main(["--lstm=auto", "--threads=1", "--max-steps=50", f"--summary={file}"]) == 0
    summary = json.loads(file.read_text())
    assert summary["test_perplexity"] < 0.9 * summary["unigram_perplexity"]


@pytest.mark.parametrize("engine", ["loop", pytest.param("triton", marks=pytest.mark.slow)])
def test_engines_train_alike_on_penn_treebank(ptb, tmp_path, engine):
    def losses(name):
        file = tmp_path / f"{name}.json"
        options = ["--preset=small", "--max-steps=3", "--no-eval", "--threads=1"]
        assert main([f"--lstm={name}", f"--data={ptb}", f"--summary={file}", *options]) == 0
        return json.loads(file.read_text())["losses"]

    assert losses(engine) == pytest.approx(losses("cudnn"), rel=1e-4)
