"""The ladder: one LSTM, a fusion more at each rung, and nothing else that differs.

On a CPU `torch.mm` may run on another instruction set than this project's kernels, so a step loop
that multiplies with it differs from a fused rung by more than its fusions. Here the loop and the
rungs that still multiply step by step use the C++ engine's own product, with the instruction set
that the fused rungs use. The loop as PyTorch ships it and nn.LSTM stand beside them. On a GPU
torch.mm is cuBLAS for all.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fused_lstm import autograd, hoisted, loop, native
from fused_lstm.spec import Spec

from . import kernels, model
from .cases import Problem, make_problem
from .contenders import NN_LSTM, Contender
from .core import BUSY, Group, Record, Timed, measure, quartiles, speedup, timed
from .lstm import Local

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
        spec = Spec(layers=self.case.shape.L, level=fuse)
        call = spec, self.x, self.problem.h0, self.problem.c0, self.weights, None, None, False
        if fuse == "hoisted":
            y, h_n, c_n = hoisted.steps(*call, hoisted.fused(native.OPS), None, products)
        else:
            cell = loop.cell if fuse == "none" else partial(autograd.cell, native.OPS)
            y, h_n, c_n = loop.steps(*call, cell, None, products.linear)
        self.y = y
        return y, (h_n, c_n)

    def answer(self) -> dict[str, Tensor]:
        """Return y, the final state and all gradients."""
        self._set_isa()
        return super().answer()

    def timed(self, mode: str) -> Timed:
        """Return what runs it once, on its instruction set, and returns its seconds."""
        work, _ = self.work(mode)
        return timed(work, self.problem.device, self._set_isa)


LEVELS = ("pointwise", "hoisted", "steps", "layers")
TORCH_LOOP, NN = "loop, torch.mm", "nn.LSTM"


def on_cpu(isa: str, products: hoisted.Products | None, suffix: str = "") -> list[Rung]:
    """Return the five rungs on an instruction set, from the loop upwards.

    Where PyTorch multiplies on the same instruction set, `products` is None: torch.mm for all.
    """
    first = Rung("loop" + suffix, Contender("loop", "loop", "none"), products, isa)
    rest = [
        Rung(fuse + suffix, Contender(fuse, "native", fuse),
            products if fuse in ("pointwise", "hoisted") else None, isa)
        for fuse in LEVELS
    ]  # fmt: skip
    return [first, *rest]


def rungs(device: torch.device, dtype: torch.dtype, older: bool = True) -> list[Rung]:
    """Return all that take turns: the five rungs, what PyTorch ships and, `older`, five in AVX2.

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
    best = native.OPS.isa()
    ours = on_cpu(best, OURS) + shipped
    older = older and best not in ("avx2", "base") and "avx2" in native.OPS.isa_names(dtype)
    return ours + (on_cpu("avx2", OURS, ", avx2") if older else [])


# --- the suite ---


def run(name: str, suite: Any, options: argparse.Namespace) -> Iterator[Record]:
    """Climb the ladder on each case and dtype: check, time in turn, count, predict."""
    for case in suite.cases:
        for dtype_name in suite.dtypes:
            dtype = getattr(torch, dtype_name)
            problem = make_problem(case, options.device, dtype)
            older = case.shape.H < 1024  # large takes half a minute a round
            climbed = {rung.label: rung for rung in rungs(options.device, dtype, older)}
            group = Group(
                problem, {label: partial(r.build, problem) for label, r in climbed.items()}
            )
            isas = {rung.isa for rung in climbed.values() if rung.isa}
            limits = {isa: model.measure_limits(dtype, isa) for isa in isas}

            def extra(
                label: str, mode: str, *_seconds: Any, case=case, climbed=climbed, limits=limits,
                group=group, size=dtype.itemsize,
            ) -> dict[str, Any]:  # fmt: skip
                facts: dict[str, Any] = {"shape": case.shape._asdict(), "isa": climbed[label].isa}
                if label == NN:
                    return facts
                runner: Any = group.runners[label]
                fuse = climbed[label].contender.fuse
                found = model.counts(runner.work(mode)[0], case.shape, fuse or "layers", size)
                facts |= found.facts()
                if (of := limits.get(climbed[label].isa)) is not None:
                    facts["limits"] = {"flops": of.flops, "bandwidth": of.bandwidth,
                        "launch": of.launch}  # fmt: skip
                    facts["predicted"] = of.seconds(found)
                return facts

            place = options.device, dtype, ""
            yield from measure(name, case.name, group, ("step",), suite.pace, *place, extra)
            group.close()
            if options.device.type == "cpu":
                native.OPS.use_isa("")


def ladder_of(records: Sequence[Record], suffix: str = "") -> list[Record]:
    """Return the five rungs of one group, from the loop upwards."""
    by_label = {record.contender: record for record in records}
    return [by_label[label + suffix] for label in ("loop", *LEVELS) if label + suffix in by_label]


def predicted(record: Record) -> float:
    """Return the model's seconds of a rung; NaN where there are none."""
    return sum(record.extra.get("predicted", {"": float("nan")}).values())


def show(records: Sequence[Record]) -> str:
    """Return every group's ladder as text, and the answer in a sentence."""
    lines, foreign = [], max((record.foreign for record in records), default=0.0)
    if foreign > BUSY:
        lines.append(
            f"BUSY: other work took up to {foreign:.0%} of this machine meanwhile; what follows is"
            " no measurement of it"
        )
    for group in dict.fromkeys(record.group for record in records):
        of = [r for r in records if r.group == group and r.seconds]
        for suffix in ("", ", avx2"):
            climbed = ladder_of(of, suffix)
            if len(climbed) < 2:
                continue
            first, words = climbed[0], climbed[0].extra.get("isa") or first_device(of)
            threads = f"{first.threads} thread{'s' * (first.threads != 1)}"
            lines += ["", f"{first.case}, {first.dtype}, {words}, {threads}"]
            lines.append(f"{'rung':<16}{'launches':>9}{'weights':>9}{'grads':>8}{'rest':>8} MB"
                f"{'model':>8}{'ms':>8}   over the rung above")  # fmt: skip
            for below, rung in zip((None, *climbed), climbed, strict=False):
                found = model.Counts.of_facts(dict(rung.extra))
                moved = (getattr(found, kind).total / 1e6 for kind in model.KINDS)
                sizes = "".join(f"{size:{w}.0f}" for size, w in zip(moved, (9, 8, 8), strict=True))
                gain = "" if below is None else speedup(below, rung).text
                lines.append(f"{rung.contender:<16}{found.launches:>9}{sizes}   "
                    f"{1e3 * predicted(rung):8.1f}{1e3 * rung.median:8.1f}   {gain}")  # fmt: skip
            whole = speedup(climbed[0], climbed[-1])
            lines.append(f"the loop, all fused: {whole.text}")
        labels = {r.contender: r for r in of}
        for label in (TORCH_LOOP, NN):
            if label in labels and "loop" in labels:
                q1, median, q3 = (1e3 * t for t in quartiles(labels[label].seconds))
                versus = speedup(labels[label], labels["loop"]).text
                lines.append(f"{label:<16}{median:8.1f} ms ({q1:.1f} to {q3:.1f}); its speed times"
                    f" what makes the loop's: {versus}")  # fmt: skip
        for label in ("loop", *LEVELS):
            if f"{label}, avx2" in labels:
                worth = speedup(labels[f"{label}, avx2"], labels[label]).text
                lines.append(f"{label}: {labels[label].extra['isa']} over avx2 {worth}")
    return "\n".join(lines)


def section(page: Any, every: Iterable[Record]) -> None:
    """Add the ladder to the report's page, as it was printed."""
    if records := [record for record in every if record.suite == "ladder" and record.seconds]:
        page.add("## The ladder: one fusion after another", f"```text\n{show(records)}\n```")


def first_device(records: Sequence[Record]) -> str:
    """Return where records were measured."""
    return records[0].device
