"""The host's work around a launch: operators' ATen calls, with a driver that launches nothing.

`main` prints what bench.gpu.dry's driver counts as if this machine had an H100.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.gpu import dry
from fused_lstm.triton import op, rounding
from fused_lstm.triton.devices import DEVICES

T, B, H, L = 2, 1, 64, 2  # small: the calls are the same at any size


def problem(fuse: str) -> dict[str, Callable[[], object]]:
    """Return the two operators in bfloat16, as a training step calls them: y has a gradient."""
    x, h0, weights = dry.zeros((T, B, H, H, L), torch.bfloat16)
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


def main() -> None:
    """Print JSON: "fuse direction" -> calls and launches.

    "layers rounding" is what comes first in TF32 where weights stream.
    """
    torch.set_num_threads(1)
    dry.take_over(DEVICES["H100"])
    report: dict[str, Any] = {}
    with torch.no_grad():
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
    print(json.dumps(report))
