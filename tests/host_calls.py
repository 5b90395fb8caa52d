"""The host's work around a launch, with a driver that launches nothing.

`main` prints the operators' ATen calls, and how many kernels they have compiled, as if this machine
had an H100. Of a kernel that nothing launches only its parameters matter: `drop_bodies` saves the
rest of its compilation.
"""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.gpu import dry
from fused_lstm.triton import launch, op, rounding
from fused_lstm.triton.devices import DEVICES

T, B, H, L = 2, 1, 64, 2  # small: the calls are the same at any size


def drop_bodies() -> None:
    """Have Triton compile, of each kernel from now on, its parameters and an empty body.

    Its binder, specialisation, caches and compiler run as ever.
    """
    for kernel in launch.KERNELS.values():
        tree: Any = ast.parse(kernel.src)
        tree.body[0].body = [ast.Pass()]
        kernel._unsafe_update_src(ast.unparse(tree))


def problem(fuse: str, steps: int = T, rows: int = B) -> dict[str, Callable[[], object]]:
    """Return the two operators in bfloat16, as a training step calls them: y has a gradient."""
    x, h0, weights = dry.zeros((steps, rows, H, H, L), torch.bfloat16)
    given = x, h0, h0, weights, 0.0, None, fuse
    y, _, _, h, c, gates = op.lstm(*given, True)
    return {
        "forward": lambda: op.lstm(*given, True),
        "backward": lambda: op.lstm_backward(y, None, None, *given, y, h, c, gates, True),
    }


class Names(TorchDispatchMode):
    """Counts the ATen operators that are dispatched; all views are `views`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls["views" if function.is_view else function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def calls() -> dict[str, Any]:
    """Return "fuse direction" -> calls and launches.

    "layers rounding" is what comes first in TF32 where weights stream.
    """
    report = {}
    functions = {
        f"{fuse} {direction}": function
        for fuse in ("steps", "layers")
        for direction, function in problem(fuse).items()
    }
    weights = [torch.zeros(4 * H, H) for _ in range(2 * L - 1)]
    functions["layers rounding"] = partial(rounding.rounded, weights)
    for name, function in functions.items():
        function()
        dry.LAUNCHES.clear()
        with Names() as names:
            function()
        report[name] = {"calls": names.calls, "launches": len(dry.LAUNCHES)}
    return report


# --- how many kernels Triton has ---


def forget() -> None:
    """Forget all kernels, and which launches have been prepared."""
    op.plan_call.cache_clear()
    op.planned_for.cache_clear()
    for kernel in launch.KERNELS.values():
        kernel.device_caches.clear()


def kernels(direction: str = "forward") -> list[Any]:
    """Return the keys of a direction's kernels."""
    return [key for cache in launch.KERNELS[direction].device_caches.values() for key in cache[0]]


def of_sizes() -> list[int]:
    """Return how many kernels there are after each of some T and B."""
    found = []
    for steps, rows in ((4, 20), (5, 17), (16, 32), (1, 20), (7, 40)):
        problem("layers", steps, rows)
        found.append(len(kernels()))
    return found


def of_lengths() -> list[list[int]]:
    """Return how many kernels both directions have after each T, of lanes of B * 50 elements."""
    found = []
    for steps in (8, 9, 10, 11):
        x, h0, weights = dry.zeros((steps, 1, 50, 50, 3), torch.bfloat16)
        call = x, h0, h0, weights, 0.0, None, "steps"
        y, _, _, h, c, gates = op.lstm(*call, True)
        op.lstm_backward(y, h0, h0, *call, y, h, c, gates, True)
        found.append([len(kernels(direction)) for direction in launch.KERNELS])
    return found


def of_addresses() -> list[int]:
    """Return how many kernels there are after weights have moved by each of some elements."""
    x, h0, weights = dry.zeros((2, 1, 64, 64, 1), torch.bfloat16)
    found = []
    for n in (0, 8, 4, 1, 0):
        moved = [torch.zeros(w.numel() + n, dtype=w.dtype)[n:].view(w.shape) for w in weights]
        op.lstm(x, h0, h0, moved, 0.0, None, "steps", True)
        found.append(len(kernels()))
    return found


def of_states() -> list[int]:
    """Return how many kernels there are after c0 in bfloat16, in float32, and in bfloat16."""
    x, h0, weights = dry.zeros((2, 1, 64, 64, 1), torch.bfloat16)
    found = []
    for c0 in (h0, h0.float(), h0):
        op.lstm(x, h0, c0, weights, 0.0, None, "steps", False)
        found.append(len(kernels()))
    return found


def prepared() -> list[list]:
    """Return of five calls of both operators: kernels bound, launches, whether cooperative."""
    bound, found = [], []

    def counted(original: Callable) -> Callable:
        def run(*args, **options):
            bound.append(original)
            return original(*args, **options)

        return run

    for kernel in launch.KERNELS.values():
        kernel.run = counted(kernel.run)
    for call in problem("layers").values():
        call()
        before = len(bound)
        dry.LAUNCHES.clear()
        for _ in range(5):
            call()
        found.append([len(bound) - before, len(dry.LAUNCHES), dry.LAUNCHES[0]["cooperative"]])
    for kernel in launch.KERNELS.values():
        del kernel.run  # the class's is left
    return found


def spilling() -> list[list]:
    """Return of kernels that spill: which keep their loop, spills not asked for, the last run."""
    x, h0, weights = dry.zeros((2, 1, 64, 64, 1), torch.bfloat16)
    plain, found = dry._Utils.load_binary, []
    for spills in ([0], [8, 4], [4, 4], [4, 8]):
        forget()
        left = list(spills)
        dry._Utils.load_binary = lambda *_, left=left: (1, len(left), 255, left.pop(0), 1024)
        for _ in range(2):
            op.lstm(x, h0, h0, weights, 0.0, None, "steps", True)
        kept = ["'KEEP_LOOP': constexpr[True]" in str(key) for key in kernels()]
        found.append([kept, left, dry.LAUNCHES[-1]["function"]])
    dry._Utils.load_binary = plain
    return found


@torch.no_grad()
def main() -> None:
    """Print JSON: a function's name -> what it returns where nothing was compiled before."""
    torch.set_num_threads(1)
    drop_bodies()
    dry.take_over(DEVICES["H100"])
    report: dict[str, Any] = {}
    for part in (calls, of_sizes, of_lengths, of_addresses, of_states, prepared, spilling):
        forget()
        report[part.__name__] = part()
    print(json.dumps(report))
