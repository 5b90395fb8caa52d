"""What is beyond the presets: it does what its papers say, and its defaults change nothing."""

import dataclasses

import pytest
import torch
from torch import nn

import fused_lstm
from lm import checkpoint
from lm.model import LM_LSTM, build_model
from lm.optimizer import Optimizer
from lm.regularize import VariationalDropout, regularized_lstm
from lm.settings import PRESETS
from lm_cases import train

H, T, B, V, L = 12, 5, 3, 11, 3
ENGINES = [engine for engine in fused_lstm.ENGINES if engine != "compile"]


@pytest.fixture(params=ENGINES)
def engine(request):
    if (why := fused_lstm.available_engines("cpu")[request.param]) is not None:
        pytest.skip(why)
    return request.param


def make(engine="cudnn", keep=0.5, **options):
    return LM_LSTM(H, T, B, V, L, keep, lstm=engine, **options)


def words():
    return torch.randint(V, (T, B), generator=torch.Generator().manual_seed(0))


# --- weight-drop ---


def test_weight_drop_is_an_lstm_of_dropped_recurrent_weights(engine):
    """The engine's outputs and gradients are nn.LSTM's on weights that were dropped by hand."""
    lstm, x = fused_lstm.LSTM(H, H, L, engine=engine), torch.randn(T, B, H)
    hidden = tuple(torch.randn(2, L, B, H))
    torch.manual_seed(3)
    y, state = regularized_lstm(lstm, x, hidden, 0.4, nn.Dropout(0.0))
    plain = nn.LSTM(H, H, L)
    torch.manual_seed(3)
    dropped = {
        name: fused_lstm.dropout(weight.detach(), 0.4) if "weight_hh" in name else weight.detach()
        for name, weight in lstm.named_parameters()
    }
    plain.load_state_dict(dropped)
    expected, expected_state = plain(x, hidden)
    torch.testing.assert_close((y, *state), (expected, *expected_state))
    y.sum().backward()
    expected.sum().backward()
    for name, weight in lstm.named_parameters():
        grad = plain.get_parameter(name).grad
        if "weight_hh" in name:  # the kept ones were scaled up
            grad = torch.where(dropped[name] == 0, 0, grad / 0.6)
        torch.testing.assert_close(weight.grad, grad, msg=name)


def test_weight_drop_is_for_training_only():
    model = make(keep=1.0, weight_drop=0.5)
    first, again = (model(words(), model.init_hidden())[0] for _ in range(2))
    assert not torch.equal(first, again)
    model.eval()
    plain = make(keep=1.0)
    plain.load_state_dict(model.state_dict())
    first, expected = (m(words(), m.init_hidden())[0] for m in (model, plain))
    assert torch.equal(first, expected)


# --- variational dropout ---


def test_variational_dropout_has_one_mask_for_all_steps():
    x = VariationalDropout(0.5)(torch.ones(40, 7, 300))
    assert torch.equal(x, x[:1].expand_as(x))
    assert set(x.unique().tolist()) == {0.0, 2.0}
    assert (x == 0).float().mean() == pytest.approx(0.5, abs=0.05)
    assert not torch.equal(x[0, 0], x[0, 1])  # a column has its own


def test_variational_dropout_falls_between_layers_too(engine):
    """Every engine's outputs are those of nn.LSTM layer by layer under the same masks."""
    lstm, x = fused_lstm.LSTM(H, H, L, dropout=0.5, engine=engine), torch.randn(T, B, H)
    hidden, between = tuple(torch.randn(2, L, B, H)), VariationalDropout(0.5)
    torch.manual_seed(3)
    y, (h_n, c_n) = regularized_lstm(lstm, x, hidden, 0.0, between)
    plain, weights = nn.LSTM(H, H), dict(lstm.named_parameters())
    torch.manual_seed(3)
    for layer in range(L):
        own = {name: weights[name.replace("_l0", f"_l{layer}")] for name in plain.state_dict()}
        plain.load_state_dict(own)
        x = between(x) if layer else x
        x, (h, c) = plain(x, (hidden[0][layer, None], hidden[1][layer, None]))
        torch.testing.assert_close((h_n[layer], c_n[layer]), (h[0], c[0]))
    torch.testing.assert_close(y, x)


def test_variational_dropout_of_the_model_is_off_in_evaluation():
    model = make(variational_dropout=True).eval()
    plain = make().eval()
    plain.load_state_dict(model.state_dict())
    found, expected = (m(words(), m.init_hidden())[0] for m in (model, plain))
    assert torch.equal(found, expected)


# --- tied weights ---


def test_tied_weights_are_one_parameter(corpus_dir, tmp_path):
    config = dataclasses.replace(PRESETS["demo"], tie_weights=True, hidden_size=H)
    model = build_model(config, V, lstm="cudnn")
    assert model.sm_fc.weight is model.word_embeddings.weight
    train(tmp_path, corpus_dir, "--tie-weights", "--max-steps=3", f"--save={tmp_path / 'saved'}")
    saved = checkpoint.load(tmp_path / "saved")
    again = saved.model("loop")
    assert again.sm_fc.weight is again.word_embeddings.weight
    assert torch.equal(again.sm_fc.weight, saved.weights()["word_embeddings.weight"])


# --- the update ---


@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("clip", [0.01, 1e6], ids=["clipped", "free"])
def test_an_update_is_torchs_clip_and_step(name, decay, clip):
    config = dataclasses.replace(
        PRESETS["demo"], optimizer=name, weight_decay=decay, max_grad_norm=clip
    )
    ours, theirs = nn.Linear(5, 7), nn.Linear(5, 7)
    theirs.load_state_dict(ours.state_dict())
    optimizer = Optimizer(ours, config)
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[name]
    reference = kind(theirs.parameters(), lr=0.01, weight_decay=decay)
    optimizer.set_rate(0.01)
    for seed in range(3):
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(seed))
        for module, rule, scale in ((ours, optimizer.base, 1), (theirs, reference, 20)):
            rule.zero_grad()
            (module(x).square().sum() * scale).backward()
        norm = optimizer.step(scale=20)
        expected = nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        reference.step()
        torch.testing.assert_close(norm, expected)
        for name, parameter in ours.named_parameters():
            torch.testing.assert_close(parameter, theirs.get_parameter(name), msg=name)


# --- the defaults ---


def test_defaults_take_the_plain_path(monkeypatch):
    """Without an option nothing of it runs: not a call, not a random number."""
    monkeypatch.setattr("lm.model.regularized_lstm", None)
    model = make()
    assert type(model.dropout) is fused_lstm.Dropout
    model(words(), model.init_hidden())
    for name in ("tie_weights", "variational_dropout", "weight_decay", "weight_drop"):
        assert not any(getattr(config, name) for config in PRESETS.values())
    assert all(
        config.spec() == fused_lstm.Spec() and not config.forget_bias for config in PRESETS.values()
    )
