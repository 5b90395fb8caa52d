"""KernelBench's recurrent tasks (level 3, tasks 35 to 42) as their files are, with ours under them.

    git clone https://github.com/ScalingIntelligence/KernelBench build/KernelBench
    python -m bench kernelbench build/KernelBench

A task is a file: a Model, its get_init_inputs() and get_inputs(). The model runs as it is: torch's
layers run torch's kernels, or ours under `fused_lstm.install()`. "inference" is what KernelBench
times, a forward without gradients; "step" is a forward and a backward of the outputs' mean square.
Where a task returns the last step alone, its gradients become denormal numbers on the way back,
which an Intel CPU is slow at: so the step is also timed with torch's layers and
`fused_lstm.flush_denormals()`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import fused_lstm

from .contenders import BASE
from .core import Call, Work, differentiable
from .models.case import floats, mean_square

TASKS = range(35, 43)


def cases(o: Any) -> list[Path]:
    """Return the tasks' files in a clone, or in its level3; ValueError where there are none."""
    if o.folder is None:
        raise ValueError("kernelbench: got no folder; expected a clone: bench kernelbench DIR")
    for place in (o.folder / "KernelBench" / "level3", o.folder / "level3", o.folder):
        files = [path for n in TASKS for path in sorted(place.glob(f"{n}_*.py"))]
        if files:
            return files
    raise ValueError(f"kernelbench: got {o.folder}; expected a clone of KernelBench")


def load(path: Path) -> ModuleType:
    """Return a task's module."""
    spec = importlib.util.spec_from_file_location(f"kernelbench_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def setup(path: Path, o: Any) -> Work:
    """Return a task's model with torch's kernels under its layers, and with others.

    Right is what torch's own layers answer: some tasks draw float32 states in their forward.
    """
    torch.manual_seed(0)
    task = load(path)
    model = task.Model(*task.get_init_inputs()).to(o.device)
    inputs = [x.to(o.device) for x in task.get_inputs()]

    def run() -> list[Tensor]:
        torch.manual_seed(0)
        outputs = floats(model(*inputs))
        return [mean_square(outputs), *outputs] if torch.is_grad_enabled() else outputs

    named = dict(model.named_parameters())
    grads = torch.autograd.grad(run()[0], list(named.values()), allow_unused=True)
    reached = {n: w for (n, w), d in zip(named.items(), grads, strict=True) if d is not None}
    infers = "inference" in o.modes

    def of(under: Callable[[], Any]) -> Call:
        made = differentiable(run, reached, None, o.device, under=under)
        if infers:
            forward = made.modes["inference"]
            made.answer = lambda: {f"output {n}": t.clone() for n, t in enumerate(forward())}
        return made

    ways = {BASE: nullcontext, "install": fused_lstm.install}
    ways |= {} if infers else {"flushed": fused_lstm.flush_denormals}
    calls = {label: partial(of, under) for label, under in ways.items()}
    return Work(
        calls, of(nullcontext).answer, {"task": path.stem}, name=path.stem.replace("_", " ", 1)
    )
