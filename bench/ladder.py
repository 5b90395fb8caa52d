"""The ladder: one LSTM, a fusion more at each rung, and nothing else that differs.

On a CPU `torch.mm` may run on another instruction set than this project's kernels, so a step loop
that multiplies with it differs from a fused rung by more than its fusions. Here the loop and the
rungs that still multiply step by step use the C++ engine's own product, with the instruction set
that the fused rungs use. The loop as PyTorch ships it and nn.LSTM stand beside them. On a GPU
torch.mm is cuBLAS for all.

`layers` has a rung only where it runs other code than `steps`: on a CPU where the engine's plan is
a wavefront, which needs several threads and weights that fit in a core's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fused_lstm import native
from fused_lstm.ladder import Products, climb
from fused_lstm.spec import Spec

from . import kernels, model
from .cases import DTYPES, Shape
from .contenders import NN_LSTM, Contender
from .core import Runner, Task, Turn, timed
from .lstm import Local, Problem, make_problem
from .model import Limits

# --- products by the C++ engine, on the instruction set that it is set to ---


def _product(kind: str, left: Tensor, right: Tensor) -> Tensor:
    return kernels.ops().product(kind, left, right, 0, 1)[0].to(left.dtype)


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


OURS = Products(Linear.apply, _step, partial(_product, "dx"), partial(_product, "dW"))


# --- the rungs ---


@dataclass(frozen=True)
class Rung:
    """A row of the ladder: a way to run the LSTM, and on a CPU the instruction set."""

    label: str
    contender: Contender
    products: Products | None = None  # None: the contender's own way
    isa: str = ""  # of the C++ engine; "" is the best that the CPU has


class Climber(Local):
    """A rung with a problem in hand. `limits`: what the machine can do on its instruction set."""

    def __init__(self, rung: Rung, problem: Problem, limits: Limits | None = None) -> None:
        super().__init__(rung.contender, problem)
        self.rung, self.limits = rung, limits

    def _set_isa(self) -> None:
        if self.rung.isa:
            native.OPS.use_isa(self.rung.isa)

    def forward(self) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the layers, keeping what a backward needs."""
        if self.rung.products is None:
            return super().forward()
        products, fuse = self.rung.products, self.contender.fuse
        spec = Spec(layers=self.case.shape.L, level=fuse)
        y, h_n, c_n = climb(
            None if fuse == "none" else native.OPS, spec, self.x, self.problem.h0, self.problem.c0,
            self.weights, None, None, None, False, products,
        )  # fmt: skip
        self.y = y
        return y, (h_n, c_n)

    def answer(self) -> dict[str, Tensor]:
        """Return y, the final state and all gradients."""
        self._set_isa()
        return super().answer()

    def timed(self, mode: str) -> Turn:
        """Return what takes a turn, on its instruction set."""
        return timed(self.work(mode)[0], self.device, self._set_isa)

    def facts(self, mode: str, rounds: int) -> dict[str, Any]:
        """Return what a step consists of, and, where limits are known, the model's seconds."""
        facts: dict[str, Any] = {"isa": self.rung.isa}
        if self.rung.label == NN:
            return facts
        fuse, size = self.contender.fuse or "layers", self.problem.dtype.itemsize
        counts = model.counts(self.work(mode)[0], self.case.shape, fuse, size)
        facts |= counts
        if self.limits is not None:
            facts |= {"limits": asdict(self.limits), "predicted": self.limits.seconds(counts)}
        return facts

    def close(self) -> None:
        """Go back to the best instruction set."""
        super().close()
        if self.rung.isa:
            native.OPS.use_isa("")


LEVELS = ("pointwise", "hoisted", "steps", "layers")
TORCH_LOOP, NN = "loop, torch.mm", "nn.LSTM"


def is_wavefront(shape: Shape, threads: int) -> bool:
    """Return whether `layers` of float32 runs a wavefront on this CPU; else it runs as `steps`."""
    T, B, I, H, L = shape
    return "a wavefront" in kernels.ops().plan(T, B, I, H, L, "layers", True, threads=threads)


def on_cpu(isa: str, products: Products | None) -> list[Rung]:
    """Return the five rungs on an instruction set, from the loop upwards.

    Where PyTorch multiplies on the same instruction set, `products` is None: torch.mm for all.
    """
    first = Rung("loop", Contender("loop", "loop", "none"), products, isa)
    rest = [
        Rung(fuse, Contender(fuse, "native", fuse),
            products if fuse in ("pointwise", "hoisted") else None, isa)
        for fuse in LEVELS
    ]  # fmt: skip
    return [first, *rest]


def rungs(device: torch.device, dtype: torch.dtype) -> list[Rung]:
    """Return the rungs: the five levels, the loop as PyTorch ships it, and nn.LSTM.

    bfloat16's loop multiplies with torch.mm: oneDNN has the same instructions, and is faster there
    than the C++ engine's product of a matrix that is not packed beforehand.
    """
    shipped = [Rung(TORCH_LOOP, Contender("loop", "loop", "none")), Rung(NN, NN_LSTM)]
    if device.type != "cpu":
        levels = [Rung(fuse, Contender(fuse, "triton", fuse)) for fuse in LEVELS]
        return [Rung("loop", shipped[0].contender), *levels, shipped[1]]
    if (why := native.missing(device)) is not None:
        raise ValueError(f"ladder: needs the engine 'native', which cannot run: {why}")
    if dtype == torch.bfloat16:
        return [*on_cpu(native.OPS.isa(), None), shipped[1]]
    return on_cpu(native.OPS.isa(), OURS) + shipped


def tasks(suite: Any, options: Any) -> Iterator[Task]:
    """Yield the ladder of each case and dtype; the machine's limits are measured once a dtype."""
    limits: dict[tuple[str, str], Limits] = {}
    for case in suite.cases:
        for name in suite.dtypes:
            dtype, on_gpu = DTYPES[name], options.device.type != "cpu"
            problem = make_problem(case, options.device, dtype)
            climbed = rungs(options.device, dtype)
            if not on_gpu and not is_wavefront(case.shape, torch.get_num_threads()):
                climbed = [rung for rung in climbed if rung.label != "layers"]
            for isa in {rung.isa for rung in climbed if rung.isa}:
                if (name, isa) not in limits:
                    limits[name, isa] = model.measure_limits(dtype, isa)
            build = {
                r.label: partial(Climber, r, problem, limits.get((name, r.isa))) for r in climbed
            }
            yield Task(case.name, problem, build, {}, name)


# --- the parts of what `steps` gains over `hoisted` ---


class Recurrence:
    """The recurrent products of a layer's forward alone, h R^T of all steps, by the C++ engine."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        generator = torch.Generator().manual_seed(0)
        self.h = torch.randn(shape.T, shape.B, shape.H, generator=generator)
        self.weight = torch.randn(4 * shape.H, shape.H, generator=generator)
        self.peak = max(kernels.ops().best_product(torch.float32) for _ in range(100))

    def expected(self) -> dict[str, Tensor]:
        """Return the products by PyTorch."""
        return {"sums": self.h.flatten(0, 1) @ self.weight.T}

    def facts(self, mode: str) -> dict[str, Any]:
        """Return the shape, and the seconds of the products at the CPU's peak of multiply-adds."""
        T, B, _, H, _ = self.shape
        return {"shape": self.shape._asdict(), "peak": T * B * 4 * H * H / self.peak}


class Part(Runner):
    """A way to multiply: `calls`, a call a step; `packing`, the same calls inside; `once`."""

    modes = ("products",)

    def __init__(self, how: str, work: Recurrence) -> None:
        self.how, self.work_of = how, work

    def products(self) -> list[tuple[Tensor, list[float]]]:
        """Return the products and the seconds inside each call."""
        h, weight, product = self.work_of.h, self.work_of.weight, kernels.ops().product
        if self.how == "once":
            return [product("step", h.flatten(0, 1), weight, h.shape[1], 1)]
        return [product("input", rows, weight, 0, 1) for rows in h]

    def answer(self) -> dict[str, Tensor]:
        """Return the products."""
        return {"sums": torch.cat([sums for sums, _ in self.products()])}

    def timed(self, mode: str) -> Turn:
        """Return what takes a turn: the seconds of whole calls, or those inside of them."""
        if self.how == "calls":
            return timed(self.products, self.device)
        return lambda calls=1, seconds=0.0: [sum(taken[0] for _, taken in self.products())]


def parts(suite: Any, options: Any) -> Iterator[Task]:
    """Yield the recurrent products of each case: packed at each step, and packed once."""
    for case in suite.cases:
        work = Recurrence(case.shape)
        build = {how: partial(Part, how, work) for how in ("calls", "packing", "once")}
        yield Task(case.name, work, build)
