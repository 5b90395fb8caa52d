"""`fused_lstm.fuse`: people's steps, unchanged, beside the loops that people run."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import re
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree

import fused_lstm
from bench.written import CELLS
from fused_lstm import native
from fused_lstm.loops.__main__ import main
from own_loop import assert_same, call_of, results_of, unrolled
from tolerance import error_norm

pytestmark = pytest.mark.usefixtures("without_bfloat16")  # except where a test asks for it

# Cells that no kernel is printed for, and what decides it.
HOISTED = {
    "ltc_pairwise": "'sum'",
    "dcrnn": "'bmm'",
}
STOCK = {
    "lstm_4_linear": "lstm", "lstm_8_linear": "lstm", "lstm_parameters": "lstm",
    "lstm_cell_head": "lstm", "gru_reset_after": "gru", "highway_lstm": "lstm",
    "decoder_head": "lstm",
}  # fmt: skip


# --- people's cells ---


SIZES = 16, 24  # I and H of most tests here: a norm's H is in its C++, which is compiled once


@pytest.mark.parametrize("name", CELLS)
def test_cells_as_people_write_them(name):
    module, x, state = call_of(CELLS[name], 6, 5, *SIZES)
    layer = fused_lstm.fuse(module)
    assert_same(layer, x, state)
    text = fused_lstm.explain(layer)
    assert text.startswith("hoisted:" if name in HOISTED else "steps:"), text
    assert HOISTED.get(name, "") in text
    assert ("the library's cell" in text) == (name in STOCK)
    assert STOCK.get(name, "") in text


@pytest.mark.parametrize(
    "name",
    [  # every third cell, one of products of matrices among them; --slow has all
        pytest.param(name, marks=[] if n % 3 == 2 else pytest.mark.slow)
        for n, name in enumerate(CELLS)
    ],
)
def test_one_row(name):
    module, x, state = call_of(CELLS[name], 2, 1, *SIZES)
    assert_same(fused_lstm.fuse(module, fuse=None if name in HOISTED else "steps"), x, state)


@pytest.mark.parametrize("name", ["lstm_one_linear", "gru_reset_before", "layer_norm_lstm", "cfc"])
def test_float32_and_bfloat16(name):
    """Compare errors from float64: the own loop rounds to bfloat16 more often."""
    native.OPS.use_isa("")  # with kernels of bfloat16
    for dtype, factor in ((torch.float32, 1.5), (torch.bfloat16, 1.1)):
        module, x, state = call_of(CELLS[name], 7, 3, *SIZES, dtype)
        ours = results_of(fused_lstm.fuse(module, fuse="steps"), x, state)
        own = results_of(fused_lstm.fuse(module, fuse="none"), x, state)
        x, state = pytree.tree_map(torch.Tensor.double, (x, state))
        exact = results_of(fused_lstm.fuse(copy.deepcopy(module).double(), fuse="none"), x, state)
        for part, value in exact.items():
            error, allowed = error_norm(ours[part], value), factor * error_norm(own[part], value)
            assert error <= allowed + torch.finfo(dtype).eps, (part, dtype)


@pytest.mark.parametrize("name", ["lstm_8_linear", "lstm_one_linear", "cfc", "rssm", "lif"])
def test_a_lower_level(name):
    module, x, state = call_of(CELLS[name], 5, 2, 8, 16)
    layer = fused_lstm.fuse(module, fuse="hoisted")
    assert_same(layer, x, state)
    assert fused_lstm.explain(layer).startswith("hoisted:")


# What Triton's kernels do not have, and cells that need it.
TRITON_REFUSES = dict.fromkeys(["cfc", "mogrifier"], "more units than h, or gates of others")


@pytest.mark.parametrize(
    "name", ["lstm_one_linear", "gru_reset_before", "adaptive_lif", "ind_rnn", "co_rnn",
             "multiplicative_lstm", "layer_norm_lstm", "rssm", "gru_d", "decoder_feedback",
             "skip_rnn", "lmu", "feature_attention", *TRITON_REFUSES]
)  # fmt: skip
def test_triton(name):
    module, x, state = call_of(CELLS[name], 3, 2, 8, 16)
    layer = fused_lstm.fuse(module, engine="triton", fuse="steps")
    if name in TRITON_REFUSES:
        with pytest.raises(ValueError, match=TRITON_REFUSES[name]):
            layer(x, state)
    else:
        assert_same(layer, x, state)


# --- a step of weights that are computed ---


class Split(nn.Module):
    """A bias that `chunk` splits, a weight that is a product, and one that is normalized."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u = nn.Parameter(torch.randn(12, 5)), nn.Parameter(torch.randn(12, 6))
        self.a, self.b = nn.Parameter(torch.randn(6, 2)), nn.Parameter(torch.randn(2, 6))
        self.bias = nn.Parameter(torch.randn(12))

    def forward(self, x, h):
        b1, b2 = self.bias.chunk(2)
        w1, w2 = self.w.chunk(2)
        u1, u2 = (self.u / self.u.norm(dim=1, keepdim=True)).chunk(2)
        z = torch.sigmoid(F.linear(x, w1) + F.linear(h, u1) + b1)
        n = torch.tanh(F.linear(x, w2) + F.linear(h, u2 @ self.a @ self.b) + b2)
        return h + z * (n - h)


def test_weights_that_are_computed_once_a_call():
    layer = fused_lstm.fuse(Split().double(), fuse="steps")
    assert_same(layer, torch.randn(5, 3, 5).double(), torch.randn(3, 6).double())
    assert "once a call" in fused_lstm.explain(layer)


class TwoLinears(nn.Module):
    """An LSTM's step of two Linears, with biases of both."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.h = nn.Linear(6, 32), nn.Linear(8, 32)

    def forward(self, x, state):
        h, c = state
        i, f, g, o = (self.x(x) + self.h(h)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, (h, c)


def operations(y: torch.Tensor) -> set[str]:
    """Return the names of the backward functions of a tensor."""
    seen, names = [y.grad_fn], set()
    for node in seen:
        names.add(type(node).__name__)
        seen += [n for n, _ in node.next_functions if n is not None and n not in seen]
    return names


class Tied(nn.Module):
    """A weight that multiplies x as it is and h as its transpose, and one in overlapping parts."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.v = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(6, 6))

    def forward(self, x, h):
        z = torch.sigmoid(F.linear(x, self.w) + h @ self.w)
        n = F.linear(x[:, :3], self.v[:, :3]) + h[:, :3] @ self.v[3:]
        return h + z * (torch.tanh(n) - h)


@pytest.mark.parametrize(
    ("cell", "state"),
    [
        (nn.GRUCell(6, 8), torch.zeros(3, 8)),
        (nn.LSTMCell(6, 8), (torch.zeros(3, 8), torch.zeros(3, 8))),
        (TwoLinears(), (torch.zeros(3, 8), torch.zeros(3, 8))),
    ],
    ids=["gru", "lstm", "own"],
)
def test_whole_weights_and_biases_are_taken_as_they_are(cell, state):
    """Each slice of a bias is a gradient of zeros and an addition in the backward."""
    layer, x = fused_lstm.fuse(cell), torch.randn(5, 3, 6)
    y, _ = layer(x, state)
    assert operations(y) <= {"ForwardBackward", "AccumulateGrad"}


def test_a_weight_and_its_transpose():
    layer = fused_lstm.fuse(Tied().double(), fuse="steps")
    assert_same(layer, torch.randn(5, 3, 6).double(), torch.randn(3, 6).double())


def test_parametrized_weights():
    module = nn.LSTMCell(5, 8).double()
    nn.utils.parametrizations.weight_norm(module, "weight_hh")
    state = torch.randn(3, 8).double(), torch.randn(3, 8).double()
    assert_same(fused_lstm.fuse(module, fuse="steps"), torch.randn(5, 3, 5).double(), state)


# --- what PyTorch does with modules ---


@pytest.fixture
def lstm():
    module, x, state = call_of(CELLS["lstm_one_linear"], 5, 3, 6, 8)
    return fused_lstm.fuse(module), x, state


def test_parameters_and_state_dict_are_the_steps_own(lstm):
    layer, x, state = lstm
    assert [id(p) for p in layer.parameters()] == [id(p) for p in layer.step.parameters()]
    assert layer.step.state_dict().keys() == {n.removeprefix("step.") for n in layer.state_dict()}
    before = layer(x, state)[0]
    layer.load_state_dict({n: 2 * t for n, t in layer.state_dict().items()})
    assert not torch.equal(layer(x, state)[0], before)
    assert_same(layer, x, state)


def test_deepcopy_and_pickle(lstm):
    layer, x, state = lstm
    layer.fuse = "steps"  # else measured times choose a level, and levels round differently
    expected = layer(x, state)[0]
    file = io.BytesIO()
    torch.save(nn.ParameterList(layer.parameters()), file)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        with torch.no_grad():
            assert torch.equal(other(x, state)[0], expected)
            next(other.parameters()).mul_(2)
            assert not torch.equal(other(x, state)[0], expected)
            assert torch.equal(layer(x, state)[0], expected)


def test_conversions(lstm):
    layer, x, state = lstm
    layer(x, state)
    layer.float()
    x, state = x.float(), tuple(t.float() for t in state)
    assert_same(layer, x, state, torch.float32)


def test_an_optimizer_trains_it(lstm):
    layer, x, state = lstm
    other = copy.deepcopy(layer)
    for module, fuse in ((layer, "steps"), (other, "none")):
        module.fuse = fuse
        optimizer = torch.optim.Adam(module.parameters(), 0.01)
        for _ in range(4):
            optimizer.zero_grad()
            module(x, state)[0].square().mean().backward()
            optimizer.step()
    for a, b in zip(layer.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_twice():
    module, x, state = call_of(CELLS["lstm_one_linear"], 2, 2, 3, 4)
    layer = fused_lstm.fuse(module, fuse="steps")
    x.requires_grad_()
    weight = next(layer.parameters())
    assert torch.autograd.gradcheck(lambda x, _: layer(x, state)[0], (x, weight))
    assert torch.autograd.gradgradcheck(lambda x, _: layer(x, state)[0], (x, weight))


def test_torch_func(lstm):
    layer, x, state = lstm
    weights = {n: p.detach() for n, p in layer.named_parameters()}

    def loss(weights, x):
        return torch.func.functional_call(layer, weights, (x, state))[0].square().sum()

    layer(x, state)
    plans = dict(layer._plans)
    found = torch.func.grad(loss)(weights, x)
    assert layer._plans == plans  # which read weights where they lie, at each call
    layer.fuse, layer._plans = "none", {}
    expected = torch.func.grad(loss)(weights, x)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_vmap_over_weights(lstm):
    layer, x, state = lstm
    layer(x, state)
    many = {n: torch.stack([p.detach(), 2 * p.detach()]) for n, p in layer.named_parameters()}
    found = torch.func.vmap(lambda w: torch.func.functional_call(layer, w, (x, state))[0])(many)
    for k in range(2):
        own = {n: w[k] for n, w in many.items()}
        expected = torch.func.functional_call(layer, own, (x, state))[0]
        torch.testing.assert_close(found[k], expected)


def test_in_a_compiled_model(lstm):
    layer, x, state = lstm
    model = torch.compile(lambda x: torch.relu(layer(2 * x, state)[0]), backend="aot_eager")
    torch.testing.assert_close(model(x), torch.relu(layer(2 * x, state)[0]))


def test_a_compiled_step(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    module, x, state = call_of(CELLS["dcrnn"], 9, 3, 16, 16)
    layer = fused_lstm.fuse(module, fuse="hoisted", compile_step=True)
    assert_same(layer, x, state)
    assert "what the state enters, compiled" in fused_lstm.explain(layer)


def test_autocast(lstm):
    layer, x, state = lstm
    native.OPS.use_isa("")  # with kernels of bfloat16
    layer.float()
    x, state = x.float(), tuple(t.float() for t in state)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = layer(x, state)
        own = fused_lstm.fuse(layer.step, fuse="none")(x, state)[0]
        hoisted = fused_lstm.fuse(layer.step, fuse="hoisted")(x, state)[0]
    for value in (y, hoisted):
        assert value.dtype == own.dtype
        torch.testing.assert_close(value, own, rtol=0.02, atol=0.01)
    assert not fused_lstm.explain(layer).startswith("none")


def test_layers_in_a_list():
    layers = nn.ModuleList(fused_lstm.fuse(nn.GRUCell(6, 6)) for _ in range(3))
    y = expected = torch.randn(5, 2, 6)
    for layer in layers:
        expected = torch.stack(list(unrolled(layer.step, expected, torch.zeros(2, 6))))
        y, _ = layer(y, torch.zeros(2, 6))
    torch.testing.assert_close(y, expected)


# --- arguments of a call ---


@pytest.mark.parametrize("batch_first", [False, True], ids=["time_first", "batch_first"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
@pytest.mark.parametrize("begins", ["zero", "elsewhere"])
def test_lengths_and_resets(batch_first, reverse, begins):
    """Each of two cells, in turn, stands beside each pair of the other values."""
    turn = batch_first ^ reverse ^ (begins == "elsewhere")
    name = "lstm_one_linear" if turn else "feature_attention"
    module, x, state = call_of(CELLS[name], 6, 4, *SIZES)
    if begins == "zero":
        state = tuple(torch.zeros_like(t) for t in state)
    resets = torch.rand(6, 4) < 0.3
    if batch_first:
        x, resets = x.transpose(0, 1), resets.T
    layer = fused_lstm.fuse(module, batch_first=batch_first, reverse=reverse)
    for more in ({}, {"resets": resets}, {"lengths": torch.tensor([6, 2, 4, 1])},
                 {"resets": resets, "lengths": torch.tensor([6, 2, 4, 1])},
                 {"resets": resets, "reset_to": tuple(map(torch.randn_like, state))}):  # fmt: skip
        assert_same(layer, x, state, **more)


def test_reverse_with_lengths_turns_each_row():
    cell = nn.GRUCell(4, 8)
    x, h = torch.randn(5, 2, 4), torch.zeros(2, 8)
    y, last = fused_lstm.fuse(cell, reverse=True)(x, h, lengths=torch.tensor([5, 3]))
    for b, n in enumerate((5, 3)):
        own = torch.stack(list(unrolled(cell, x[:n, b : b + 1].flip(0), h[:1])))
        torch.testing.assert_close(y[:n, b], own.flip(0)[:, 0])
        torch.testing.assert_close(last[b], own[-1, 0])
    assert not y[3:, 1].any()


class Context(nn.Module):
    """A step with a keyword of each step, one that is fixed, and one with a default."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.key = nn.GRUCell(9, 8), nn.Linear(5, 4)

    def forward(self, x, h, context, *, dt, scale=None):
        h = h * torch.exp(-dt) if scale is None else h * scale
        return self.cell(torch.cat([x, torch.tanh(self.key(context)).mean(1), dt], 1), h)


def test_fixed_and_keyword_arguments():
    module = Context().double()
    x, h, memory = (torch.randn(*s).double() for s in ((6, 3, 4), (3, 8), (3, 7, 5)))
    dt = torch.rand(6, 3, 1).double()
    layer = fused_lstm.fuse(module, fuse="steps")
    assert_same(layer, x, h, fixed={"context": memory}, dt=dt)
    text = fused_lstm.explain(layer)
    assert "of what is fixed" in text, text
    scale = torch.rand(8).double()  # without a batch
    assert_same(layer, x, h, fixed={"context": memory, "scale": scale}, dt=dt)


@pytest.mark.parametrize("T", [1, 4])
def test_a_step_that_makes_its_first_state(T):
    cell = nn.LSTMCell(4, 8).double()
    x = torch.randn(T, 3, 4).double()
    y, (h, c) = fused_lstm.fuse(cell)(x)
    state, own = None, []
    for x_t in x:
        state = cell(x_t, state)
        own.append(state[0])
    torch.testing.assert_close(y, torch.stack(own))
    torch.testing.assert_close((h, c), state)


def test_a_first_state_and_rows_of_one_step():
    layer = fused_lstm.fuse(nn.LSTMCell(4, 8).double())
    x, lengths = torch.randn(6, 3, 4).double(), torch.tensor([6, 1, 3])
    y, state = layer(x, lengths=lengths)
    zero = torch.zeros(3, 8).double()
    expected, last = fused_lstm.fuse(layer.step, fuse="none")(x, (zero, zero), lengths=lengths)
    torch.testing.assert_close((y, state), (expected, last))


def test_a_state_without_a_batch():
    """A number that all rows share: the own loop runs."""

    def step(x, state):
        h, n = state
        return torch.tanh(x + h / (n + 1)), (torch.tanh(x + h / (n + 1)), n + 1)

    x = torch.randn(2000, 2, 4)
    _, (h, n) = fused_lstm.fuse(step)(x, (torch.zeros(2, 4), torch.tensor(0.0)))
    assert n == 2000
    assert h.shape == (2, 4)


def test_a_first_call_in_inference_mode_has_the_backward_of_later_ones():
    layer = fused_lstm.fuse(lambda x, h: torch.tanh(x + 0.375 * h), fuse="steps")
    x, h = torch.randn(5, 3, 4).double(), torch.randn(3, 4).double()
    with torch.inference_mode():
        layer(x * 1, h)
    assert_same(layer, x, h)


def test_inference_mode_and_meta_tensors():
    cell = nn.LSTMCell(4, 8)
    x, state = torch.randn(9, 3, 4), (torch.zeros(3, 8), torch.zeros(3, 8))
    expected = fused_lstm.fuse(cell, fuse="none")(x, state)[0]
    layer = fused_lstm.fuse(cell)
    with torch.inference_mode():
        y, after = layer(x * 1, state)
        layer(x * 1, after)
    torch.testing.assert_close(y, expected)
    assert fused_lstm.explain(layer).startswith("steps:")
    on_meta = fused_lstm.fuse(nn.LSTMCell(4, 8, device="meta"))
    y, _ = on_meta(x.to("meta"), tuple(t.to("meta") for t in state))
    assert y.shape == expected.shape


def test_a_first_state_that_rows_share():
    cell = nn.GRUCell(4, 8).double()
    h0 = nn.Parameter(torch.randn(1, 8).double())
    x = torch.randn(5, 3, 4).double()
    y, _ = fused_lstm.fuse(lambda x, h: cell(x, h.expand(len(x), -1)))(x, h0)
    own = torch.stack(list(unrolled(cell, x, h0.expand(3, -1))))
    torch.testing.assert_close(y, own)


class Stack(nn.Module):
    """Two layers in one step, whose states are stacked [L, B, H], as nn.LSTM has them."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.LSTMCell(4, 8), nn.LSTMCell(8, 8)])

    def forward(self, x, state):
        h, c = state
        new = []
        for k, cell in enumerate(self.cells):
            x, c_k = cell(x, (h[k], c[k]))
            new.append((x, c_k))
        return x, tuple(torch.stack(part) for part in zip(*new, strict=True))


def test_states_whose_batch_is_the_second_dimension():
    layer = fused_lstm.fuse(Stack().double(), fuse="steps")
    state = torch.randn(2, 3, 8).double(), torch.randn(2, 3, 8).double()
    assert_same(layer, torch.randn(5, 3, 4).double(), state)


def test_an_empty_batch_and_no_steps():
    layer = fused_lstm.fuse(nn.GRUCell(4, 8))
    layer(torch.randn(3, 2, 4), torch.zeros(2, 8))
    y, h = layer(torch.randn(3, 0, 4), torch.zeros(0, 8))
    assert y.shape == (3, 0, 8)
    assert h.shape == (0, 8)
    with pytest.raises(ValueError, match="input: got 0 steps; expected at least 1"):
        layer(torch.randn(0, 2, 4), torch.zeros(2, 8))


def test_as_resets():
    dones = torch.tensor([[0, 1], [1, 0], [0, 0]])
    assert fused_lstm.as_resets(dones, after=False).tolist() == dones.bool().tolist()
    assert fused_lstm.as_resets(dones, after=True).tolist() == [
        [False, False],
        [False, True],
        [True, False],
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fused_lstm.fuse(3), "step: got int; expected an nn.Module or a function"),
        (lambda: fused_lstm.fuse(nn.GRUCell(2, 3), fuse="layers"), "fuse: got 'layers'; expected"),
        (lambda: fused_lstm.fuse(nn.GRUCell(2, 3), returns="x"), "returns: got 'x'; expected"),
        (lambda: fused_lstm.fuse(nn.GRUCell(2, 3), engine="x"), "engine: got 'x'; expected"),
        (lambda: called(torch.randn(4)), r"input: got \[4\]; expected tensors \[T, B, ...\]"),
        (lambda: called(lengths=torch.tensor([9, 1])), "lengths: got 1 to 9; expected 1 to 4"),
        (lambda: called(lengths=torch.tensor([1.0, 2])), "lengths: got .*float32; expected whole"),
        (
            lambda: called(resets=torch.zeros(4, 2)),
            r"resets: got \[4, 2\] of torch.float32; expected \[4, 2\] of torch.bool",
        ),
        (lambda: called(fixed=(3,)), "fixed: got tuple; expected a dict"),
        (lambda: called(dt=1.0), "dt: got float; expected tensors"),
        (
            lambda: called(memory=torch.zeros(2, 7)),
            r"memory: got \[2, 7\]; expected \[4, 2, ...\]; what is the same at each step is",
        ),
        (lambda: called(fixed={"k": 3}), "fixed: got int; expected tensors"),
        (lambda: called(state=3), "state: got int; expected tensors"),
        (lambda: fused_lstm.as_resets(3, after=True), "dones: got int; expected a tensor"),
        (
            lambda: fused_lstm.fuse(lambda x, h: x + h.cumsum(-1), fuse="steps")(
                torch.randn(3, 2, 4), torch.zeros(2, 4)
            ),
            "fuse: got 'steps'; expected 'hoisted' for this step: torch's operator 'cumsum'",
        ),
        (
            lambda: fused_lstm.fuse(lambda x, h: (x, x, x))(
                torch.randn(3, 2, 4), torch.zeros(2, 4)
            ),
            "the step's results: got .*; expected the next state",
        ),
    ],
)  # fmt: skip
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def called(x=None, state=None, **more):
    x = torch.randn(4, 2, 2) if x is None else x
    state = torch.zeros(2, 3) if state is None else state
    return fused_lstm.fuse(nn.GRUCell(2, 3))(x, state, **more)


@pytest.mark.parametrize("T", [1, 9])
def test_lengths_may_be_a_list(T):
    x, h = torch.randn(T, 3, 2), torch.zeros(3, 3)
    lengths = [T, 1, max(1, T - 2)]
    layer = fused_lstm.fuse(nn.GRUCell(2, 3))
    torch.testing.assert_close(
        layer(x, h, lengths=lengths), layer(x, h, lengths=torch.tensor(lengths))
    )


def test_a_fixed_number():
    def step(x, h, k):
        return torch.tanh(x + h * k)

    x, h = torch.randn(9, 3, 4).double(), torch.randn(3, 4).double()
    assert_same(fused_lstm.fuse(step, fuse="steps"), x, h, fixed={"k": torch.tensor(0.5).double()})


# --- programs ---


class Policy(nn.Module):
    """A recurrent actor and critic, as CleanRL's: the core's h feeds two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.core = nn.Linear(6, 16), nn.LSTMCell(16, 8)
        self.actor, self.critic = nn.Linear(8, 4), nn.Linear(8, 1)

    def forward(self, x, state):
        h, c = self.core(torch.tanh(self.encoder(x)), state)
        return {"logits": self.actor(h), "value": self.critic(h)[:, 0]}, (h, c)


def test_a_rollout_with_dones():
    """CleanRL sets the state to zero before the step that a flag belongs to, skrl after it."""
    policy, T, B = Policy().double(), 12, 3
    x, dones = torch.randn(T, B, 6).double(), torch.rand(T, B) < 0.3
    state = torch.randn(B, 8).double(), torch.randn(B, 8).double()  # of the rollout before
    layer = fused_lstm.fuse(policy, fuse="steps")
    for after in (False, True):
        own, (h, c) = [], state
        for x_t, done in zip(x, dones, strict=True):
            if not after:
                h, c = (t * ~done[:, None] for t in (h, c))
            out, (h, c) = policy(x_t, (h, c))
            if after:
                h, c = (t * ~done[:, None] for t in (h, c))
            own.append(out)
        y, last = layer(x, state, resets=fused_lstm.as_resets(dones, after=after))
        for name in y:
            torch.testing.assert_close(y[name], torch.stack([out[name] for out in own]))
        if after:
            last = tuple(t * ~dones[-1][:, None] for t in last)
        torch.testing.assert_close(last, (h, c))


class Decoder(nn.Module):
    """A greedy decoder, whose last token is a state, with attention over a fixed memory."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.cell = nn.Embedding(20, 6), nn.GRUCell(14, 8)
        self.query, self.out = nn.Linear(8, 8), nn.Linear(8, 20)

    def forward(self, position, state, memory):
        token, h = state
        scores = torch.einsum("bd,bsd->bs", self.query(h), memory)
        context = torch.einsum("bs,bsd->bd", torch.softmax(scores, -1), memory)
        h = self.cell(torch.cat([self.embedding(token) + position, context], 1), h)
        logits = self.out(h)
        return logits, (logits.argmax(-1), h)


def test_a_decoder_that_feeds_its_token_back():
    x = torch.randn(9, 3, 6).double()
    state = torch.zeros(3, dtype=torch.long), torch.randn(3, 8).double()
    memory = torch.randn(3, 7, 8).double()
    layer = fused_lstm.fuse(Decoder().double(), fuse="hoisted")
    assert_same(layer, x, state, fixed={"memory": memory})


class Dreamer(nn.Module):
    """An RSSM whose stochastic state is Gaussian: its noise is drawn at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.cell, self.prior = nn.Linear(10, 8), nn.GRUCell(8, 8), nn.Linear(8, 8)

    def forward(self, action, state):
        h, z = state
        h = self.cell(F.silu(self.inputs(torch.cat([z, action], 1))), h)
        mean, deviation = self.prior(h).chunk(2, 1)
        deviation = F.softplus(deviation) + 0.1
        z = mean + deviation * torch.randn_like(mean)
        return (h, mean, deviation), (h, z)


def test_a_model_of_the_world_dreams():
    """The first call is compared with the own loop on the same noise."""
    layer = fused_lstm.fuse(Dreamer().double(), fuse="steps")
    x, state = (
        torch.randn(9, 3, 6).double(),
        (torch.zeros(3, 8).double(), torch.zeros(3, 4).double()),
    )
    (h, *_), (last, z) = layer(x, state)
    assert h.shape == (9, 3, 8)
    assert z.shape == (3, 4)
    torch.testing.assert_close(h[-1], last)


# --- the ladder of anybody's loop ---

STEP = """
import torch
from torch import nn


def build():
    return nn.GRUCell(6, 8), torch.randn(5, 3, 6), torch.zeros(3, 8)


def soft():
    return (lambda x, h: torch.cumsum(x + h, -1) * 0.1), torch.randn(5, 3, 6), torch.zeros(3, 6)


def pair():
    return nn.GRUCell(6, 8), torch.zeros(3, 8)
"""


@pytest.mark.parametrize("name", ["layer_norm_lstm", "feature_attention"])
def test_a_first_call_without_gradients(name):
    module, x, state = call_of(CELLS[name], 9, 3, *SIZES)
    layer = fused_lstm.fuse(module, fuse="steps")
    with torch.no_grad():
        layer(x, state)
    assert_same(layer, x, state)


def test_the_ladder_of_a_step(tmp_path, capsys):
    (tmp_path / "my_step.py").write_text(STEP)

    def run(function: str, *more: str) -> tuple[int, list[str], str]:
        threads = f"--threads={torch.get_num_threads()}"
        code = main([f"{tmp_path}/my_step.py:{function}", "--seconds", "0.01", threads, *more])
        out, error = capsys.readouterr()
        return code, out.splitlines(), error

    code, lines, _ = run("build")
    assert code == 0
    assert lines[0].startswith("steps: the library's cell 'gru'")
    assert lines[-5].split()[:2] == ["level", "launches"]
    launches = {line.split()[0]: int(line.split()[1]) for line in lines[-4:-1]}
    assert list(launches) == ["none", "hoisted", "steps"]
    assert launches["none"] > launches["hoisted"] > launches["steps"] < 30
    code, lines, _ = run("soft", "--inference")
    assert [line.split()[0] for line in lines[-3:-1]] == ["none", "hoisted"]
    assert run("pair") == (1, [], "fused_lstm.loops: build: got tuple; expected 3 values: a step, x"
                           " and a state\n")  # fmt: skip


def test_the_page_s_code_runs():
    """The blocks of docs/your-own-loop.md, and what they print."""
    page = (Path(__file__).parents[3] / "docs" / "your-own-loop.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    space: dict = {}
    exec(code.replace("print(fused_lstm.explain(layer))", ""), space)
    printed = re.search(r"^    (steps:.*\n)    (  in the loop.*\n)", page, flags=re.MULTILINE)
    assert fused_lstm.explain(space["layer"]) + "\n" == "".join(printed.groups())


def test_a_layer_that_is_gone_leaves_no_weights():
    """Engines know its cell for good, by a name."""
    for name in ("lstm_one_linear", "feature_attention", "lif"):
        module, x, state = call_of(CELLS[name], 5, 3, *SIZES)
        layer = fused_lstm.fuse(module)
        assert_same(layer, x, state)
        weights = [weakref.ref(p) for p in module.parameters()]
        del module, layer
        gc.collect()
        assert not any(w() is not None for w in weights), name


def test_prepared():
    """A prepared layer has the weights of the moment when it was made."""
    module, x, state = call_of(CELLS["lstm_4_linear"], 9, 3, 6, 8, torch.float32)
    model = nn.ModuleList([fused_lstm.fuse(module, fuse="steps")])
    expected = model[0](x, state)[0].detach()
    layer, names = model[0], model.state_dict().keys()
    fused_lstm.prepare(model)
    assert model.state_dict().keys() == names
    for _ in range(2):
        assert torch.equal(model[0](x, state)[0], expected)
        with torch.no_grad():
            next(layer.parameters()).mul_(2)
    changed = layer(x, state)[0]
    assert not torch.equal(changed, expected)
    model.load_state_dict(nn.ModuleList([layer]).state_dict())
    assert torch.equal(model[0](x, state)[0], changed)
    assert torch.equal(pickle.loads(pickle.dumps(model))[0](x, state)[0], changed)


def test_layers_that_are_not_prepared(caplog):
    model = nn.ModuleList([fused_lstm.fuse(lambda x, h: x + h), fused_lstm.fuse(nn.GRUCell(2, 3))])
    fused_lstm.prepare(model, torch.bfloat16)
    assert "left 0, a Fused: its step is a function" in caplog.text
    assert "left 1, a Fused: its weights are torch.float32" in caplog.text


# --- in other programs ---


def test_export():
    class Net(nn.Module):
        def __init__(self, step):
            super().__init__()
            self.layer = fused_lstm.fuse(step, fuse="steps")

        def forward(self, x, h, c):
            y, state = self.layer(x, (h, c))
            return torch.relu(y), *state

    module, x, state = call_of(CELLS["lstm_cell_head"], 5, 3, 6, 8, torch.float32)
    net = Net(module)
    expected = net(x, *state)
    program = torch.export.export(net, (x, *state), strict=False)
    targets = {str(n.target) for n in program.graph.nodes}
    assert "fused_lstm_native.lstm.default" in targets
    for value, own in zip(program.module()(x, *state), expected, strict=True):
        torch.testing.assert_close(value, own)


def test_under_install():
    """The trace sees torch's own nn.LSTMCell."""
    module, x, state = call_of(CELLS["highway_lstm"], 9, 3, 6, 8, torch.float32)
    with fused_lstm.install():
        layer = fused_lstm.fuse(module)
        assert_same(layer, x, state, torch.float32)
        assert fused_lstm.explain(layer).startswith("steps: the library's cell 'lstm'")
    converted = fused_lstm.fuse(fused_lstm.convert(copy.deepcopy(module)))
    assert_same(converted, x, state, torch.float32)
    assert fused_lstm.explain(converted).startswith("steps: the library's cell 'lstm'")
