"""Functions that a cell may use: each beside PyTorch's in float64, values and derivatives.

A cell of eight gates of x alone has a function of each as its states, so that eight are compiled at
once, and c_n of one step has their values.
"""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F

import fused_lstm
from fused_lstm import native

pytestmark = pytest.mark.usefixtures("without_bfloat16")

WHY = native.missing(torch.device("cpu"))
# A function, and the least and the largest argument.
FUNCTIONS = [
    ("torch.floor(x)", -9, 9), ("torch.ceil(x)", -9, 9), ("torch.trunc(x)", -9, 9),
    ("torch.round(x)", -9, 9), ("torch.frac(x)", -9, 9), ("torch.remainder(x, 0.75)", -9, 9),
    ("torch.fmod(x, 0.75)", -9, 9), ('torch.div(x, 0.5, rounding_mode="floor")', -9, 9),
    ("torch.sin(x)", -99, 99), ("torch.cos(x)", -99, 99), ("torch.tan(x)", -1.5, 1.5),
    ("torch.sinh(x)", -9, 9), ("torch.cosh(x)", -9, 9), ("torch.exp2(x)", -20, 20),
    ("torch.log2(x)", 0.01, 99), ("torch.log10(x)", 0.01, 99), ("torch.logaddexp(x, x / 2)", -9, 9),
    ("torch.erf(x)", -4, 4), ("(x <= 1) * 0.5 + x", -4, 2), ("F.gelu(x)", -4, 4),
    ('F.gelu(x, approximate="tanh")', -4, 4), ("F.hardswish(x)", -5, 5), ("2.5**x", -9, 9),
    ("torch.where(x > 1, 0.1, 2.0) * x", -3, 3),
    ("(x > 0.5).to(x.dtype) * x", -3, 3), ("(x > 0) * torch.abs(x) ** 0.5", -3, 3),
    ("torch.sigmoid(x) + (torch.where(x > 0, 1.0, 0.0) - torch.sigmoid(x)).detach()", -3, 3),
    ("x * torch.tensor(0.3)", -3, 3), ("F.celu(x)", -3, 3), ("F.softsign(x)", -3, 3),
    ("torch.expm1(x)", -3, 3), ("F.mish(x)", -3, 3), ("F.threshold(x, 0.5, -2.0)", -3, 3),
    # Derivatives of a result in place; and what is true or false.
    ("F.elu(x * 1.0, 0.5, inplace=True)", -3, 3), ("((x > 0) + (x > 1)).to(x.dtype) * x", -3, 3),
    ("torch.where(F.relu(x).bool(), x, 2 * x)", -3, 3),
    ("torch.where(torch.logical_not(F.relu(x)), x, 2 * x)", -3, 3),
    ("torch.where(~torch.where(x > 0, True, x < -1), x, 2 * x)", -3, 3),
    ("torch.where(torch.maximum(x > 0, x > 1), x, 2 * x)", -3, 3),
    ("torch.where((x > 0) ^ (x > 1), x, 2 * x)", -3, 3),
    ("torch.where(torch.isnan(x), 0.0, x)", -3, 3),
    # A gradient that is 0 on both sides of a mask.
    ("torch.round(torch.clamp(x, -1, 1) * 7) / 7", -2, 2), ("torch.sign(F.relu(x))", -2, 2),
    ("torch.floor(F.hardsigmoid(x))", -4, 4),
]  # fmt: skip
GROUPS = [FUNCTIONS[n : n + 8] for n in range(0, len(FUNCTIONS), 8)]


def cell_of(group):
    """A cell whose state s<k> is the k-th function of gate x<k>."""
    gates = [f"x{k}" for k in range(len(group))]
    states = [f"s{k}" for k in range(len(group))]
    lines = [f"    s{k} = " + re.sub(r"\bx\b", f"x{k}", text) for k, (text, *_) in enumerate(group)]
    text = f"def functions({', '.join(gates)}, *, {', '.join(states)}):\n" + "\n".join(lines)
    space = {"torch": torch, "F": F}
    exec(f"{text}\n    return x0, {', '.join(states)}\n", space)
    return fused_lstm.cell(space["functions"], states=" ".join(states), x_only=" ".join(gates))


def values_of(text, x):
    """The function of x and its derivative, by PyTorch."""
    x = x.detach().requires_grad_()
    y = eval(text, {"torch": torch, "F": F, "x": x})
    (dx,) = torch.autograd.grad(y.sum(), [x])
    return y.detach(), dx


def compare(group, engine, dtype, rows, ulps):
    """The functions of a group on an engine, with PyTorch's in float64."""
    torch.manual_seed(1)
    layer = fused_lstm.Recurrent(cell_of(group), len(group), 1, engine=engine, dtype=dtype)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.eye(len(group)))
        layer.bias_ih_l0.zero_()
    columns = [torch.rand(rows, dtype=torch.float64) * (high - low) + low for _, low, high in group]
    x = torch.stack(columns, -1)[None].to(dtype).requires_grad_()
    _, (_, *found) = layer(x)
    (dx,) = torch.autograd.grad(sum(f.sum() for f in found), [x])
    eps = torch.finfo(dtype).eps
    for k, (text, *_) in enumerate(group):
        value, slope = values_of(text, x[0, :, k].double())
        pairs = (found[k][0, :, 0], value, ulps), (dx[0, :, k], slope, 4 * ulps)
        for got, wanted, allowed in pairs:
            # A sum that cancels is as exact as what it is made of, as PyTorch's own is.
            cancels = any(name in text for name in ("logaddexp", "gelu", "ish", "sin", "cos"))
            least = 1.0 if cancels else 1e-3
            size = wanted.abs().clamp(min=least)
            error = ((got.double() - wanted).abs() / size / eps).max().item()
            assert error <= allowed, f"{text}: {error:.1f} units in the last place"


@pytest.mark.skipif(WHY is not None, reason=f"native: {WHY}")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("group", GROUPS, ids=range(len(GROUPS)))
def test_native(group, dtype):
    compare(group, "native", dtype, 4096, ulps=8)


@pytest.mark.parametrize("group", GROUPS, ids=range(len(GROUPS)))
def test_loop(group):
    compare(group, "loop", torch.float64, 64, ulps=8)


def test_triton_keeps_a_number_beside_a_mask():
    """1 or 0 is as precise as what it is made of: 0.2 beside it is not rounded to float32."""
    texts = "(x > 0).to(x.dtype) * 0.2 + x", "x * torch.sign(x) * 0.7", "torch.floor(x) * 0.1"
    compare([(text, -3, 3) for text in texts], "triton", torch.float64, 64, ulps=8)


def test_a_floor_of_what_has_no_fraction():
    """Numbers that float32 has no half beside stay as they are."""
    x = torch.tensor([2.0**22, -(2.0**22) + 0.5, 2.0**23 + 1, -(2.0**30), math.inf, -math.inf])
    if WHY is not None:
        pytest.skip(f"native: {WHY}")
    layer = fused_lstm.Recurrent(cell_of(GROUPS[0]), 8, 1, engine="native")
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.zeros(8, 8))
        layer.weight_ih_l0[0, 0] = 1
        layer.bias_ih_l0.zero_()
    given = torch.zeros(1, len(x), 8)
    given[0, :, 0] = x
    _, (_, floors, *_) = layer(given.nan_to_num(0, math.inf, -math.inf))
    finite = x.isfinite()
    assert torch.equal(floors[0, finite, 0], torch.floor(x[finite]))


SOFT = "3 * torch.tanh(x)", "x * torch.rsqrt(1 + x * x)", "torch.sigmoid(4 * x)", "torch.exp(x)"


@pytest.mark.skipif(WHY is not None, reason=f"native: {WHY}")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_surrogate_gradient_leaves_the_value(dtype):
    """A compiler that adds a product before it is rounded makes 4e-6 of a 0."""
    group = [(f"{soft} + ((x > 0) * 1.0 - {soft}).detach()", -3, 3) for soft in SOFT]
    layer = fused_lstm.Recurrent(cell_of(group), 1, 1, engine="native", dtype=dtype)
    with torch.no_grad():
        layer.weight_ih_l0.fill_(1)
        layer.bias_ih_l0.zero_()
    x = torch.linspace(-3, 3, 4096, dtype=dtype)
    _, (_, *found) = layer(x[None, :, None])
    for soft, values in zip(SOFT, found, strict=True):
        assert torch.equal(values[0, :, 0], (x > 0).to(dtype)), soft
    assert " + 0.0\n" in layer.cell.source("triton")
