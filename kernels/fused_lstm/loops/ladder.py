"""The ladder of a person's loop: what each level launches, moves and takes, and what it gains.

    seconds = FLOP / peak + bytes / bandwidth + launches * cost of one

Nothing overlaps and nothing that a launch keeps on chip costs anything: the two errors have
opposite signs. Bytes are counted where a launch reads or writes them.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from .layer import Fused
from .tiers import HOISTED, NONE, STEPS

NO_WORK = ("empty", "new_empty", "resize_", "set_", "detach", "lift_fresh", "is_same_size",
    "_local_scalar_dense")  # fmt: skip


class Traffic(TorchDispatchMode):
    """Counts launches and the bytes that they read and write.

    A launch is an operator that is neither a view nor an allocation. What stays on chip within a
    launch does not count, which is what fusion is about.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.read, self.written = 0, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if works(function):
            self.launches += 1
            self.read += sum(t.nbytes for t in tensors((args, kwargs)))
            self.written += sum(t.nbytes for t in tensors(result))
        return result


def works(function: Any) -> bool:
    """Return whether an operator does work: it is neither a view nor an allocation."""
    if function._schema.name.partition("::")[2].startswith(NO_WORK):
        return False
    aliases = [r.alias_info for r in function._schema.returns if r.alias_info is not None]
    return not aliases or any(alias.is_write for alias in aliases)


def tensors(values: object) -> list[Tensor]:
    """Return each tensor of a call's arguments or results once."""
    return list({id(t): t for t in pytree.tree_leaves(values) if isinstance(t, Tensor)}.values())


def traffic(work: Callable[[], object]) -> Traffic:
    """Run `work` and return what it launched."""
    with Traffic() as seen:
        work()
    return seen


# --- what a machine can do ---


@dataclass(frozen=True)
class Machine:
    """A machine on PyTorch's threads: its peak in products, its bandwidth, a launch's cost."""

    flops: float  # FLOP a second
    bandwidth: float  # bytes a second, read and written
    launch: float  # seconds


def measured_machine(size: int = 1024, length: int = 2**26) -> Machine:
    """Measure the CPU: a large product, a copy that no cache holds, and a chain of operators."""
    a = torch.ones(size, size)
    product = min(seconds_of(lambda: a @ a) for _ in range(5))
    source = torch.zeros(length, dtype=torch.int8)
    target = torch.zeros_like(source)
    copy = min(seconds_of(lambda: target.copy_(source)) for _ in range(5))
    return Machine(2 * size**3 / product, 2 * length / copy, launch_seconds())


def launch_seconds(length: int = 500) -> float:
    """Return the seconds of a launch: of a chain of operators on one number, there and back."""
    x = torch.zeros(1, requires_grad=True)

    def chain() -> None:
        y = x
        for _ in range(length):
            y = y.sigmoid()
        y.backward()

    chain()
    return min(seconds_of(chain) for _ in range(5)) / (2 * length)


def seconds_of(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


# --- the levels ---


@dataclass(frozen=True)
class Rung:
    """A level: what it launches and moves, and the seconds by the model and measured."""

    level: str
    launches: int
    moved: int  # bytes
    model: float
    seconds: list[float]  # of each round

    @property
    def median(self) -> float:
        """Return the median round."""
        return statistics.median(self.seconds)


def climbed(
    step: Any, x: Any, state: Any, seconds: float = 5.0, trains: bool = True, **options: Any
) -> tuple[list[Rung], str]:
    """Measure the levels that a step has, in turns; return them, and what `explain` says.

    Args:
        step, options: as of fused_lstm.fuse. x, state: of a call.
        trains: forward and backward, where anything requires a gradient; else the forward alone.
    """
    levels: dict[str, Fused] = {}
    for level in (NONE, HOISTED, STEPS):
        layer = Fused(step, fuse=level, **options)
        try:
            layer(x, state)
        except ValueError as error:
            if not str(error).startswith("fuse: got"):
                raise
            break
        levels[level] = layer
    best = next(reversed(levels.values()))
    runs = {level: run_of(layer, x, state, trains) for level, layer in levels.items()}
    with FlopCounterMode(display=False) as counter:
        runs[NONE]()
    counts = {level: traffic(run) for level, run in runs.items()}
    machine = measured_machine()
    rounds: dict[str, list[float]] = {level: [] for level in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(rounds[NONE]) < 5:
        for level in random.sample(list(runs), len(runs)):
            rounds[level].append(seconds_of(runs[level]))
    rungs = []
    for level, seen in counts.items():
        moved = seen.read + seen.written
        model = counter.get_total_flops() / machine.flops + moved / machine.bandwidth
        model += seen.launches * machine.launch
        rungs.append(Rung(level, seen.launches, moved, model, rounds[level]))
    return rungs, best.explained()


def run_of(layer: Fused, x: Any, state: Any, trains: bool) -> Callable[[], object]:
    """Return a forward of a layer, and its backward where it has one."""
    parameters = [p for p in layer.parameters() if p.requires_grad]
    leaves = [t for t in pytree.tree_leaves((x, state)) if t.requires_grad] + parameters

    def forward() -> object:
        with torch.no_grad():
            return layer(x, state)

    def both() -> object:
        ends = [t for t in pytree.tree_leaves(layer(x, state)) if t.requires_grad]
        return torch.autograd.grad(ends, leaves, [torch.ones_like(t) for t in ends],
                                   allow_unused=True)  # fmt: skip

    return both if trains and leaves else forward


def table(rungs: list[Rung]) -> str:
    """Return the levels as a table."""
    lines = [f"{'level':8} {'launches':>9} {'MB moved':>9} {'model, ms':>10} {'ms':>9}  gain"]
    for k, rung in enumerate(rungs):
        gain = ""
        if k:
            below = rungs[k - 1]
            ratios = sorted(a / b for a, b in zip(below.seconds, rung.seconds, strict=True))
            ends = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
            gain = f"{below.median / rung.median:.2f}x over {below.level} ({ends[0]:.2f} to"
            gain += f" {ends[1]:.2f} in nine rounds of ten)"
        lines.append(
            f"{rung.level:8} {rung.launches:9} {rung.moved / 1e6:9.1f} {1e3 * rung.model:10.2f}"
            f" {1e3 * rung.median:9.2f}  {gain}".rstrip()
        )
    first, last = rungs[0], rungs[-1]
    if len(rungs) > 1:
        lines.append(f"in all: {first.median / last.median:.2f}x")
    return "\n".join(lines)
