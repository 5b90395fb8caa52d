"""Denormal numbers: zero in operators of `native`, and every thread as it was afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch

import fresh
import fused_lstm
from cases import needs_native
from fused_lstm.training import denormals
from tolerance import assert_close

OPS = torch.ops.fused_lstm_native
DENORMAL = {torch.float32: 2.0**-130, torch.float64: 2.0**-1030}
T, B, H, I = 5, 8, 48, 16


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
    torch.set_flush_denormal(False)


def switches() -> list[int]:
    """Each thread's control word less the flags of exceptions, which PyTorch's operators set."""
    return [word & ~0x3F for word in OPS.control_words()]


def layer(kind, **options) -> Callable[[], object]:
    module = kind(I, H, **options)
    return lambda: module(torch.randn(T, B, I, requires_grad=True))[0].sum().backward()


def prepared(prepare: Callable) -> Callable[[], object]:
    module = prepare(fused_lstm.LSTM(I, H))
    return lambda: module(torch.randn(T, B, I))


def cross_entropy() -> Callable[[], object]:
    head, target = torch.nn.Linear(H, 300), torch.randint(300, (40,))
    return lambda: fused_lstm.linear_cross_entropy(
        torch.randn(40, H, requires_grad=True), head.weight, target, linear_bias=head.bias
    ).backward()


CALLS = {
    "lstm": lambda: layer(fused_lstm.LSTM, engine="native"),
    "lstm, two layers at once": lambda: layer(
        fused_lstm.LSTM, num_layers=2, engine="native", fuse="layers"
    ),
    "lstm, pointwise": lambda: layer(fused_lstm.LSTM, engine="native", fuse="pointwise"),
    "lstm, hoisted": lambda: layer(fused_lstm.LSTM, engine="native", fuse="hoisted"),
    "gru": lambda: layer(fused_lstm.GRU, engine="native"),
    "slstm": lambda: layer(fused_lstm.SLSTM, num_heads=2, engine="native"),
    "prepared": lambda: prepared(fused_lstm.prepare),
    "int8": lambda: prepared(fused_lstm.quantize),
    "linear_cross_entropy": cross_entropy,
    "dropout": lambda: lambda: fused_lstm.Dropout(0.5)(torch.randn(1 << 18)),
}


@needs_native
@pytest.mark.parametrize("flushed", [False, True], ids=["as torch starts", "switched on"])
@pytest.mark.parametrize("name", CALLS)
def test_threads_are_as_they_were(name, flushed):
    """Each thread's control word after a call, its gradient and PyTorch's operators around it."""
    torch.set_flush_denormal(flushed)
    call = CALLS[name]()
    call()
    before = switches()
    call()
    assert switches() == before
    assert bool(before[0] & OPS.flush_bits()) == flushed


@needs_native
def test_operator_sets_no_exception_flags():
    """The operator alone: MXCSR is as it was, to the last bit."""
    weights = [p.detach() for p in torch.nn.LSTM(I, H).parameters()]
    x, states = torch.randn(T, B, I) * 1e-30, torch.zeros(2, 1, B, H)
    before = OPS.control_words()
    OPS.lstm(x, *states, weights, 0.0, None, "layers", False)
    assert OPS.control_words() == before


@needs_native
def test_threads_are_as_they_were_after_an_error():
    weights = [p.detach() for p in torch.nn.LSTM(I, H).parameters()]
    before = OPS.control_words()
    with pytest.raises(ValueError, match="c0: got shape"):
        OPS.lstm(
            torch.randn(T, B, I), *torch.zeros(1, 1, B, H), torch.zeros(1, B, 2), weights,
            0.0, None, "layers", False,
        )  # fmt: skip
    assert OPS.control_words() == before


@needs_native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_threads_are_as_they_were_in_a_forked_child():
    """In a process that ran on two threads, and whose child does, without autograd's threads."""
    weights = [p.detach() for p in torch.nn.LSTM(I, H).parameters()]
    x, states = torch.randn(50, 32, I), torch.zeros(2, 1, 32, H)
    OPS.lstm(x, *states, weights, 0.0, None, "layers", False)
    child = os.fork()
    if child == 0:
        status = 2
        try:
            before = switches()
            OPS.lstm(x, *states, weights, 0.0, None, "layers", False)
            status = int(switches() != before)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@needs_native
def test_new_threads_do_not_inherit_the_switch():
    """The pool's threads start inside an operator in a process that did nothing before."""
    script = (
        "import torch; torch.set_num_threads(2); import fused_lstm\n"
        "y, _ = fused_lstm.LSTM(64, 64, engine='native')(torch.randn(50, 32, 64))\n"
        "ops = torch.ops.fused_lstm_native\n"
        "print([word & ops.flush_bits() for word in ops.control_words()])"
    )
    assert fresh.python(script) == "[0, 0]\n"


RELU = """
import torch, fused_lstm
torch.set_num_threads(2)
rnn = fused_lstm.RNN(1, 96, nonlinearity="relu", bias=False, engine="native").to({dtype})
for p in rnn.parameters():
    torch.nn.init.ones_(p) if p.shape[1] == 1 else torch.nn.init.zeros_(p)
y = rnn(torch.full((40, 64, 1), {denormal}, dtype={dtype}))[0]
print((y != 0).sum().item(), y.numel())
"""


@needs_native
@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)], ids=str
)
def test_denormal_input(dtype):
    """It counts as zero on both threads; with FUSED_LSTM_DENORMALS=keep it passes."""
    script = RELU.format(dtype=str(dtype), denormal=DENORMAL[dtype])
    nonzero, count = map(int, fresh.python(script).split())
    assert (nonzero, count) == (0, 64 * 40 * 96)
    nonzero, count = map(int, fresh.python(script, FUSED_LSTM_DENORMALS="keep").split())
    assert nonzero == count


@needs_native
@pytest.mark.parametrize("value", ["inf", "nan"])
def test_not_finite(value):
    """NaN and infinity come out as nn.LSTM has them, and in its gradients."""
    torch.manual_seed(0)
    ours, torchs = fused_lstm.LSTM(I, H, engine="native"), torch.nn.LSTM(I, H)
    torchs.load_state_dict(ours.state_dict())
    x = torch.randn(T, B, I)
    x[2, 3, 1] = float(value)
    results = []
    for module in (ours, torchs):
        module.zero_grad()
        y = module(x)[0]
        y.sum().backward()
        results.append([y.detach(), module.weight_hh_l0.grad])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-5, equal_nan=True)


@needs_native
@pytest.mark.parametrize("fuse", ["hoisted", "steps", "layers"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_vanished_gradients(kind, fuse):
    """A loss on the last of 400 steps, beside float64, where no gradient vanishes."""
    torch.manual_seed(0)
    fuse = fuse if kind == "LSTM" else "layers"
    ours = getattr(fused_lstm, kind)(3, 24, 2, engine="native", fuse=fuse)
    exact = getattr(torch.nn, kind)(3, 24, 2).double()
    exact.load_state_dict(ours.state_dict())
    x = torch.randn(400, 4, 3)
    inputs = x.clone().requires_grad_(), x.double().requires_grad_()
    for module, rows in zip((ours, exact), inputs, strict=True):
        module(rows)[0][-1].sum().backward()
    assert_close(inputs[0].grad, inputs[1].grad.float(), "x")
    for (name, mine), right in zip(ours.named_parameters(), exact.parameters(), strict=True):
        assert_close(mine.grad, right.grad.float(), name)
    early = inputs[1].grad[:100].abs()
    assert 0 < early.max() < torch.finfo(torch.float32).tiny  # of which float32 has nothing left
    if fuse == "hoisted":
        return  # PyTorch's F.linear computes the gradient by x
    magnitude = inputs[0].grad.abs()
    assert not ((magnitude > 0) & (magnitude < torch.finfo(torch.float32).tiny)).any()


def test_context_flushes_every_thread():
    """A product of PyTorch's own, large enough for both threads; and afterwards as before."""
    small = torch.full((4096, 512), 2.0**-130)
    with fused_lstm.flush_denormals():
        assert (small * 1.0 == 0).all()
    assert (small * 1.0 != 0).all()


@needs_native
def test_each_thread_gets_its_own_word_back():
    words, flush = OPS.control_words(), OPS.flush_bits()
    for one in range(len(words)):
        mixed = [word | flush * (n == one) for n, word in enumerate(words)]
        OPS.set_control_words(mixed)
        assert [bool(word & flush) for word in OPS.control_words()] == [
            n == one for n in range(len(words))
        ]
        with fused_lstm.flush_denormals():
            assert all(word & flush for word in OPS.control_words())
        assert [bool(word & flush) for word in OPS.control_words()] == [
            n == one for n in range(len(words))
        ]
    OPS.set_control_words(words)


def test_context_ends_with_an_exception():
    small = torch.full((4096, 512), 2.0**-130)
    with pytest.raises(KeyError), fused_lstm.flush_denormals():
        raise KeyError
    assert (small * 1.0 != 0).all()


def test_context_in_a_context():
    small = torch.full((4096, 512), 2.0**-130)
    with fused_lstm.flush_denormals():
        with fused_lstm.flush_denormals():
            pass
        assert (small * 1.0 == 0).all()
    assert (small * 1.0 != 0).all()


@pytest.mark.parametrize("flushed", [False, True])
def test_context_without_the_engine(monkeypatch, flushed):
    """The calling thread alone, with what it had afterwards."""
    monkeypatch.setattr(denormals.library, "load", lambda: "not built")
    torch.set_flush_denormal(flushed)
    small = torch.tensor([2.0**-130])
    with fused_lstm.flush_denormals():
        assert (small * 1.0 == 0).all()
    assert (small * 1.0 == 0).all() == flushed


@needs_native
def test_unknown_switch():
    script = "import fused_lstm; print(fused_lstm.available_engines('cpu')['native'])"
    message = "FUSED_LSTM_DENORMALS: got 'off'; expected flush or keep"
    assert fresh.python(script, FUSED_LSTM_DENORMALS="off") == message + "\n"
