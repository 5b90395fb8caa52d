"""`native` counts a cell's gates: bfloat16 as near as PyTorch's, the same bits, errors."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from fused_lstm import native
from tolerance import assert_close

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"
)

RATES = [0.0] * 3
THEIRS = {
    "gru": nn.GRU,
    "rnn_tanh": nn.RNN,
    "rnn_relu": lambda *sizes, **how: nn.RNN(*sizes, nonlinearity="relu", **how),
}


def kernel(name: str, *arguments, **options):
    """Call a kernel itself, below what autograd makes of it."""
    with torch._C._AutoDispatchBelowAutograd():
        return getattr(native.OPS, name).default(*arguments, **options)


each_cell = pytest.mark.parametrize("cell", THEIRS)


class Case(NamedTuple):
    T: int = 5
    B: int = 4
    I: int = 3
    H: int = 7
    L: int = 2


def problem(cell: str, case: Case, dtype: torch.dtype, seed: int = 0):
    """PyTorch's module, x [T, B, I], h0."""
    torch.manual_seed(seed)
    module = THEIRS[cell](case.I, case.H, case.L, dtype=dtype)
    x = torch.randn(case.T, case.B, case.I, dtype=dtype)
    return module, x, torch.randn(case.L, case.B, case.H, dtype=dtype)


def outcome(cell: str, dtype: torch.dtype, case: Case, ours: bool, seed: int) -> dict[str, Tensor]:
    """Values and gradients in float64: PyTorch's, or the operators'."""
    module, x, h0 = problem(cell, case, torch.bfloat16, seed)
    module, x, h0 = module.to(dtype), x.to(dtype), h0.to(dtype)
    names = ["x", "h0", *dict(module.named_parameters())]
    dy = torch.randn(case.T, case.B, case.H, dtype=torch.bfloat16).to(dtype)
    if not ours:
        x.requires_grad_()
        h0.requires_grad_()
        y, h_n = module(x, h0)
        gradients = torch.autograd.grad([y], [x, h0, *module.parameters()], [dy])
    else:
        weights = [w.detach() for w in module.parameters()]
        inputs = x, h0, h0, weights, 0.0, None, "layers"
        y, h_n, _, *saved = kernel("lstm", *inputs, True, cell=cell, rates=RATES)
        dx, dh0, dc0, dweights = kernel(
            "lstm_backward", dy, None, None, *inputs, y, *saved, True, cell=cell, rates=RATES
        )
        gradients = dx, dh0 + dc0, *dweights
    found = {"y": y, "h_n": h_n} | dict(zip(names, gradients, strict=True))
    return {name: value.detach().double() for name, value in found.items()}


@pytest.mark.parametrize("sizes", [(9, 6), (2, 3)], ids=["", "a short call"])
@each_cell
def test_bfloat16_is_as_near_as_pytorchs(cell, sizes, bf16_isa):
    """To float64, of weights and inputs that bfloat16 has. A unit of a ReLU may fall on the other
    side of 0, so it is the mean of ten seeds that is compared.
    """
    before, errors = native.OPS.isa(), {}
    native.OPS.use_isa(bf16_isa)
    try:
        for seed in range(10):
            case = Case(*sizes, 19, 35, 2)
            wanted = outcome(cell, torch.float64, case, False, seed)
            ours = outcome(cell, torch.bfloat16, case, True, seed)
            theirs = outcome(cell, torch.bfloat16, case, False, seed)
            for name, value in wanted.items():
                pair = ((of[name] - value).norm() / value.norm() for of in (ours, theirs))
                errors.setdefault(name, []).append([error.item() for error in pair])
    finally:
        native.OPS.use_isa(before)
    for name, pairs in errors.items():
        mine, other = torch.tensor(pairs).mean(0).tolist()
        assert mine <= 1.25 * other + 2e-3, f"{name}: {mine:.3g} against {other:.3g}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_cell
def test_steps_that_make_their_input_products_are_pytorchs(cell, dtype, isa):
    case = Case(8, 34, 17, 16, 2)
    ours = outcome(cell, dtype, case, True, 0)
    wanted = outcome(cell, torch.float64, case, False, 0)
    for name, value in wanted.items():
        assert_close(ours[name].to(dtype), value.to(dtype), name)


@pytest.mark.parametrize("threads", [1, 2])
@each_cell
def test_threads_give_the_same_bits(cell, threads):
    case, found = Case(13, 21, 70, 80, 2), []
    module, x, h0 = problem(cell, case, torch.float32)
    weights, before = [w.detach() for w in module.parameters()], torch.get_num_threads()
    for count in (threads, 1):
        torch.set_num_threads(count)
        try:
            inputs = x, h0, h0, weights, 0.0, None, "steps"
            y, h_n, _, *saved = kernel("lstm", *inputs, True, cell=cell, rates=RATES)
            dy = torch.ones_like(y)
            dx, dh0, _, dweights = kernel(
                "lstm_backward", dy, None, None, *inputs, y, *saved, True, cell=cell, rates=RATES
            )
        finally:
            torch.set_num_threads(before)
        found.append([y, h_n, dx, dh0, *dweights])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


# --- what a GRU may have more ---


GATES = {"": (4, 4), "coupled": (3, 3), "gru": (3, 4), "rnn_tanh": (1, 0)}


@pytest.mark.parametrize("cell", GATES)
def test_weights_and_what_is_saved_have_the_gates_that_there_are(cell):
    """Their shapes, and those that the operator's fake says."""
    gates, saved = GATES[cell]
    T, B, I, H = 6, 3, 5, 11
    weights = [torch.randn(gates * H, I), torch.randn(gates * H, H)]
    options = {"cell": cell, "rates": RATES} if cell else {}

    def run(make):
        x, h0, *given = map(make, [torch.randn(T, B, I), torch.randn(1, B, H), *weights])
        return kernel("lstm", x, h0, h0, given, 0.0, None, "layers", True, **options)

    found = run(lambda t: t)
    assert found[5].shape == ((1, T, B, saved * H) if saved else (0,))
    with torch._subclasses.FakeTensorMode() as mode:
        faked = run(mode.from_tensor)
    assert [t.shape for t in faked] == [t.shape for t in found]
    more = [torch.randn(gates * H + H, n) for n in (I, H)]
    x, h0 = torch.randn(T, B, I), torch.randn(1, B, H)
    with pytest.raises(RuntimeError, match=re.escape(f"expected [{gates * H}, {I}]")):
        kernel("lstm", x, h0, h0, more, 0.0, None, "layers", True, **options)


@pytest.mark.parametrize(
    ("cell", "rates", "message"),
    [
        ("gru,peephole", RATES, "cell: got 'gru,peephole'"),
        ("peephole,gru", RATES, "got 'peephole,gru'; expected layer_norm, peephole"),
        ("lstm", [0.0, 0.0, 0.0, 0.5], "rates: got 4; expected three"),
        ("rnn_tanh", [0.5, 0.0, 0.0], "expected 0 for rnn_tanh"),
        ("slstm", RATES, "cell: got 'slstm'"),  # which the operator recurrence has
        ("layer_norm,coupled", RATES, "cell: got 'layer_norm,coupled'"),
    ],
)
def test_errors_say_what_a_cell_cannot_have(cell, rates, message):
    weights = [torch.randn(3 * 4, 4)] * 2
    x, h0 = torch.randn(2, 1, 4), torch.randn(1, 1, 4)
    with pytest.raises(RuntimeError, match=message):
        kernel("lstm", x, h0, h0, weights, 0.0, None, "layers", False, cell=cell, rates=rates)
