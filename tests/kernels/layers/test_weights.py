"""Weights that are not what the constructor made: every way to put others in, on every engine.

nn.LSTM looks its weights up at each call; whoever keeps a list of them computes with stale ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel

from cases import Shape, assert_same, make_pair, make_state, run, rungs
from tolerance import assert_close

SHAPE = Shape(3, 2, 5, 4, 2)
# The module hands its weights to every level in one way. torch.compile takes seconds a use.
every_engine = pytest.mark.parametrize(
    ("engine", "fuse"), rungs("compile", top=True, slow=("triton",))
)
traceable = pytest.mark.parametrize(
    ("engine", "fuse"), rungs("compile", "cudnn", top=True, slow=("triton", "loop"))
)


# --- what is done to a module ---


def _assign(module: nn.Module) -> nn.Module:
    state = {name: value * 1.5 for name, value in module.state_dict().items()}
    module.load_state_dict(state, assign=True)
    return module


def _swap(module: nn.Module) -> nn.Module:
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        return module.float().double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def _to_empty(module: nn.Module) -> nn.Module:
    state = module.state_dict()
    module = module.to("meta").to_empty(device="cpu")
    module.load_state_dict(state)
    return module


def _averaged(module: nn.Module) -> nn.Module:
    average = AveragedModel(module)
    average.update_parameters(module)
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(0.5)
    average.update_parameters(module)
    return average.requires_grad_()


def _parameters(module: nn.Module) -> nn.Module:
    for name in ("weight_hh_l0", "bias_ih_l1"):
        module._parameters[name] = nn.Parameter(module._parameters[name].detach() * 1.5)
    return module


def _spectral(module: nn.Module) -> nn.Module:
    # In training it iterates whenever the weight is read: nn.LSTM reads it four times a call.
    return parametrizations.spectral_norm(module, "weight_ih_l1").eval()


def _pruned(module: nn.Module) -> nn.Module:
    prune.l1_unstructured(module, "weight_hh_l0", amount=0.4)
    return module


USES = {
    "weight_norm": lambda module: weight_norm(module, "weight_hh_l0"),
    "parametrizations.weight_norm": lambda m: parametrizations.weight_norm(m, "weight_hh_l0"),
    "spectral_norm": lambda module: spectral_norm(module, "weight_ih_l1"),
    "parametrizations.spectral_norm": _spectral,
    "orthogonal": lambda module: parametrizations.orthogonal(module, "weight_hh_l1"),
    "prune": _pruned,
    "assign": _assign,
    "swap_module_params": _swap,
    "to_empty": _to_empty,
    "deepcopy": copy.deepcopy,
    "AveragedModel": _averaged,
    "_parameters": _parameters,
}


def prepared(use: Callable[[nn.Module], nn.Module], *modules: nn.Module) -> list[nn.Module]:
    """What `use` makes of each, from one seed."""
    found = []
    for module in modules:
        torch.manual_seed(1)
        found.append(use(module))
    return found


def inputs(dtype: torch.dtype) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    return torch.randn(SHAPE.T, SHAPE.B, SHAPE.I, dtype=dtype), make_state(SHAPE, dtype)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@every_engine
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_agrees_with_nn_lstm(use, engine, fuse):
    pair = make_pair(SHAPE, engine, fuse, torch.float64)
    theirs, ours = prepared(use, *pair)
    x, state = inputs(torch.float64)
    assert_same(run(ours, x, state), run(theirs, x, state))
    # And after a step of an optimizer: nothing of the first call may be left.
    for module in (theirs, ours):
        torch.optim.SGD(module.parameters(), lr=0.3).step()
    assert_same(run(ours, x, state), run(theirs, x, state))


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@traceable
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_agrees_under_torch_compile(use, engine, fuse):
    pair = make_pair(SHAPE, engine, fuse, torch.float64)
    theirs, ours = prepared(use, *pair)
    x, state = inputs(torch.float64)
    torch._dynamo.reset()  # it counts the modules it has compiled LSTM.forward for
    ours.compile(fullgraph=True, backend="aot_eager")
    assert_same(run(ours, x, state), run(theirs, x, state))


def other_weights(module: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(2)
    return {name: torch.randn_like(p).mul_(0.3) for name, p in module.named_parameters()}


@pytest.mark.parametrize(("engine", "fuse"), rungs(top=True, slow=("compile",)))
def test_functional_call(engine, fuse):
    pair = make_pair(SHAPE, engine, fuse, torch.float64)
    x, state = inputs(torch.float64)
    found = []
    for module in pair:
        weights = {name: w.requires_grad_() for name, w in other_weights(module).items()}
        y, (h_n, c_n) = functional_call(module, weights, (x, state))
        grads = torch.autograd.grad(y.sin().sum() + c_n.sum(), list(weights.values()))
        found.append({"y": y, "h_n": h_n, "c_n": c_n} | dict(zip(weights, grads, strict=True)))
        assert_close(module(x, state)[0], pair[0](x, state)[0], "afterwards, its own weights")
    assert_same(found[1], found[0])


def loss_of(module: nn.Module, x: Tensor) -> Callable[[dict[str, Tensor]], Tensor]:
    return lambda weights: functional_call(module, weights, (x,))[0].sin().sum()


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@traceable
def test_torch_func_grad(engine, fuse, compiled):
    theirs, ours = make_pair(SHAPE, engine, fuse, torch.float64)
    x, weights = inputs(torch.float64)[0], other_weights(theirs)
    gradient = torch.func.grad(loss_of(ours, x))
    if compiled:
        gradient = torch.compile(gradient, fullgraph=True, backend="aot_eager")
    assert_same(gradient(weights), torch.func.grad(loss_of(theirs, x))(weights))
