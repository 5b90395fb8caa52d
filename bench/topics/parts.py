"""Where a training step's time goes, ours beside stock PyTorch's.

A step of the language model on the native engine, and the post's program with nn.LSTM, both under
torch.profiler: the time of each operator, those that are called by another counted with it, summed
by what they are for. What no named operator took is Python, autograd and torch's small ones.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from lm.command import COUNT, number

from ..contenders import BASE, NAMES
from ..rows import CPU, DEVICE, OURS, why_not
from ..training import Learner, make_lesson
from .native import LEARNERS, SIZES

__all__ = ["DEVICE", "SECONDS", "SIZES", "options", "run", "why_not"]

SECONDS = 1.0  # of which nothing depends: --steps are counted
STEP = "a training step"
BACKWARD = "autograd::engine::evaluate_function: "
NATIVE = "fused_lstm_native::"

# What for -> the operators, of either program.
PARTS = {
    "embedding": ("aten::embedding",),
    "embedding, backward": (f"{BACKWARD}EmbeddingBackward0", "aten::coalesce"),
    "dropout": (f"{NATIVE}dropout", "aten::dropout", f"{BACKWARD}MulBackward0"),
    "LSTM, forward": (f"{NATIVE}lstm", "aten::lstm"),
    "LSTM, backward": (f"{NATIVE}lstm_backward", f"{BACKWARD}MkldnnRnnLayerBackward0"),
    "softmax layer and loss": (
        *(f"{NATIVE}linear_cross_entropy", "aten::linear", "aten::cross_entropy_loss"),
        *(f"{BACKWARD}{name}Backward0" for name in ("Addmm", "T", "LogSoftmax", "NllLoss")),
    ),
    "casts": ("aten::to", f"{BACKWARD}ToCopyBackward0"),
    "norm and clip": ("aten::_foreach_norm", "aten::_foreach_mul_"),
    "update": ("aten::_fused_sgd_", "aten::_foreach_add_", "aten::add_"),
    "gradients kept, freed": (
        "torch::autograd::AccumulateGrad",
        "Optimizer.zero_grad#SGD.zero_grad",
    ),
}
OF = {name: part for part, names in PARTS.items() for name in names}
REST = "the rest"


def parts_of(learner: Learner, steps: int) -> dict[str, float]:
    """Milliseconds of a step by part, medians over `steps`; their sum is a step's mean, nearly."""
    for _ in range(2):
        learner.step()
    found: dict[str, list[float]] = {part: [] for part in (*PARTS, REST)}
    for _ in range(steps):
        with profile(activities=[ProfilerActivity.CPU]) as profiled, record_function(STEP):
            learner.step()
        times = dict.fromkeys(found, 0.0)
        for event in profiled.events():
            if event.name == STEP:
                times[REST] += event.cpu_time_total
            elif event.name in OF and not _inside(event):
                times[OF[event.name]] += event.cpu_time_total
                times[REST] -= event.cpu_time_total
        for part, time in times.items():
            found[part].append(time / 1000)
    return {part: statistics.median(times) for part, times in found.items()}


def _inside(event: torch.autograd.profiler_util.FunctionEvent) -> bool:
    """Whether an operator that has a part has called this one."""
    caller = event.cpu_parent
    while caller is not None:
        if caller.name in OF:
            return True
        caller = caller.cpu_parent
    return False


def table(found: dict[str, dict[str, float]]) -> list[str]:
    """Of each program's parts: milliseconds, and shares of its step."""
    totals = {name: sum(parts.values()) for name, parts in found.items()}
    lines = [f"{'ms':24}" + "".join(f"{NAMES.get(name, name):>18}" for name in found)]
    for part in (*PARTS, REST):
        cells = (f"{p[part]:10.2f} ({p[part] / totals[name]:4.0%})" for name, p in found.items())
        lines.append(f"{part:24}" + "".join(f"{cell:>18}" for cell in cells))
    return [*lines, f"{'all':24}" + "".join(f"{total:>11.2f}       " for total in totals.values())]


def options(add: Callable) -> None:
    add("--data", help="a text, as lm.train's; without one, 10,000 words drawn at random")
    add("--steps", type=number(int, COUNT), default=15, help="whose medians are taken [15]")
    add("--autocast", action="store_true", help="products in bfloat16, both programs'")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Everything that was measured, as it goes into the file."""
    measured = {}
    for size in given.sizes:
        lesson = make_lesson(size, CPU, given.data, torch.bfloat16 if given.autocast else None)
        measured[size] = {
            name: parts_of(Learner(LEARNERS[name], lesson), given.steps) for name in (OURS, BASE)
        }
        print(f"\n{size}, {'autocast bfloat16' if given.autocast else 'float32'}")
        print("\n".join(table(measured[size])))
    return {"autocast": given.autocast, "parts_ms": measured}
