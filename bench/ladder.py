"""The ladder: one LSTM, a fusion more at each rung, and nothing else that differs.

On a CPU `torch.mm` may run on another instruction set than this project's kernels, so a step loop
that multiplies with it differs from a fused rung by more than its fusions. Here the loop and the
rungs that still multiply step by step use the C++ engine's own product, with the instruction set
that the fused rungs use. The loop as PyTorch ships it and nn.LSTM stand beside them. On a GPU
torch.mm is cuBLAS for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fused_lstm import hoisted, loop, native, stack, twins
from fused_lstm.derivatives import Fused, call_of

from .cases import Problem
from .contenders import NN_LSTM, Contender
from .core import Timed, timed
from .lstm import Local

# --- products by the C++ engine, on the instruction set that it is set to ---


def _product(kind: str, left: Tensor, right: Tensor) -> Tensor:
    return native.OPS.product(kind, left, right, 0, 1)[0].to(left.dtype)


class Linear(torch.autograd.Function):
    """F.linear for x [..., I], weight [4H, I] and bias [4H] or None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        y = _product("input", x.reshape(-1, x.shape[-1]), weight)
        if bias is not None:
            y += bias
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = dy.reshape(-1, dy.shape[-1])
        dx = _product("dx", rows, weight).view_as(x) if ctx.needs_input_grad[0] else None
        dweight = _product("dW", rows, x.reshape(-1, x.shape[-1]))
        return dx, dweight, rows.sum(0) if ctx.biased else None


def _step(x_part: Tensor, h: Tensor, w_hh: Tensor) -> Tensor:
    return _product("input", h, w_hh).add_(x_part)


OURS = hoisted.Products(Linear.apply, _step, partial(_product, "dx"), partial(_product, "dW"))


# --- the rungs ---


@dataclass(frozen=True)
class Rung:
    """A row of the ladder: a way to run the LSTM, and on a CPU the instruction set."""

    label: str
    contender: Contender
    products: hoisted.Products | None = None  # None: the contender's own way
    isa: str = ""  # of the C++ engine; "" is the best that the CPU has

    def build(self, problem: Problem) -> Climber:
        """Return the runner."""
        return Climber(self, problem)


class Climber(Local):
    """A rung with a problem in hand."""

    def __init__(self, rung: Rung, problem: Problem) -> None:
        super().__init__(rung.contender, problem)
        self.rung, self.modes = rung, ("forward", "step")

    def _set_isa(self) -> None:
        if self.rung.isa:
            native.OPS.use_isa(self.rung.isa)

    def forward(self) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the layers, keeping what a backward needs."""
        if self.rung.products is None:
            return super().forward()
        products, fuse = self.rung.products, self.contender.fuse
        call = self.x, self.problem.h0, self.problem.c0, self.weights
        if fuse == "hoisted":
            cell = hoisted.fused(native.OPS)
            sweep, states = hoisted.steps(*call, cell, products=products)
        else:
            fused = partial(call_of(Fused, True), twins.Cell(native.OPS))
            cell = loop.cell if fuse == "none" else fused
            sweep, states = loop.steps(*call, cell, linear=products.linear)
        y = stack.run(self.x, self.case.shape.L, sweep, None)
        self.y = y
        return y, loop.last(states)

    def answer(self) -> dict[str, Tensor]:
        """Return y, the final state and all gradients."""
        self._set_isa()
        answer = super().answer()
        return answer

    def timed(self, mode: str) -> Timed:
        """Return what runs it once, on its instruction set, and returns its seconds."""
        work, _ = self.work(mode)
        return timed(work, self.problem.device, self._set_isa)


def on_cpu(isa: str, suffix: str = "") -> list[Rung]:
    """Return the five rungs on an instruction set, from the loop upwards."""
    return [
        Rung("loop" + suffix, Contender("loop", "loop", "none"), OURS, isa),
        *(
            Rung(fuse + suffix, Contender(fuse, "native", fuse),
                OURS if fuse in ("pointwise", "hoisted") else None, isa)
            for fuse in ("pointwise", "hoisted", "steps", "layers")
        ),
    ]  # fmt: skip


def beside() -> list[Rung]:
    """Return what PyTorch ships: its step loop's products are torch.mm, and nn.LSTM."""
    return [Rung("loop, torch.mm", Contender("loop", "loop", "none")), Rung("nn.LSTM", NN_LSTM)]
