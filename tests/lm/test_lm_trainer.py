"""The trainer: what a step, an epoch and a run compute."""

import dataclasses
import json
import math

import pytest
import torch

from lm.config import PRESETS
from lm.errors import UserError
from lm.model import build_model
from lm.text.corpus import load_corpus
from lm.train import main
from lm.training.log import Log
from lm.training.trainer import Trainer


def recorder(corpus_dir, **settings):
    """A trainer of a tiny model, and the (hidden, loss, next hidden) of every call of its loss."""
    tiny = {"hidden_size": 8, "num_steps": 5, "batch_size": 4, "keep_prob": 1.0}
    config = dataclasses.replace(PRESETS["small"], **{**tiny, **settings})
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
    for _ in range(2):
        trainer.end_epoch(trainer.train_epoch())
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
    inputs, targets = trainer.columns.batch(0, T)
    nll, _ = model.loss(inputs, targets, model.init_hidden())
    scale = T if over_time == "sum" else 1  # the mean over the batch, summed over time
    grads = torch.autograd.grad(nll * scale, list(model.parameters()))
    grads = [grad.to_dense() for grad in grads]
    norm = torch.cat([grad.flatten() for grad in grads]).norm()
    assert (norm > clip) == (clip == 0.01)
    factor = 0.5 * min(1.0, clip / norm)
    pairs = zip(model.parameters(), grads, strict=True)
    expected = [(parameter - factor * grad).detach() for parameter, grad in pairs]
    trainer.step(inputs, targets, model.init_hidden())
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
    inputs, targets = trainer.columns.batch(0, trainer.config.num_steps)
    trainer.step(inputs, targets, trainer.hidden)
    moved = (trainer.model.word_embeddings.weight != before).any(1)
    if sparse:
        assert moved.nonzero().flatten().equal(inputs.unique())


@pytest.mark.parametrize("clip", [0.2, 1e6], ids=["clipped", "free"])
def test_rows_train_as_a_dense_gradient_does(corpus_dir, clip):
    """Fifty steps: words that are read twice in a step, and words that are not."""
    ways = []
    for sparse in (True, False):
        torch.manual_seed(1)
        trainer, _ = recorder(corpus_dir, max_grad_norm=clip)
        assert trainer.model.word_embeddings.sparse
        trainer.model.word_embeddings.sparse = sparse
        for _ in range(2):
            trainer.end_epoch(trainer.train_epoch())
        assert trainer.steps >= 50
        ways.append(trainer)
    rows, dense = ways
    assert (max(dense.meter.norms) > clip) == (clip == 0.2)
    for name in ("losses", "norms"):
        found, expected = getattr(rows.meter, name), getattr(dense.meter, name)
        assert found == pytest.approx(expected, rel=1e-5), name
    for name, value in dense.model.state_dict().items():
        torch.testing.assert_close(rows.model.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("parts", [2, 3])
def test_a_step_in_parts_is_the_step(corpus_dir, parts):
    """Gradients of columns read one after another add up to the whole batch's."""
    ways = []
    for accumulate in (1, parts):
        torch.manual_seed(1)
        trainer, calls = recorder(corpus_dir, accumulate=accumulate)
        trainer.end_epoch(trainer.train_epoch())
        assert len(calls) == accumulate * trainer.steps
        ways.append(trainer)
    whole, apart = ways
    for name in ("losses", "norms"):
        assert getattr(apart.meter, name) == pytest.approx(getattr(whole.meter, name), rel=1e-4)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(apart.model.state_dict()[name], value, msg=name)


def test_more_parts_than_columns_are_refused(corpus_dir):
    with pytest.raises(UserError, match="--batch-size: 1 processes of 5 parts need 5, got 4"):
        recorder(corpus_dir, accumulate=5)


def test_each_epoch_has_its_learning_rate(corpus_dir):
    trainer, _ = recorder(corpus_dir, flat_epochs=1)
    for _ in range(3):
        trainer.end_epoch(trainer.train_epoch())
    assert [point.learning_rate for point in trainer.curve] == [1.0, 0.5, 0.25]


@pytest.mark.parametrize(
    ("shape", "seen_at"),
    [
        pytest.param({"num_steps": 5, "batch_size": 4}, 7, id="before-a-line-of-the-log"),
        pytest.param({"num_steps": 1, "batch_size": 1}, 50, id="between-two-lines"),
    ],
)
def test_a_run_that_diverges_ends_soon(corpus_dir, shape, seen_at):
    """At the fifth step; a line is due after the seventh of 35, and after 72 of 719."""
    trainer, calls = recorder(corpus_dir, **shape)
    loss = trainer.model.loss

    def diverges(*given):
        nll, hidden = loss(*given)
        return nll * (math.nan if len(calls) == 5 else 1), hidden

    trainer.model.loss = diverges
    with pytest.raises(UserError, match="the loss of step 5 is not finite"):
        trainer.train_epoch()
    assert trainer.steps == seen_at


def test_a_gradient_that_is_not_finite_is_named(corpus_dir):
    trainer, _ = recorder(corpus_dir)
    trainer.meter.losses, trainer.meter.norms = [2.0, 2.0], [1.0, math.inf]
    with pytest.raises(UserError, match="the gradient of step 2 is not finite"):
        trainer.check()


def test_a_perplexity_that_is_not_finite_ends_the_run(corpus_dir):
    trainer, _ = recorder(corpus_dir)
    torch.nn.init.constant_(trainer.model.sm_fc.bias, math.nan)
    with pytest.raises(UserError, match="the valid perplexity is not finite"):
        trainer.evaluate("valid")


def test_the_demo_learns(tmp_path):
    file = tmp_path / "summary.json"
    assert main(["--lstm=cudnn", "--threads=1", f"--summary={file}"]) == 0
    found = json.loads(file.read_text())
    assert found["test_perplexity"] < 0.5 * found["unigram_perplexity"]


@pytest.mark.parametrize("engine", ["loop", pytest.param("triton", marks=pytest.mark.slow)])
def test_engines_train_alike_on_penn_treebank(ptb, tmp_path, engine):
    def losses(name):
        file = tmp_path / f"{name}.json"
        options = ["--preset=small", "--max-steps=3", "--no-eval", "--threads=1"]
        assert main([f"--lstm={name}", f"--data={ptb}", f"--summary={file}", *options]) == 0
        return json.loads(file.read_text())["losses"]

    assert losses(engine) == pytest.approx(losses("cudnn"), rel=1e-4)
