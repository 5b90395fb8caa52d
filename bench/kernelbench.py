"""KernelBench's recurrent tasks (level 3, tasks 35 to 42) as their files are, with ours under them.

    git clone https://github.com/ScalingIntelligence/KernelBench
    python -m bench kernelbench KernelBench

A task is a file: a Model, its get_init_inputs() and get_inputs(). The model runs as it is: torch's
layers run torch's kernels, or ours under `fused_lstm.install()`. "inference" is what KernelBench
times, a forward without gradients; "step" is a forward and a backward of the outputs' mean square.
Where a task returns the last step alone, its gradients become denormal numbers on the way back,
which an Intel CPU is slow at: so the step is also timed with torch's layers and
`fused_lstm.flush_denormals()`. torch.compile breaks its graph at nn.LSTM, so it is timed only where
`--engines all` asks for it, and only forward.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import fused_lstm

from .contenders import BASE
from .core import Runner, Task
from .models.case import floats

TASKS = range(35, 43)
OURS, FLUSHED, COMPILED = "install", "flushed", "compile"
BOTH = ("inference", "step")


def found(folder: Path) -> list[Path]:
    """Return the tasks' files in a clone, or in its level3; ValueError where there are none."""
    for place in (folder / "KernelBench" / "level3", folder / "level3", folder):
        files = [path for n in TASKS for path in sorted(place.glob(f"{n}_*.py"))]
        if files:
            return files
    raise ValueError(f"kernelbench: got {folder}; expected a clone of KernelBench")


def load(path: Path) -> ModuleType:
    """Return a task's module."""
    spec = importlib.util.spec_from_file_location(f"kernelbench_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Problem:
    """A task's model with its inputs, and the gradient that comes back."""

    def __init__(self, path: Path, device: torch.device) -> None:
        torch.manual_seed(0)
        module = load(path)
        self.path, self.device = path, device
        self.model = module.Model(*module.get_init_inputs()).to(device)
        self.inputs = [x.to(device) for x in module.get_inputs()]

        self.right: dict[str, Tensor] = {}

    def expected(self) -> dict[str, Tensor]:
        """Return what torch's own layers answer; computed once."""
        self.right = self.right or Way(self, nullcontext).answer()
        return self.right

    def facts(self, mode: str) -> dict[str, Any]:
        """Return the task's file."""
        return {"task": self.path.stem}


class Way(Runner):
    """A problem's model with other kernels under its layers, or compiled."""

    def __init__(
        self,
        problem: Problem,
        under: Callable[[], Any],
        modes: tuple[str, ...] = BOTH,
        compiled: bool = False,
    ) -> None:
        self.problem, self.under, self.device = problem, under, problem.device
        self.modes = modes
        self.call = torch.compile(problem.model) if compiled else problem.model

    def outputs(self) -> list[Tensor]:
        """Run the model; some tasks draw their first states."""
        torch.manual_seed(0)
        return floats(self.call(*self.problem.inputs))

    def inference(self) -> list[Tensor]:
        """Run a forward that keeps nothing."""
        with torch.no_grad(), self.under():
            return self.outputs()

    def step(self) -> None:
        """Run forward and backward, of a mean of squares."""
        self.problem.model.zero_grad(set_to_none=True)
        with self.under():
            torch.stack([y.square().mean() for y in self.outputs()]).sum().backward()

    def asks(self, right: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what it must give: no gradients where it only infers."""
        return {n: t for n, t in right.items() if "step" in self.modes or not n.endswith(".grad")}

    def answer(self) -> dict[str, Tensor]:
        """Return outputs and gradients, outputs alone where it only infers."""
        named = {f"output {n}": y for n, y in enumerate(self.inference())}
        if "step" not in self.modes:
            return named
        self.step()
        parameters = self.problem.model.named_parameters()
        gradients = {f"{name}.grad": p.grad.clone() for name, p in parameters if p.grad is not None}
        return named | gradients


def tasks(suite: Any, options: Any) -> Iterator[Task]:
    """Yield each task; ValueError where the command line names no clone."""
    if options.folder is None:
        raise ValueError("kernelbench: got no folder; expected a clone: bench kernelbench DIR")
    for path in found(options.folder):
        problem = Problem(path, options.device)
        way = partial(Way, problem)
        compiled = partial(way, nullcontext, ("inference",), compiled=True)
        forward = {
            BASE: partial(way, nullcontext, ("inference",)),
            OURS: partial(way, fused_lstm.install, ("inference",)),
        } | ({COMPILED: compiled} if options.engines == "all" else {})
        both = {
            BASE: partial(way, nullcontext, ("step",)),
            FLUSHED: partial(way, fused_lstm.flush_denormals, ("step",)),
            OURS: partial(way, fused_lstm.install, ("step",)),
        }
        # Apart: a step may take a hundred forwards' time, and the pace is seconds.
        yield from (Task(path.stem, problem, build) for build in (forward, both))
