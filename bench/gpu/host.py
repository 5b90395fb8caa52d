"""The host's work around a launch, on any machine: `python -m bench.gpu.host`.

Operators' ATen calls and microseconds, with a driver that launches nothing (dry.py): what is left
of an eager call when its kernels take no time. torch's own matrix products, which a GPU would run,
run on this CPU: their time is taken off.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

# Small, so that torch's own products are: the calls are the same at any size.
T, B, H, L = 2, 1, 64, 2
ROUNDS, CALLS = 15, 100
PRODUCTS = "mm", "addmm", "bmm", "baddbmm"


def problem(fuse: str) -> dict[str, Callable[[], object]]:
    """Return the two operators in bfloat16, as a training step calls them: y has a gradient."""
    import torch

    from fused_lstm.triton import op

    from . import dry

    x, h0, weights = dry.zeros((T, B, H, H, L), torch.bfloat16)
    given = x, h0, h0, weights, 0.0, None, fuse
    y, _, _, h, c, gates = op.lstm(*given, True)
    return {
        "forward": lambda: op.lstm(*given, True),
        "backward": lambda: op.lstm_backward(y, None, None, *given, y, h, c, gates, True),
    }


def calls_of(function: Callable[[], object]) -> list[tuple[Any, Callable[[], object]]]:
    """Return the ATen operators that one call dispatches, each with its own call."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Note(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            call = partial(function, *args, **(kwargs or {}))
            found.append((function, call))
            return call()

    found: list[tuple[Any, Callable[[], object]]] = []
    with Note():
        function()
    return found


def name_of(operator: Any) -> str:
    """Return an ATen operator's name; all views are `views`."""
    return "views" if operator.is_view else operator.overloadpacket.__name__


def microseconds(function: Callable[[], object]) -> float:
    """Return a call's microseconds of processor time less its products': the median round's."""
    products = [call for operator, call in calls_of(function) if name_of(operator) in PRODUCTS]
    found = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(CALLS):
            function()
        between = time.thread_time()
        for _ in range(CALLS):
            for product in products:
                product()
        found.append((2 * between - began - time.thread_time()) / CALLS * 1e6)
    return statistics.median(found)


def main(timed: bool) -> int:
    """Print JSON: "fuse direction" -> calls, launches and, where `timed`, microseconds.

    "layers rounding" is what comes first in TF32 where weights stream.
    """
    import torch

    from fused_lstm.triton import rounding
    from fused_lstm.triton.devices import DEVICES

    from . import dry

    torch.set_num_threads(1)
    dry.take_over(DEVICES["H100"])
    report = {}
    functions = {}
    with torch.no_grad():
        for fuse in ("steps", "layers"):
            for direction, function in problem(fuse).items():
                functions[f"{fuse} {direction}"] = function
        weights = [torch.zeros(4 * H, H) for _ in range(2 * L - 1)]
        functions["layers rounding"] = partial(rounding.rounded, weights)
        for name, function in functions.items():
            function()
            dry.LAUNCHES.clear()
            calls = Counter(name_of(operator) for operator, _ in calls_of(function))
            found: dict[str, Any] = {"calls": calls, "launches": len(dry.LAUNCHES)}
            if timed:
                found["us"] = microseconds(function)
            report[name] = found
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "0"
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # silences a warning of Triton 3.9
    sys.exit(main("--count" not in sys.argv[1:]))
