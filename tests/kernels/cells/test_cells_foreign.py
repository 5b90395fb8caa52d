"""Cells against haste's formulas (github.com/lmnt-com/haste, 2020), read and written down anew.

What haste has otherwise: weights are transposed, gates in the order i, g, f, o, and there is one
bias where nn.LSTM has two; a zoneout is of h alone; `dropout` drops weights of the recurrent
matrix, once for all steps, where recurrent_dropout here drops units of h. What it normalizes, how,
and what goes on to the next step is the same. tests/bench/test_bench_cells.py has the same against
Keras as it is installed.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fused_lstm
from cells import drawn_seed, make
from fused_lstm import reference
from lanes import Case
from tolerance import assert_close

T, B, I, H = 5, 3, 3, 4
CASE = Case(T=T, B=B, I=I, H=H, L=1)
DOUBLE = {"dtype": torch.float64}
engines = pytest.mark.parametrize("engine", ["loop", "native"])


@pytest.fixture(autouse=True)
def able(request):
    if why := fused_lstm.available_engines("cpu")[request.getfixturevalue("engine")]:
        pytest.skip(why)


def as_haste(weight: Tensor) -> Tensor:
    """[4H, ...] in the order i, f, g, o -> [..., 4H] in the order i, g, f, o."""
    i, f, g, o = weight.chunk(4)
    return torch.cat([i, g, f, o]).mT if weight.dim() == 2 else torch.cat([i, g, f, o])


def haste(module: fused_lstm.LSTM, x: Tensor, kept: Tensor | float, drop=lambda w: w):
    """haste's LSTM or LayerNormLSTM with a module's weights; kept [T, B, H]: where h is new."""
    own = {name.removesuffix("_l0"): p for name, p in module.named_parameters()}
    kernel, recurrent = as_haste(own["weight_ih"]), drop(as_haste(own["weight_hh"]))
    bias = as_haste(own["bias_ih"] + own["bias_hh"])
    by_x = x @ kernel
    if module.spec.layer_norm:
        by_x = normalized(by_x) * as_haste(own["gain_ih"])
    h, c, y = torch.zeros(B, H, **DOUBLE), torch.zeros(B, H, **DOUBLE), []
    for t in range(T):
        by_h = h @ recurrent
        if module.spec.layer_norm:
            by_h = normalized(by_h) * as_haste(own["gain_hh"])
        i, g, f, o = (by_x[t] + by_h + bias).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        seen = c
        if module.spec.layer_norm:
            seen = normalized(c) * own["gain_c"] + own["bias_c"]
        new = o.sigmoid() * seen.tanh()
        h = (new - h) * (kept[t] if isinstance(kept, Tensor) else kept) + h
        y.append(h)
    return torch.stack(y), h[None], c[None]


def normalized(v: Tensor) -> Tensor:
    mean = v.mean(-1, keepdim=True)
    return (v - mean) * ((v - mean).square().mean(-1, keepdim=True) + 1e-5).rsqrt()


def compare(module: fused_lstm.LSTM, found: tuple, wanted: tuple) -> None:
    """Outputs, and the gradient of every weight."""
    names = [f"{name}.grad" for name, _ in module.named_parameters()]
    grads = []
    for outputs in (found, wanted):
        loss = sum((o.sin() * (n + 1)).sum() for n, o in enumerate(outputs))
        grads.append(torch.autograd.grad(loss, list(module.parameters())))
    for name, ours, theirs in zip(["y", "h_n", "c_n"], found, wanted, strict=True):
        assert_close(ours, theirs, name)
    for name, ours, theirs in zip(names, *grads, strict=True):
        assert_close(ours, theirs, name)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("zoneout", [0.0, 0.4], ids=["", "zoneout"])
@pytest.mark.parametrize("layer_norm", [True, False], ids=["layer_norm", "plain"])
@engines
def test_haste(engine, layer_norm, zoneout, training):
    module = make(CASE, engine=engine, layer_norm=layer_norm, zoneout=(zoneout, 0.0))
    x, kept = torch.randn(T, B, I, **DOUBLE), 1 - zoneout
    if training and zoneout > 0:
        kept = 1 - reference.draw(module.spec, drawn_seed(7), 0, 1, T, B, H, H).zoneout_h.double()
    torch.manual_seed(7)
    y, (h_n, c_n) = module.train(training)(x)
    compare(module, (y, h_n, c_n), haste(module, x, kept))


@engines
def test_what_haste_calls_dropout_is_of_weights(engine):
    """So it takes fused_lstm.lstm and weights that are dropped, as lm.train --weight-drop does."""
    module, x = make(CASE, engine=engine), torch.randn(T, B, I, **DOUBLE)
    zeros = torch.zeros(2, 1, B, H, **DOUBLE)
    mask = F.dropout(torch.ones(4 * H, H, **DOUBLE), 0.5)
    weights = [mask * w if n == 1 else w for n, w in enumerate(module.weights())]
    y, (h_n, c_n) = fused_lstm.lstm(x, tuple(zeros), weights, engine=engine)
    compare(module, (y, h_n, c_n), haste(module, x, 1.0, lambda w: w * as_haste(mask)))
