"""fuse="layers" in the interpreter: the wavefront, its dropout, and the operators around it."""

from __future__ import annotations

import pytest
import torch

import fused_lstm
from cases import of_one_leaf
from fused_lstm import reference
from fused_lstm.philox import first_word
from fused_lstm.triton import interpreter, op, philox
from plans import PATHS, make_plan
from tolerance import assert_close

pytestmark = pytest.mark.skipif(
    not interpreter.is_interpreted(), reason="tests/kernels/triton/test_gpu.py does these on a GPU"
)

NAMES = ("x", "h0", "c0")


def make_stack(T: int, B: int, I: int, H: int, L: int, dtype: torch.dtype, bias: bool = True):
    """x, h0, c0 and flat weights, all leaves that want gradients."""
    made = [torch.randn(T, B, I), torch.randn(L, B, H), torch.randn(L, B, H)]
    for layer in range(L):
        made += [torch.randn(4 * H, I if layer == 0 else H), torch.randn(4 * H, H)]
        made += [torch.randn(4 * H), torch.randn(4 * H)] if bias else []
    for weight in made[3:]:
        weight.div_(H**0.5)
    return [t.to(dtype).requires_grad_() for t in made]


def gradients(outputs, inputs):
    """Of a loss that weighs every element of every output differently."""
    weights = [torch.linspace(-1, 1, o.numel(), dtype=o.dtype).reshape(o.shape) for o in outputs]
    return torch.autograd.grad(outputs, inputs, weights), weights


def force(monkeypatch, kind: str, path: dict) -> None:
    """Make op.py launch what `path` says, instead of what choice.choose does."""

    def made(fuse, direction, dtype, device, shape, **options):
        return make_plan(kind, direction, shape.H, shape.B, shape.L, dtype, path)

    monkeypatch.setattr(op, "plan_of", made)


# The layer at the wavefront's end adds 0 times what it reads: NaN, where that is another's NaN.


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_a_nan_does_not_reach_its_layers_other_units(p, monkeypatch):
    force(monkeypatch, "layers", PATHS["many programs and chunks"])
    x, h0, c0, *weights = (t.detach() for t in make_stack(2, 3, 5, 33, 2, torch.float32))
    seed = torch.tensor([5]) if p else None
    c0[0, 1, 2] = float("nan")
    y, h_n, c_n, h, _, _ = op.lstm(x, h0, c0, weights, p, seed, "layers", True)
    assert h[0, 0].isnan().nonzero().tolist() == [[1, 2]]  # a step later, by w_hh, the whole row
    for name, a, b in zip(
        ("y", "h_n", "c_n"), (y, h_n, c_n), reference.lstm(x, h0, c0, weights, p, seed), strict=True
    ):
        assert torch.equal(a.isnan(), b.isnan()), name


@pytest.mark.parametrize(
    ("L", "p"),
    [(2, 0.4), *(pytest.param(*c, marks=pytest.mark.slow) for c in [(2, 0.0), (3, 0.4), (3, 0.0)])],
)
def test_a_nan_gradient_does_not_reach_the_layer_above(L, p, monkeypatch):
    inputs = x, h0, c0, *weights = make_stack(3, 3, 5, 33, L, torch.float32)
    seed = torch.tensor([5]) if p else None
    outputs = reference.lstm(x, h0, c0, weights, p, seed)
    by = [torch.ones_like(out) for out in outputs]
    by[2][0, 1, 2] = float("nan")  # the gradient by the lowest layer's last cell state
    wanted = torch.autograd.grad(outputs, inputs, by)
    with torch.no_grad():
        force(monkeypatch, "layers", PATHS["many programs and chunks"])
        y, _, _, *saved = op.lstm(x, h0, c0, weights, p, seed, "layers", True)
        *found, _ = op.lstm_backward(*by, x, h0, c0, weights, p, seed, "layers", y, *saved, True)
    assert not wanted[1][1:].isnan().any()
    for name, a, b in zip(NAMES, found, wanted, strict=False):
        assert torch.equal(a.isnan(), b.isnan()), f"gradient of {name}"


def test_two_runs_give_the_same_bits():
    x, h0, c0, *weights = (t.detach() for t in make_stack(3, 4, 5, 17, 2, torch.float32))
    seed, runs = torch.tensor([3]), []
    for _ in range(2):
        y, h_n, c_n, *saved = op.lstm(x, h0, c0, weights, 0.5, seed, "layers", True)
        grads = op.lstm_backward(
            y, h_n, c_n, x, h0, c0, weights, 0.5, seed, "layers", y, *saved, True
        )
        runs.append([y, h_n, c_n, *saved, *grads[:3], *grads[3]])
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


# --- dropout ---


@pytest.mark.parametrize("p", [0.0, 0.25, 0.9, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63 - 1], ids=hex)
def test_dropout_is_the_references(p, seed):
    x, seed = torch.randn(3, 4, 65), torch.tensor([seed])
    mask = reference.dropout_mask(seed, (3, *x.shape), p)
    for layer in range(3):
        assert_close(philox.apply(p, seed, x.numel(), x, layer), x * mask[layer], f"layer {layer}")


def test_counter_beyond_32_bits():
    first, x, y = 2**32 - 3, torch.ones(8), torch.empty(8)
    seed = torch.tensor([77])
    philox.dropout_kernel[(1,)](x, y, seed, first, 8, 0.5, 2.0, BLOCK=8)
    words = first_word(seed, torch.arange(first, first + 8))
    kept = torch.where(words >= 2**31, 2**32 - 1 - words, words) >= 2**30
    assert torch.equal(y, kept * 2.0)


# --- as operators ---


def operator():
    fused_lstm.LSTM(1, 1, engine="triton", fuse="steps")(torch.zeros(1, 1, 1))
    return torch.ops.fused_lstm_triton.lstm


@pytest.mark.parametrize(
    ("L", "p"), [(1, 0.0), *(pytest.param(2, p, marks=pytest.mark.slow) for p in (0.0, 0.5))]
)
def test_gradcheck_twice(L, p):
    lstm, seed = operator(), torch.tensor([9]) if p else None
    inputs = make_stack(2, 2, 2, 3, L, torch.float64)

    def run(x, h0, c0, *weights):
        return lstm(x, h0, c0, weights, p, seed, "layers", True)[:3]

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    # The interpreter takes seconds for each input alone. One projection of all of them dilutes an
    # error: these tolerances find one of 1e-4 in one input, gradcheck's own one by one of 1e-2.
    flat, leaf = of_one_leaf(run, inputs)
    assert torch.autograd.gradgradcheck(flat, leaf, fast_mode=True, atol=1e-9, rtol=1e-5)


@pytest.mark.parametrize(("L", "p"), [(1, 0.0), (2, 0.5)])
def test_opcheck(L, p):
    x, h0, c0, *weights = make_stack(2, 2, 3, 5, L, torch.float32)
    seed = torch.tensor([9]) if p else None
    torch.library.opcheck(operator().default, (x, h0, c0, weights, p, seed, "layers", True))
