"""`GRU` beside nn.GRU: PyTorch's own inputs, bfloat16; tests/conformance has the other values."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import fused_lstm
import lanes
from cases import assert_agree_on_pytorchs_inputs
from gru import Paired, every_top, make_modules, rungs
from lanes import Case, make_inputs
from tolerance import assert_close


def check(case: Case, engine: str, fuse: str | None, dtype: torch.dtype = torch.float64) -> None:
    """Ours gives what nn.GRU gives, value by value and gradient by gradient."""
    theirs, ours = map(Paired, make_modules(case, engine, fuse, dtype))
    given = make_inputs(case, dtype)
    wanted = lanes.run(lanes.expected, theirs, case, given)
    found = lanes.run(lanes.call, ours, case, given)
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        assert_close(found[name], value, name)


@pytest.mark.slow  # its compiler takes a minute, and what it compiles is the loop
def test_the_compile_engine_has_it():
    if (why := fused_lstm.available_engines("cpu")["compile"]) is not None:
        pytest.skip(why)
    check(Case(T=2, L=1), "compile", None)


@pytest.mark.parametrize(("engine", "fuse"), rungs("triton", "compile"))
@pytest.mark.parametrize(
    ("dtype", "training"),
    [(torch.float64, True), (torch.float32, False)],
    ids=["float64-train", "float32-eval"],
)
def test_pytorchs_own_inputs(dtype, training, engine, fuse):
    of = nn.GRU, fused_lstm.GRU, dtype, training
    assert assert_agree_on_pytorchs_inputs(*of, engine, fuse) >= 16


@every_top
def test_bfloat16_is_as_near_as_pytorchs(engine, fuse):
    """Both to float64, of weights that bfloat16 has."""
    theirs, ours = make_modules(Case(I=9, H=19), engine, fuse, torch.bfloat16)
    x, errors = torch.randn(7, 3, 9, dtype=torch.bfloat16), []
    wanted = outcome(copy.deepcopy(theirs).double(), x.double())
    for module in (theirs, ours):
        found = outcome(module, x)
        errors.append({k: (found[k] - v).norm() / v.norm() for k, v in wanted.items()})
    for name, error in errors[1].items():
        assert error <= 1.25 * errors[0][name] + 4e-3, name


def outcome(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """y, h_n and all gradients, in float64."""
    x = x.detach().requires_grad_()
    y, h_n = module(x)
    (y.double().sin().sum() + h_n.double().square().sum()).backward()
    found = {"y": y.detach(), "h_n": h_n.detach(), "x": x.grad}
    found |= {name: p.grad for name, p in module.named_parameters()}
    return {name: value.double() for name, value in found.items()}
