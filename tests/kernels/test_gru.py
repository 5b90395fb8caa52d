"""`GRU` is nn.GRU: values and gradients on every engine that has it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import fused_lstm
import lanes
from cases import assert_agree_on_pytorchs_inputs, in_turn
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


CASES = {
    "plain": Case(),
    "one": Case(T=1, B=1, I=1, H=1, L=1),
    "one step": Case(T=1, B=3, H=7),
    "one row": Case(T=6, B=1, I=4, H=17, L=1),
    "no bias": Case(bias=False, state=False),
    "three layers": Case(T=3, B=2, I=21, H=3, L=3),
    "odd sizes": Case(T=5, B=4, I=17, H=63),
    "more rows than a tile": Case(T=2, B=21, I=9, H=34),
    "batch first": Case(batch_first=True),
    "bidirectional": Case(T=4, B=5, I=2, H=19, bidirectional=True, batch_first=True),
    "unbatched": Case("unbatched", bidirectional=True),
    "packed": Case("packed", T=6, B=5, H=18),
    "unsorted": Case("unsorted", bidirectional=True),
    "lengths": Case("lengths", B=5, batch_first=True),
    "resets": Case(T=6, resets=True),
    "all": Case("lengths", T=7, B=6, H=19, bidirectional=True, resets=True),
}


@in_turn(CASES, rungs("compile"), 2)
def test_it_is_nn_gru(case, engine, fuse):
    if case.resets and engine == "cudnn":
        with pytest.raises(ValueError, match="resets: got a tensor with engine='cudnn'"):
            check(case, engine, fuse)
    else:
        check(case, engine, fuse)


@pytest.mark.parametrize("name", ["one step", "odd sizes", "bidirectional", "packed"])
@pytest.mark.parametrize(("engine", "fuse"), rungs("triton", "compile"))
def test_float32(name, engine, fuse):
    check(CASES[name], engine, fuse, torch.float32)


@pytest.mark.parametrize("name", ["one step", "odd sizes", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_each_instruction_set(isa, name, dtype):
    check(CASES[name], "native", "layers", dtype)


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


@pytest.mark.parametrize(("engine", "fuse"), rungs("compile", "cudnn", top=True))
def test_dropout_is_drawn_as_the_loop_draws_it(engine, fuse):
    case, found = Case(T=4, L=3), []
    for one in ((engine, fuse), ("loop", None)):
        _, ours = make_modules(case, *one, torch.float64)
        ours.dropout = 0.5
        torch.manual_seed(5)
        found.append(outcome(ours, make_inputs(case, torch.float64).x))
    for name, value in found[0].items():
        assert_close(value, found[1][name], name)
    theirs, _ = make_modules(case, engine, fuse, torch.float64)
    dropped, _ = theirs(make_inputs(case, torch.float64).x)
    assert not torch.allclose(found[0]["y"], dropped), "nothing was dropped"
