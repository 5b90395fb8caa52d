"""Steps that mean more than their operators: each is right, or runs as it is, with the reason."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fused_lstm
from own_loop import assert_same, unrolled

pytestmark = pytest.mark.usefixtures("without_bfloat16")

T, B, I, H = 6, 3, 5, 8


class Base(nn.Module):
    """A step of two Linear layers, with attributes of its own."""

    def __init__(self, **attributes) -> None:
        super().__init__()
        self.x, self.h = nn.Linear(I, H).double(), nn.Linear(H, H).double()
        for name, value in attributes.items():
            setattr(self, name, value)


def data():
    return torch.randn(T, B, I).double(), torch.randn(B, H).double()


def step(function, **attributes):
    """Return a module whose forward is a function of itself, x and h."""
    return type(function.__name__, (Base,), {"forward": function})(**attributes)


def check(module, said: str, *, state=None) -> None:
    """Compare a step with its own loop, and what `explain` says."""
    x, h = data()
    layer = fused_lstm.fuse(module)
    assert_same(layer, x, h if state is None else state)
    assert said in fused_lstm.explain(layer), fused_lstm.explain(layer)


# --- what a trace would take for a constant ---


def if_on_values(self, x, h):
    h = h * 2 if (x > 0).any() else h
    return torch.tanh(self.x(x) + self.h(h))


def assert_on_values(self, x, h):
    h = torch.tanh(self.x(x) + self.h(h))
    assert not torch.isnan(h).any()
    return h


def item(self, x, h):
    return torch.tanh(self.x(x) * x.abs().max().item() + self.h(h))


@pytest.mark.parametrize("function", [if_on_values, assert_on_values, item])
def test_python_that_depends_on_values(function):
    check(step(function), "none: the step is called in a Python loop; control flow")


def by_batch_size(self, x, h):
    return torch.tanh(self.x(x) / x.shape[0] + self.h(h))


def test_the_batch_size_as_a_number():
    check(step(by_batch_size), "with the batch size as a number")


def one_row(self, x, h):
    scale = 0.5 if len(x) == 1 else 2.0
    return torch.tanh(self.x(x) + scale * self.h(h))


def squeezed(self, x, h):
    return torch.tanh(self.x(x).squeeze() + self.h(h).squeeze()).reshape(-1, H)


def many_rows(self, x, h):
    return torch.tanh(self.x(x) + (0.5 if len(x) > 16 else 2.0) * self.h(h))


def few_rows(self, x, h):
    return torch.tanh(self.x(x) + (0.5 if len(x) < 4 else 2.0) * self.h(h))


@pytest.mark.parametrize("function", [one_row, squeezed, many_rows, few_rows])
def test_a_branch_on_the_batch_size(function):
    layer = fused_lstm.fuse(step(function))
    for rows in (3, 1, 40, 1, 3):
        x, h = torch.randn(T, rows, I).double(), torch.randn(rows, H).double()
        assert_same(layer, x, h)


def attribute(self, x, h):
    return torch.tanh(self.x(x) + self.beta * self.h(h))


def test_what_changes_between_calls():
    module = step(attribute, beta=0.5)
    layer = fused_lstm.fuse(module)
    x, h = data()
    assert_same(layer, x, h)
    module.beta = 0.9
    assert_same(layer, x, h)
    module.h = nn.Linear(H, H).double()
    assert_same(layer, x, h)
    module.x.weight = nn.Parameter(torch.randn(H, I).double())
    assert_same(layer, x, h)
    with torch.no_grad():
        module.x.weight.add_(1)
    assert_same(layer, x, h)
    module.x.weight.data = torch.randn(H, I).double()
    assert_same(layer, x, h)
    module.h.weight.data.mul_(2)
    assert_same(layer, x, h)


def mode(self, x, h):
    return torch.tanh(self.x(x) + self.h(h)) * (2 if self.training else 1)


def test_training_and_eval_behind_the_layers_back():
    layer = fused_lstm.fuse(step(mode))
    x, h = data()
    for change in (layer.eval, layer.train, layer.step.eval, layer.step.train):
        assert_same(layer, x, h)
        change()
    assert_same(layer, x, h)


SCALE = 0.5
WEIGHT = torch.randn(I, H).double()


def scaled(h):
    return SCALE * h


def of_globals(x, h):
    return torch.tanh(x @ WEIGHT + scaled(h))


def test_globals_and_what_a_called_function_reads(monkeypatch):
    layer = fused_lstm.fuse(of_globals)
    x, h = data()
    assert_same(layer, x, h)
    monkeypatch.setitem(globals(), "SCALE", 0.7)
    assert_same(layer, x, h)
    monkeypatch.setitem(globals(), "WEIGHT", torch.randn(I, H).double())
    assert_same(layer, x, h)
    monkeypatch.setitem(globals(), "scaled", lambda h: 0.1 * h)
    assert_same(layer, x, h)


def test_a_closures_number_and_list():
    scale, several = 0.5, [0.5, 0.25]

    def closure(x, h):
        return torch.tanh(x @ WEIGHT + scale * h * sum(several))

    layer = fused_lstm.fuse(closure)
    x, h = data()
    assert_same(layer, x, h)
    scale = 0.7
    assert_same(layer, x, h)
    several[1] = 3.0
    assert_same(layer, x, h)


# --- what a step changes ---


def keeps_a_tensor(self, x, h):
    self.last = h
    return torch.tanh(self.x(x) + self.h(h))


def test_a_tensor_that_a_step_keeps_is_there_after_the_loop():
    module = step(keeps_a_tensor)
    layer = fused_lstm.fuse(module)
    for _ in range(3):
        x, h = data()
        y, _ = layer(x, h)
        torch.testing.assert_close(module.last, y[-2])
        expected = torch.stack(list(unrolled(module, x, h)))
        torch.testing.assert_close(y, expected)
    assert "steps:" in fused_lstm.explain(layer)


def counts(self, x, h):
    self.n += 1
    return torch.tanh(self.x(x) + self.h(h))


def alternates(self, x, h):
    self.n += 1
    return torch.tanh(self.x(x) + self.h(h) * (0.5 if self.n % 2 else 1))


def appends(self, x, h):
    self.history.append(h)
    return torch.tanh(self.x(x) + self.h(h))


def test_counters_lists_and_buffers():
    for function, attributes, name in (
        (counts, {"n": 0}, "n"), (alternates, {"n": 0}, "n"), (appends, {"history": []}, "history"),
        (counts, {"n": nn.Buffer(torch.zeros(()))}, "n"),
    ):  # fmt: skip
        module = step(function, **attributes)
        layer = fused_lstm.fuse(module)
        layer(*data())
        layer(*data())
        value = getattr(module, name)
        assert (len(value) if isinstance(value, list) else int(value)) == 2 * T
        assert f"a step changes {name}" in fused_lstm.explain(layer)


CALLS: list[torch.Tensor] = []


def test_a_list_of_a_global():
    def remembers(x, h):
        CALLS.append(h)
        return torch.tanh(x @ WEIGHT + h)

    CALLS.clear()
    fused_lstm.fuse(remembers)(*data())
    assert len(CALLS) == T


def test_batch_norm():
    def normalizes(self, x, h):
        return torch.tanh(self.bn(self.x(x)) + self.h(h))

    module = step(normalizes, bn=nn.BatchNorm1d(H).double())
    layer = fused_lstm.fuse(module)
    layer(*data())
    assert int(module.bn.num_batches_tracked) == T
    check(module.eval(), "steps:")


def in_place_on_x(self, x, h):
    x.mul_(0.5)
    return torch.tanh(self.x(x) + self.h(h))


def in_place_inside(self, x, h):
    g = self.x(x) + self.h(h)
    g[:, :4] = torch.sigmoid(g[:, :4])
    g[:, 4:].tanh_()
    return g


def test_changes_in_place():
    x, h = data()
    before = x.clone()
    layer = fused_lstm.fuse(step(in_place_on_x))
    layer(x, h)
    torch.testing.assert_close(x, before / 2)
    check(step(in_place_inside), "steps:")


# --- rows that meet ---


def mean_of_x(self, x, h):
    return torch.tanh(self.x(x - x.mean(0, keepdim=True)) + self.h(h))


def mean_of_h(self, x, h):
    return torch.tanh(self.x(x) + self.h(h - h.mean(0)))


def rolls(self, x, h):
    return torch.tanh(self.x(x) + self.h(h.roll(1, 0)))


def sums_up_rows(self, x, h):
    return torch.tanh(self.x(x.cumsum(0)) + self.h(h))


@pytest.mark.parametrize("function", [mean_of_x, mean_of_h, rolls, sums_up_rows])
def test_rows_that_meet_stay_in_the_loop(function):
    x, h = data()
    layer = fused_lstm.fuse(step(function), fuse="hoisted")
    assert_same(layer, x, h)
    check(step(function), "")


# --- operators that not all numbers are in the domain of ---


def cross_entropy(self, x, h):
    h = torch.tanh(self.x(x) + self.h(h))
    target = torch.sigmoid(x[:, :1]).expand(-1, H)
    return F.binary_cross_entropy(torch.sigmoid(h), target, reduction="none"), h


PERIODS = torch.tensor([1, 1, 2, 2, 3, 3, 4, 4])


def clockwork(self, x, h, t):
    return torch.where(t % PERIODS == 0, torch.tanh(self.x(x) + self.h(h)), h)


def cholesky(self, x, h):
    factor = torch.linalg.cholesky(torch.eye(H).double() + 0 * x[:, :1, None])
    return torch.tanh(self.x(x) + (factor @ h[:, :, None])[:, :, 0])


def test_operators_with_a_domain():
    x, h = data()
    for function in (cross_entropy, cholesky):
        assert_same(fused_lstm.fuse(step(function), fuse="hoisted"), x, h)
    t = torch.arange(T)[:, None, None].expand(T, B, 1)
    for level in (None, "hoisted"):
        assert_same(fused_lstm.fuse(step(clockwork), fuse=level), x, h, t=t)


class Rounded(torch.autograd.Function):
    """A straight-through estimator."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, g):
        return g


def skips(self, x, h):
    b = Rounded.apply(torch.sigmoid(h[:, :1]))
    return b * torch.tanh(self.x(x) + self.h(h)) + (1 - b) * h


def test_one_number_of_a_function_for_all_units():
    check(step(skips), "steps:")


# --- gradients that a trace would lose ---


def detached(self, x, h):
    return torch.tanh(self.x(x) + self.h(h.detach()) + h)


def data_of(self, x, h):
    return torch.tanh(self.x(x) + self.h(h.data) + h)


def without_gradients(self, x, h):
    with torch.no_grad():
        k = torch.sigmoid(self.h(h))
    return torch.tanh(self.x(x) + k * h)


class Clipped(torch.autograd.Function):
    """The identity, whose gradient is clipped: no linear function of it."""

    @staticmethod
    def forward(ctx, h):
        return h.clone()

    @staticmethod
    def backward(ctx, g):
        return g.clamp(-0.05, 0.05)


def clips(self, x, h):
    return torch.tanh(self.x(x) + self.h(Clipped.apply(h)))


@pytest.mark.parametrize("function", [detached, data_of, without_gradients, clips])
def test_gradients_that_end_or_are_others(function):
    check(step(function), "steps:")


def hooked(self, x, h):
    h = torch.tanh(self.x(x) + self.h(h))
    if h.requires_grad:
        h.register_hook(lambda g: g * 0.5)
    return h


def plain(self, x, h):
    return torch.tanh(self.x(x) + self.h(h))


def test_hooks():
    check(step(hooked), "register_hook in a step")
    for kind in ("forward", "forward_pre", "full_backward"):
        module, seen = step(plain), []
        getattr(module.x, f"register_{kind}_hook")(lambda *_, seen=seen: seen.append(1))
        layer = fused_lstm.fuse(module)
        x, h = data()
        layer(x.requires_grad_(), h)[0].sum().backward()
        assert len(seen) == T, kind
        assert "hook of x" in fused_lstm.explain(layer)


def test_frozen_weights():
    module = step(plain)
    module.h.weight.requires_grad_(False)
    fused_lstm.fuse(module)(*data())[0].sum().backward()
    assert module.h.weight.grad is None
    assert module.x.weight.grad is not None


# --- random numbers ---


def drops(self, x, h):
    x = F.dropout(x, 0.5, self.training)
    return torch.tanh(self.x(x) + self.h(F.dropout(h, 0.25, self.training)))


def adds_noise(self, x, h):
    return torch.tanh(self.x(x) + self.h(h) + 0.1 * torch.randn_like(h)) * torch.rand(len(x), 1)


def samples(self, x, h):
    sample = torch.distributions.Normal(self.x(x), 0.1, validate_args=False).rsample()
    return torch.tanh(sample + self.h(h))


@pytest.mark.parametrize("function", [drops, adds_noise, samples])
def test_random_numbers_are_drawn_before_the_loop(function):
    """The first call is compared with the own loop on the same numbers."""
    x, h = data()
    layer = fused_lstm.fuse(step(function), fuse="steps")
    torch.manual_seed(3)
    y, _ = layer(x, h)
    torch.manual_seed(3)
    again = layer(x, h)[0]
    assert not torch.equal(y[0], y[1])
    torch.testing.assert_close(y, again)  # the first call left the generator as the second found it
    own = fused_lstm.fuse(layer.step, fuse="none")
    many = torch.randn(1, 1, I).double().expand(4, 4000, -1)
    begins = torch.zeros(4000, H).double()
    a, b = (f(many, begins)[0][-1] for f in (layer, own))
    torch.testing.assert_close(a.mean(0), b.mean(0), atol=0.06, rtol=0.1)
    torch.testing.assert_close(a.std(0), b.std(0), atol=0.06, rtol=0.1)


def random_by_value(self, x, h):
    return torch.tanh(self.x(x) + self.h(h) * torch.bernoulli(torch.sigmoid(h)))


def test_random_numbers_that_depend_on_values():
    x, h = data()
    layer = fused_lstm.fuse(step(random_by_value))
    torch.manual_seed(0)
    y = layer(x, h)[0]
    torch.manual_seed(0)
    torch.testing.assert_close(y, torch.stack(list(unrolled(layer.step, x, h))))
    assert "random numbers: torch's operator 'bernoulli'" in fused_lstm.explain(layer)


# --- states ---


class Leaky(nn.Module):
    """A neuron that keeps its membrane on itself, as snnTorch's and spikingjelly's do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.beta = nn.Linear(I, H).double(), 0.9
        self.register_buffer("mem", torch.zeros(0), persistent=False)

    def forward(self, x):
        if self.mem.shape != (len(x), H):
            self.mem = torch.zeros(len(x), H, dtype=x.dtype)
        reset = (self.mem > 1).to(x.dtype).detach()
        self.mem = self.beta * self.mem + self.fc(x) - reset
        return torch.sigmoid(5 * (self.mem - 1))


def test_a_state_that_a_module_keeps():
    a, b = Leaky(), Leaky()
    b.load_state_dict(a.state_dict())
    layer = fused_lstm.fuse(a)
    for rows in (B, B, 2, B):  # another batch size begins anew, in the step itself
        x = torch.randn(T, rows, I).double()
        y, state = layer(x)
        own = torch.stack([b(x_t) for x_t in x])
        assert state is None
        torch.testing.assert_close(y, own)
        torch.testing.assert_close(a.mem, b.mem)
    assert "steps:" in fused_lstm.explain(layer)
    a.mem = torch.zeros(0)
    b.mem = torch.zeros(0)
    gradients = []
    for y, module in ((layer(x)[0], a), (torch.stack([b(x_t) for x_t in x]), b)):
        gradients.append(torch.autograd.grad(y.sum(), module.fc.weight)[0])
    torch.testing.assert_close(*gradients)


def two_widths(self, x, state):
    h, out = state
    h = torch.tanh(self.x(x) + self.h(h) + self.back(out))
    return h, (h, self.out(h))


def test_states_of_two_widths():
    module = step(two_widths, back=nn.Linear(3, H).double(), out=nn.Linear(H, 3).double())
    check(module, "steps:",
          state=(torch.randn(B, H).double(), torch.randn(B, 3).double()))  # fmt: skip


def shows_its_norm(self, x, h):
    normal = self.norm(self.h(h) + self.x(x))
    return normal - normal.mean(-1, keepdim=True), torch.tanh(normal)


def test_a_norm_that_is_a_result():
    check(step(shows_its_norm, norm=nn.LayerNorm(H).double()), "steps:")


def nan_in_x(self, x, h):
    return torch.tanh(self.x(x) + self.h(h))


def test_nan_and_infinity_stay_in_their_row():
    layer = fused_lstm.fuse(step(nan_in_x), fuse="steps")
    x, h = data()
    layer(x, h)
    x[2, 1, 0], x[3, 2, 1] = torch.nan, torch.inf
    own = torch.stack(list(unrolled(layer.step, x, h)))
    torch.testing.assert_close(layer(x, h)[0], own, equal_nan=True)


def test_first_calls_in_several_threads():
    layers = [fused_lstm.fuse(step(plain)) for _ in range(4)]
    x, h = data()
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda layer: layer(x, h)[0], layers))
    for layer, y in zip(layers, results, strict=True):
        torch.testing.assert_close(y, torch.stack(list(unrolled(layer.step, x, h))))
        assert fused_lstm.explain(layer).startswith("steps:")


# --- what a person is told ---


def test_each_plan_is_logged_once(caplog):
    with caplog.at_level(logging.INFO, "fused_lstm"):
        layer = fused_lstm.fuse(step(plain))
        for _ in range(3):
            layer(*data())
        fused_lstm.fuse(step(counts, n=0))(*data())
    assert [r.levelname for r in caplog.records] == ["INFO", "WARNING"]
    assert "fuse(counts): none: the step is called in a Python loop; a step changes" in caplog.text


def test_a_wrong_kernel_is_not_taken(monkeypatch):
    from fused_lstm.loops import tiers

    run = tiers.Printed.run
    monkeypatch.setattr(
        tiers.Printed, "run", lambda self, c: ([2 * t for t in run(self, c)[0]], *run(self, c)[1:])
    )
    layer = fused_lstm.fuse(step(plain))
    x, h = data()
    torch.testing.assert_close(layer(x, h)[0], torch.stack(list(unrolled(layer.step, x, h))))
    assert "steps: results or gradients differ from the step's own" in fused_lstm.explain(layer)
    unchecked = fused_lstm.fuse(step(plain), check=False)
    unchecked(x, h)
    assert fused_lstm.explain(unchecked).startswith("steps:")


def test_a_fault_of_ours_does_not_end_a_persons_loop(monkeypatch):
    from fused_lstm.loops import layer as module
    from fused_lstm.loops import tiers

    x, h = data()

    def fails(*_):
        raise KeyError("val")

    with monkeypatch.context() as patched:
        patched.setattr(tiers.Printed, "run", fails)
        check(step(plain), "steps: KeyError: 'val'")
    monkeypatch.setattr(module, "Lowered", fails)
    check(step(plain), "a fault of fused_lstm, which please report: KeyError: 'val'")
    with pytest.raises(ValueError, match="fuse: got 'steps'; expected 'hoisted'"):
        fused_lstm.fuse(step(plain), fuse="steps")(x, h)


def test_a_loop_that_is_faster_is_taken(monkeypatch):
    from fused_lstm.loops import layer as module

    monkeypatch.setattr(module, "race", lambda *_: {"none": 1e-3, "hoisted": 4e-3, "steps": 2e-3})
    layer = fused_lstm.fuse(step(plain))
    x, h = data()
    layer(x[:1], h)
    text = fused_lstm.explain(layer)
    assert (
        "none for 1 to 1 steps of 2 to 3 rows in training, where it was faster (none 1.00" in text
    )
    assert layer._tier(next(iter(layer._plans.values())), layer_call(layer, x, h)) == "none"


def layer_call(layer, x, h):
    call = layer._call(x, {}, None, None, None)
    call.state = [h]
    return call
