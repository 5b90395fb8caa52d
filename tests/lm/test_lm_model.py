"""The model computes what the blog post's does, and its perplexity is that of every token."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fused_lstm
from lm.command import UserError
from lm.evaluate import perplexity, perplexity_of
from lm.model import LM_LSTM, build_model, repackage_hidden
from lm.settings import PRESETS

H, T, B, V, L = 6, 5, 3, 11, 2


def make(keep=1.0, **engine):
    return LM_LSTM(H, T, B, V, L, keep, **{"lstm": "cudnn", **engine})


def words(*shape):
    return torch.randint(V, shape)


@pytest.mark.parametrize(("steps", "batch"), [(T, B), (1, 1), (1, B), (9, 2)])
def test_forward_is_the_posts_program_written_out(steps, batch):
    model = make()
    plain = nn.LSTM(H, H, L)
    plain.load_state_dict(model.lstm.state_dict())
    inputs, hidden = words(steps, batch), model.init_hidden(batch)
    outputs, (h, c) = plain(F.embedding(inputs, model.word_embeddings.weight), hidden)
    expected = outputs @ model.sm_fc.weight.T + model.sm_fc.bias
    logits, after = model(inputs, hidden)
    assert logits.shape == (steps, batch, V)
    torch.testing.assert_close((logits, *after), (expected, h, c))


def test_arguments_are_kept_as_the_posts_class_keeps_them():
    model = LM_LSTM(
        embedding_dim=H,
        num_steps=T,
        batch_size=B,
        vocab_size=V,
        num_layers=L,
        dp_keep_prob=0.5,
        lstm="loop",
        fuse="none",
    )
    kept = (model.embedding_dim, model.num_steps, model.batch_size, model.vocab_size)
    assert kept == (H, T, B, V)
    assert (model.num_layers, model.dp_keep_prob, model.lstm.dropout) == (L, 0.5, 0.5)
    assert isinstance(model.lstm, fused_lstm.LSTM)


def test_start_of_the_weights():
    model = LM_LSTM(64, T, B, 200, 1, 1.0, lstm="cudnn")
    for weight in (model.word_embeddings.weight, model.sm_fc.weight):
        assert 0.09 < weight.abs().max() <= 0.1
        assert abs(weight.mean()) < 0.01
    assert not model.sm_fc.bias.any()
    assert 0.1 < model.lstm.weight_hh_l0.abs().max() <= 1 / math.sqrt(64)


@pytest.mark.parametrize("scope", ["all", "softmax"])
def test_init_scope(scope):
    config = dataclasses.replace(PRESETS["demo"], hidden_size=64, init_scale=0.01, init_scope=scope)
    model = build_model(config, vocab_size=200, lstm="cudnn")
    assert 0.009 < model.sm_fc.weight.abs().max() <= 0.01
    everything = max(parameter.abs().max() for parameter in model.lstm.parameters())
    assert (everything <= 0.01) == (scope == "all")
    assert bool(model.sm_fc.bias.any()) == (scope == "all")


def test_one_layer_with_dropout_does_not_warn(recwarn):
    LM_LSTM(H, T, B, V, 1, 0.5, lstm="cudnn")
    assert not recwarn.list


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_init_hidden(dtype):
    h, c = make().to(dtype).init_hidden()
    for state in (h, c):
        assert state.shape == (L, B, H)
        assert state.dtype == dtype
        assert not state.any()


def test_repackage_hidden_stops_gradients():
    model = make()
    _, hidden = model(words(T, B), model.init_hidden())
    assert all(state.requires_grad for state in hidden)
    detached = repackage_hidden(hidden)
    assert isinstance(detached, tuple)
    assert not any(state.requires_grad for state in detached)
    torch.testing.assert_close(detached, tuple(state.detach() for state in hidden))
    assert not repackage_hidden(hidden[0]).requires_grad


def test_dropout_falls_on_the_embedding_and_on_the_last_output():
    model = LM_LSTM(400, T, B, V, 1, 0.25, lstm="cudnn")
    seen = []
    model.lstm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    outputs, _ = model.features(words(T, B), model.init_hidden())
    for dropped in (seen[0], outputs):
        assert (dropped == 0).float().mean() == pytest.approx(0.75, abs=0.05)
    model.eval()
    outputs, _ = model.features(words(T, B), model.init_hidden())
    assert (seen[1] != 0).all()
    assert (outputs != 0).all()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_is_the_cross_entropy_of_forward(reduction):
    model = make()
    inputs, targets = words(T, B), words(T, B)
    targets[-1, 0] = -100
    logits, after = model(inputs, model.init_hidden())
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)
    loss, state = model.loss(inputs, targets, model.init_hidden(), reduction)
    torch.testing.assert_close((loss, *state), (expected, *after))


# --- perplexity ---


def reference_perplexity(model, ids):
    """One pass over the whole text, in one batch of one column."""
    logits, _ = model.eval()(ids[:-1, None], model.init_hidden(1))
    return math.exp(F.cross_entropy(logits.squeeze(1), ids[1:]).item())


@pytest.mark.parametrize("tokens", [2, T, T + 1, T + 2, 73])
def test_perplexity_is_that_of_every_token(tokens):
    model, ids = make(keep=0.5), words(tokens)
    found = perplexity(model, ids, batch_size=1)
    assert model.training
    assert found == pytest.approx(reference_perplexity(model, ids), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_columns_do_not_change_what_is_counted(batch_size):
    model, ids = make(), words(60)
    nn.init.zeros_(model.sm_fc.weight)  # every word is as likely whatever came before it
    assert perplexity(model, ids, batch_size) == pytest.approx(V, rel=1e-5)


def test_columns_cost_only_the_context_of_their_first_words():
    model, ids = make(), words(T * 40 + 1)
    inputs, targets = (part.view(4, -1).t() for part in (ids[:-1], ids[1:]))
    logits, _ = model.eval()(inputs, model.init_hidden(4))
    expected = math.exp(F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item())
    assert perplexity(model, ids, 4) == pytest.approx(expected, rel=1e-5)


def test_the_perplexity_of_a_hopeless_model_is_an_error():
    assert perplexity_of(0.0) == 1.0
    for nll in (1e4, math.nan):
        with pytest.raises(UserError, match="the perplexity is not finite"):
            perplexity_of(nll)


# --- engines ---


def losses(engine):
    torch.manual_seed(1)
    model = make(lstm=engine)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    inputs, targets = words(T, B), words(T, B)
    hidden, found = model.init_hidden(), []
    for _ in range(2):
        loss, hidden = model.loss(inputs, targets, repackage_hidden(hidden))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


# torch.compile takes 20 seconds over this model; the tests of fused_lstm.LSTM cover that engine.
@pytest.mark.parametrize("engine", ["auto", *(e for e in fused_lstm.ENGINES if e != "compile")])
def test_engines_train_alike_from_one_seed(engine):
    why = fused_lstm.available_engines("cpu").get(engine)
    if why is not None:
        pytest.skip(why)
    expected = losses("cudnn")
    assert expected[-1] < expected[0]
    assert losses(engine) == pytest.approx(expected, rel=1e-5)
