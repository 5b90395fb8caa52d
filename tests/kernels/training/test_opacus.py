"""Gradients of each sample under Opacus: those that each sample alone gives."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import fused_lstm
from tolerance import assert_close

opacus = pytest.importorskip("opacus", reason="opacus is not installed: pip install opacus")
import fused_lstm.opacus  # noqa: E402

DOUBLE = {"dtype": torch.float64}
T, B, I, H = 5, 4, 3, 6
ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(why is not None, reason=f"{name}: {why}"))
    for name, why in fused_lstm.available_engines("cpu").items()
    if name in ("native", "triton")
]
engines = pytest.mark.parametrize("engine", ENGINES)


class Model(nn.Module):
    """What gives a loss of each sample, by any of the LSTM's outputs."""

    def __init__(self, uses: str, call: str, embeds: bool = False, calls: int = 1, **options):
        super().__init__()
        torch.manual_seed(1)
        self.uses, self.call, self.calls = uses, call, calls
        self.first = nn.Linear(I, I, **DOUBLE) if embeds else nn.Identity()
        self.lstm = fused_lstm.opacus.LSTM(I, H, **options, **DOUBLE)
        D = 1 + self.lstm.bidirectional
        self.last = nn.Linear(D * (self.lstm.proj_size or H), 2, **DOUBLE)
        self.states = torch.randn(2, self.lstm.num_layers * D, B, H, **DOUBLE)

    def run(self, x, rows):
        lengths = torch.tensor([3, 5, 1, 4])[rows]
        h, c = self.states[:, :, rows]
        if self.call == "packed":
            x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            y, state = self.lstm(x)
            return nn.utils.rnn.pad_packed_sequence(y, True, total_length=T)[0], state
        if self.call == "lengths":
            return self.lstm(x, lengths=lengths)
        if self.call == "resets":
            resets = torch.arange(T) % (rows[:, None] + 2) == 1
            return self.lstm(x, (h, c), resets=resets)
        return self.lstm(x, (h, c)) if self.call == "state" else self.lstm(x)

    def forward(self, x, rows):
        x, losses = self.first(x), 0
        for n in range(self.calls):
            y, (h_n, c_n) = self.run(x * (n + 1), rows)
            if "y" in self.uses:
                losses = losses + self.last(y).sin().sum((1, 2))
            if "h" in self.uses:
                losses = losses + (h_n * h_n.cos()).sum((0, 2))
            if "c" in self.uses:
                losses = losses + c_n.sin().sum((0, 2))
        return losses


def check(engine: str, reduction: str = "mean", **options) -> None:
    model = Model(batch_first=True, engine=engine, **options)
    x, rows = torch.randn(B, T, I, **DOUBLE), torch.arange(B)
    wanted = []
    for n in range(B):
        model.zero_grad()
        torch.manual_seed(3)
        losses = model(x, rows)  # all of them: a mask's row is its own
        losses[n].backward()
        wanted.append({name: p.grad.clone() for name, p in model.named_parameters()
                       if p.grad is not None})  # fmt: skip
    model.zero_grad()
    sampled = opacus.GradSampleModule(copy.deepcopy(model), loss_reduction=reduction)
    torch.manual_seed(3)
    losses = sampled(x, rows)
    torch.manual_seed(3)
    assert_close(losses.detach(), model(x, rows).detach(), "loss")
    (losses.mean() if reduction == "mean" else losses.sum()).backward()
    found = dict(sampled._module.named_parameters())
    for name in wanted[0]:
        each = torch.stack([of[name] for of in wanted])
        assert_close(found[name].grad_sample, each, name)


OPTIONS = {
    "plain": {"uses": "y", "call": "plain"},
    "under a layer": {"uses": "y", "call": "plain", "embeds": True, "num_layers": 2},
    "the last state alone": {"uses": "h", "call": "plain", "bidirectional": True},
    "c alone": {"uses": "c", "call": "plain", "bias": False},
    "all, from a state": {"uses": "yhc", "call": "state", "num_layers": 2},
    "projected": {"uses": "yh", "call": "plain", "proj_size": 2},
    "packed": {"uses": "yhc", "call": "packed", "embeds": True, "bidirectional": True},
    "lengths": {"uses": "yhc", "call": "lengths", "num_layers": 2},
    "resets": {"uses": "yh", "call": "resets", "num_layers": 2},
    "called twice": {"uses": "yh", "call": "plain", "calls": 2, "embeds": True},
}


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # of the layer below
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@engines
def test_it_is_each_samples_own(engine, options):
    check(engine, **options)


@engines
def test_a_sum_over_the_batch(engine):
    check(engine, "sum", **OPTIONS["all, from a state"])


MASKS = {"zoneout": (0.3, 0.2), "recurrent_dropout": 0.4, "dropout": 0.4}


@engines
def test_masks(engine):
    check(engine, uses="yhc", call="lengths", num_layers=2, **MASKS)


CELLS = {
    "layer_norm": {"layer_norm": True, "zoneout": 0.3},
    "peephole": {"peephole": True},
    "coupled": {"coupled": True},
}


@pytest.mark.parametrize("options", CELLS.values(), ids=CELLS)
@engines
def test_cells_with_weights_of_their_own(engine, options):
    check(engine, uses="yhc", call="lengths", num_layers=2, **options)


FAMILY = {
    "GRU": {},
    "GRU, layer_norm": {"layer_norm": True, "recurrent_dropout": 0.4},
    "RNN": {"nonlinearity": "relu"},
}


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("lengths", [None, torch.tensor([3, 5, 1, 4])], ids=["", "lengths"])
@pytest.mark.parametrize("name", FAMILY)
@engines
def test_a_gru_and_an_rnn(engine, name, lengths):
    if engine == "triton" and "layer_norm" in name:
        pytest.skip("has no such GRU")
    kind = getattr(fused_lstm.opacus, name.partition(",")[0])
    module = kind(I, H, 2, engine=engine, **FAMILY[name], **DOUBLE)
    x, wanted = torch.randn(T, B, I, **DOUBLE), []

    def losses(module):
        torch.manual_seed(3)
        y, h_n = module(x, lengths=lengths)
        return y.sin().sum((0, 2)) + (h_n * h_n.cos()).sum((0, 2))

    for n in range(B):
        module.zero_grad()
        losses(module)[n].backward()
        wanted.append({name: p.grad.clone() for name, p in module.named_parameters()})
    module.zero_grad()
    sampled = opacus.GradSampleModule(module, batch_first=False)
    losses(sampled).mean().backward()
    for name, p in module.named_parameters():
        assert_close(p.grad_sample, torch.stack([of[name] for of in wanted]), name)
    fixed = opacus.validators.ModuleValidator.fix(getattr(fused_lstm, kind.__name__)(I, H))
    assert type(fixed) is kind


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_as_opacus_own_lstm():
    """Against DPLSTM, on the same weights."""
    ours = fused_lstm.opacus.LSTM(I, H, 2, batch_first=True)
    theirs = opacus.layers.DPLSTM(I, H, 2, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    x, found = torch.randn(B, T, I), []
    for module in (ours, theirs):
        sampled = opacus.GradSampleModule(module)
        y, (h_n, c_n) = sampled(x)
        (y.sin().sum((1, 2)) + (h_n * c_n).sum((0, 2))).mean().backward()
        found.append({name: p.grad_sample for name, p in module.named_parameters()})
    assert found[0].keys() == found[1].keys()
    for name, each in found[1].items():
        assert_close(found[0][name], each, name)


class Tagger(nn.Module):
    def __init__(self, lstm: nn.Module) -> None:
        super().__init__()
        self.words, self.lstm, self.tags = nn.Embedding(20, I), lstm, nn.Linear(H, 3)

    def forward(self, words):
        return self.tags(self.lstm(self.words(words))[0]).mean(1)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("poisson", [True, False], ids=["poisson", "fixed"])
@pytest.mark.parametrize("mode", ["fixed", "made"])
def test_private_training(poisson, mode):
    """As a user does it: a loss that falls, and batches of any size, none at all too."""
    torch.manual_seed(0)
    words = torch.randint(20, (24, T))
    data = torch.utils.data.TensorDataset(words, (words == 3).any(1).long())
    kind = fused_lstm.opacus.LSTM if mode == "made" else fused_lstm.LSTM
    model = Tagger(kind(I, H, batch_first=True))
    if mode == "fixed":
        assert "fused_lstm.opacus.LSTM" in str(opacus.validators.ModuleValidator.validate(model))
        model = opacus.validators.ModuleValidator.fix(model)
        assert type(model.lstm) is fused_lstm.opacus.LSTM
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    loader = torch.utils.data.DataLoader(data, batch_size=2 if poisson else 8)
    model, optimizer, loader = opacus.PrivacyEngine().make_private(
        module=model, optimizer=optimizer, data_loader=loader, noise_multiplier=0.1,
        max_grad_norm=1.0, poisson_sampling=poisson,
    )  # fmt: skip
    sizes, losses = set(), []
    for _ in range(8):
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
            sizes.add(len(inputs))
            losses += [float(loss)] if len(inputs) else []
    assert all(p.isfinite().all() for p in model.parameters())
    assert sum(losses[-3:]) < sum(losses[:3])
    assert (0 in sizes) == poisson
    model.eval()
    with torch.no_grad():
        assert model(words).shape == (24, 3)


def test_outside_opacus_it_is_the_module():
    ours = fused_lstm.opacus.LSTM(I, H, 2, **DOUBLE)
    plain = fused_lstm.LSTM(I, H, 2, **DOUBLE)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(T, B, I, **DOUBLE)
    assert_close(ours(x)[0], plain(x)[0], "y")
    ours(x)[0].sum().backward()
    assert ours.weight_hh_l0.grad is not None


REFUSED = {
    "engine: got 'loop'": {"engine": "loop"},
    "fuse='pointwise'": {"engine": "native", "fuse": "pointwise"},
    "recompute=2": {"recompute": 2},
    "num_heads: got 2 under Opacus": {"num_heads": 2},
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused(message):
    module = opacus.GradSampleModule(fused_lstm.opacus.LSTM(I, H, **REFUSED[message]))
    with pytest.raises(ValueError, match=message):
        module(torch.randn(T, B, I))


@pytest.mark.parametrize("mode", ["functorch", "ghost"])
def test_other_modes_are_refused(mode):
    module = opacus.grad_sample.utils.wrap_model(
        fused_lstm.opacus.LSTM(I, H, batch_first=True), grad_sample_mode=mode
    )
    with pytest.raises(NotImplementedError, match="expected 'hooks'"):
        module(torch.randn(B, T, I))


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("sizes", [(4, 2), (2, 4)], ids=["fewer", "more"])
@engines
def test_two_calls_of_unequal_batch(engine, sizes, reduction):
    """A sample is row n of each call that has as many; a mean is one over the larger batch."""
    lstm = fused_lstm.opacus.LSTM(I, H, batch_first=True, engine=engine, **DOUBLE)
    inputs = [torch.randn(n, T, I, **DOUBLE) for n in sizes]

    def losses(module):
        each = torch.zeros(max(sizes), **DOUBLE)
        for x in inputs:
            each = each + nn.functional.pad(module(x)[0].sin().sum((1, 2)), (0, len(each) - len(x)))
        return each

    weights, wanted = dict(lstm.named_parameters()), []
    for n in range(max(sizes)):
        found = torch.autograd.grad(losses(lstm)[n], list(weights.values()))
        wanted.append(dict(zip(weights, found, strict=True)))
    sampled = opacus.GradSampleModule(copy.deepcopy(lstm), loss_reduction=reduction)
    getattr(losses(sampled), reduction)().backward()
    for name, p in sampled._module.named_parameters():
        assert_close(p.grad_sample, torch.stack([of[name] for of in wanted]), name)


@engines
def test_with_its_hooks_disabled_it_is_the_module(engine):
    lstm = fused_lstm.opacus.LSTM(I, H, engine=engine, **DOUBLE)
    x = torch.randn(T, B, I, **DOUBLE)
    wanted = torch.autograd.grad(lstm(x)[0].sin().sum(), list(lstm.parameters()))
    sampled = opacus.GradSampleModule(lstm, batch_first=False)
    sampled.disable_hooks()
    sampled(x)[0].sin().sum().backward()
    for (name, p), grad in zip(lstm.named_parameters(), wanted, strict=True):
        assert_close(p.grad, grad, name)
        assert p.grad_sample is None
    sampled.zero_grad()
    sampled.enable_hooks()
    sampled(x)[0].sin().sum((0, 2)).mean().backward()
    for (name, p), grad in zip(lstm.named_parameters(), wanted, strict=True):
        assert_close(p.grad_sample.sum(0), grad, f"{name}, with its hooks enabled again")
