"""The gradients of each sample by itself, as differentially private training has to have them.

On this CPU, 32 samples: a backward that leaves them, through Opacus with this project's LSTM and
with Opacus's (DPLSTM), and through torch.func, which has the forward in it. Beside them the
ordinary backward, which leaves their sum.
"""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Any

import torch
from torch import Tensor

import fused_lstm
from fused_lstm import native

from .cases import Case
from .core import Call, Work, require_right

ORDINARY, OURS, THEIRS, FUNC = "one backward", "Opacus, ours", "Opacus, DPLSTM", "torch.func"
SAMPLES = 32


def of_module(module: Any, x: Tensor, dy: Tensor, sampled: bool) -> Call:
    """Return a backward that leaves gradients in a module: by sample under Opacus, else the sum."""
    outputs: list[Tensor] = []

    def forward() -> None:
        for parameter in module.parameters():
            parameter.grad = parameter.grad_sample = None
        outputs[:] = [module(x)[0]]

    def backward() -> None:
        outputs[0].backward(dy)

    def answer() -> dict[str, Tensor]:
        forward()
        backward()
        if not sampled:
            return {name: p.grad for name, p in module.named_parameters()}
        return {name: p.grad_sample for name, p in module._module.named_parameters()}

    # The sum's parts are compared with it in `by_func`.
    return Call({"backward": backward}, answer, {"backward": forward}, gives=lambda _: sampled)


def by_func(module: Any, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """Return the gradients of every sample, a sample's loss differentiated under vmap."""
    weights = {name: p.detach() for name, p in module.named_parameters()}

    def loss(weights: dict[str, Tensor], x: Tensor, dy: Tensor) -> Tensor:
        y, _ = torch.func.functional_call(module, weights, (x[:, None],))
        return (y[:, 0] * dy).sum()

    return torch.func.vmap(torch.func.grad(loss), (None, 1, 1))(weights, x.detach(), dy)


def setup(case: Case, o: Any) -> Work:
    """Return the ways of a case; WrongAnswer where samples' gradients are not the sum's parts."""
    if (why := native.missing(o.device)) is not None:
        raise ValueError(f"samples: needs the engine 'native', which cannot run: {why}")
    T, _, I, H, L = case.shape
    torch.manual_seed(0)
    x, dy = torch.randn(T, SAMPLES, I, requires_grad=True), torch.randn(T, SAMPLES, H)
    plain = fused_lstm.LSTM(I, H, L, engine="native")
    func = partial(by_func, plain, x, dy)

    def expected() -> dict[str, Tensor]:
        exact = fused_lstm.LSTM(I, H, L, engine="native", dtype=torch.float64)
        exact.load_state_dict(plain.state_dict())
        answer = by_func(exact, x.double(), dy.double())
        sums = {name: each.sum(0) for name, each in answer.items()}
        whole = of_module(exact, x.detach().double(), dy.double(), sampled=False)
        require_right(FUNC, sums, whole.answer())
        return {name: each.float() for name, each in answer.items()}

    calls = {
        ORDINARY: partial(of_module, plain, x, dy, sampled=False),
        FUNC: lambda: Call({"backward": func}, func),
    }
    facts = {"shape": case.shape._replace(B=SAMPLES)._asdict()}
    if importlib.util.find_spec("opacus") is None:
        why = "opacus is not installed; pip install opacus"
        return Work(calls, expected, facts, dict.fromkeys((OURS, THEIRS), why))
    from opacus import GradSampleModule
    from opacus.layers import DPLSTM

    from fused_lstm import opacus

    for label, kind in {OURS: opacus.LSTM, THEIRS: DPLSTM}.items():
        module = kind(I, H, L)
        module.load_state_dict(plain.state_dict())
        private = GradSampleModule(module, batch_first=False, loss_reduction="sum")
        calls[label] = partial(of_module, private, x, dy, sampled=True)
    return Work(calls, expected, facts)
