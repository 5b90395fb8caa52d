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

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from fused_lstm import native
from fused_lstm.call import record
from fused_lstm.call.spec import Spec
from fused_lstm.reference.ladder import Products, climb

from . import kernels, model
from .cases import Case, Shape
from .contenders import NN_LSTM, WITHOUT, Contender
from .core import Call, Work, differentiable
from .layers import Problem, make_problem, module_of, run_of, work_of
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


def rung_call(rung: Rung, problem: Problem, limits: Limits | None = None) -> Call:
    """Return a rung's call. `limits`: what the machine can do on its instruction set."""
    module, is_nn = module_of(rung.contender, problem), rung.contender == NN_LSTM
    run, x, dy = run_of(module, problem, not is_nn)
    weights, fuse = dict(module.named_parameters()), rung.contender.fuse
    if rung.products is not None:
        spec = Spec(layers=problem.case.shape.L, level=fuse)
        own = None if rung.contender.engine == "loop" else native.OPS
        given = record.Call(spec, x, problem.h0, problem.c0, list(weights.values()))
        run = lambda: climb(own, given, None, products=rung.products)  # noqa: E731
    if rung.label == WITHOUT:
        with_onednn = run

        def run() -> Any:
            with torch.backends.mkldnn.flags(enabled=False):
                return with_onednn()

    call = differentiable(run, {"x": x} | weights, dy, problem.x.device)
    step, answer = call.modes["step"], call.answer

    def set_isa() -> None:
        if rung.isa:
            native.OPS.use_isa(rung.isa)

    def on_isa() -> Mapping[str, Tensor]:
        set_isa()
        return answer()

    def facts(mode: str, rounds: int) -> dict[str, Any]:
        facts: dict[str, Any] = {"isa": rung.isa}
        if not is_nn:
            size = problem.x.element_size()
            counts = model.counts(step, problem.case.shape, fuse or "layers", size)
            facts |= counts
            if limits is not None:
                facts |= {"limits": asdict(limits), "predicted": limits.seconds(counts)}
        return facts

    def close() -> None:
        if rung.isa:
            native.OPS.use_isa("")

    return replace(call, answer=on_isa, before={"step": set_isa}, facts=facts, close=close)


LEVELS = ("pointwise", "hoisted", "steps", "layers")
TORCH_LOOP, NN = "loop, torch.mm", "nn.LSTM"


def is_wavefront(shape: Shape, threads: int) -> bool:
    """Return whether `layers` of float32 runs a wavefront on this CPU; else it runs as `steps`."""
    T, B, I, H, L = shape
    return "a wavefront" in kernels.ops().plan(T, B, I, H, L, "layers", True, threads=threads)


def on_cpu(isa: str, products: Products | None) -> list[Rung]:
    """Return the rungs on an instruction set: the five levels, and hoisting alone.

    "hoisted alone" is the loop with hoisted products and one operation a launch.

    Where PyTorch multiplies on the same instruction set, `products` is None: torch.mm for all.
    """
    first = Rung("loop", Contender("loop", "loop", "none"), products, isa)
    rest = [
        Rung(fuse, Contender(fuse, "native", fuse),
            products if fuse in ("pointwise", "hoisted") else None, isa)
        for fuse in LEVELS
    ]  # fmt: skip
    alone = Rung("hoisted alone", Contender("hoisted alone", "loop", "hoisted"), products, isa)
    return [first, *rest, alone]


def rungs(device: torch.device, dtype: torch.dtype) -> list[Rung]:
    """Return the rungs: the five levels, the loop as PyTorch ships it, and nn.LSTM.

    bfloat16's loop multiplies with torch.mm: oneDNN has the same instructions, and is faster there
    than the C++ engine's product of a matrix that is not packed beforehand.
    nn.LSTM without oneDNN is PyTorch's own loop in C++, hoisted, with one operator a launch.
    """
    shipped = [Rung(TORCH_LOOP, Contender("loop", "loop", "none")), Rung(NN, NN_LSTM)]
    if device.type != "cpu":
        levels = [Rung(fuse, Contender(fuse, "triton", fuse)) for fuse in LEVELS]
        return [Rung("loop", shipped[0].contender), *levels, shipped[1]]
    if (why := native.missing(device)) is not None:
        raise ValueError(f"ladder: needs the engine 'native', which cannot run: {why}")
    if dtype == torch.bfloat16:
        return [*on_cpu(native.OPS.isa(), None), shipped[1]]
    return [*on_cpu(native.OPS.isa(), OURS), *shipped, Rung(WITHOUT, NN_LSTM)]


@cache
def limits_of(dtype: torch.dtype, isa: str, threads: int) -> Limits:
    """Return what the machine can do, measured once."""
    return model.measure_limits(dtype, isa)


def setup(case: Case, o: Any) -> Work:
    """Return a case's rungs."""
    problem = make_problem(case, o.device, o.dtype)
    climbed, threads = rungs(o.device, o.dtype), torch.get_num_threads()
    if o.device.type == "cpu" and not is_wavefront(case.shape, threads):
        climbed = [rung for rung in climbed if rung.label != "layers"]
    calls = {
        r.label: partial(
            rung_call, r, problem, limits_of(o.dtype, r.isa, threads) if r.isa else None
        )
        for r in climbed
    }
    return work_of(problem, calls)


# --- the parts of what `steps` gains over `hoisted` ---


def products(case: Case, o: Any) -> Work:
    """Return the recurrent products of a layer's forward alone, h R^T of all steps.

    `calls`, a call a step, which packs R; `packing`, the same calls inside; `once`, packed once.
    Facts: the seconds of the products at the CPU's peak of multiply-adds.
    """
    T, B, _, H, _ = case.shape
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(T, B, H, generator=generator)
    weight = torch.randn(4 * H, H, generator=generator)
    peak = max(kernels.ops().best_product(torch.float32) for _ in range(100))

    def each() -> list[tuple[Tensor, list[float]]]:
        return [kernels.ops().product("input", rows, weight, 0, 1) for rows in h]

    def once() -> list[tuple[Tensor, list[float]]]:
        return [kernels.ops().product("step", h.flatten(0, 1), weight, B, 1)]

    def call(run: Callable[[], list[tuple[Tensor, list[float]]]], inside: bool) -> Call:
        def answer() -> dict[str, Tensor]:
            return {"sums": torch.cat([sums for sums, _ in run()])}

        def turn(*_: float) -> list[float]:
            return [sum(taken[0] for _, taken in run())]

        return Call({"products": turn if inside else run}, answer, turns=inside)

    def expected() -> dict[str, Tensor]:
        return {"sums": (h.double().flatten(0, 1) @ weight.double().T).float()}

    calls = {
        "calls": partial(call, each, False),
        "packing": partial(call, each, True),
        "once": partial(call, once, True),
    }
    facts = {"shape": case.shape._asdict(), "peak": T * B * 4 * H * H / peak}
    return Work(calls, expected, facts)
