"""Time a shape's plans on this machine's GPU: `python -m fused_lstm.tools.tune --help`.

The card's barrier and L2 are measured. Plans are ranked by the arithmetic of docs/gpu.md, each with
h exchanged at the barrier and, where that may be, by its phase. Those that spill are dropped, and
the best few are timed. The measured constants and the fastest plan are
kept in a file that FUSED_LSTM_TUNED names to the library (fused_lstm/triton/tuned.py).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..call.spec import PLAIN, Spec
from ..triton import choice, devices, tuned
from ..triton.plan import Plan, alone, has_phase, plan, sums_in_parts

FEW = 6  # plans that are timed
STEPS = 1024  # of a timed launch: milliseconds, beside 0.2 of the host's
ROUNDS = 7


def candidates(direction: str, device: devices.Device, **shape: Any) -> list[Plan]:
    """Return a layer's plans, the best by arithmetic first; shape: as choice.choose takes it."""
    whole = plan("steps", direction, device=device, layers=1, in_parts=False, **shape)
    every = [whole, *sums_in_parts(whole, device)]
    if (one := alone(whole, device)) is not None:
        every.append(one)
    ranked = sorted(every, key=lambda found: choice.estimate(found, device))
    pairs = [(found, with_phase(found)) for found in ranked]
    return [one for pair in pairs for one in pair if one is not None]


def cell_of(found: Plan) -> Spec:
    """Return the cell that a plan is timed with."""
    return Spec("gru") if found.gates == 3 else PLAIN


def with_phase(found: Plan) -> Plan | None:
    """Return the plan with h exchanged by its phase, or None where that is impossible."""
    why = "h is exchanged by its phase, without a barrier"
    one = replace(found, phase=True, why=(why, *found.why))
    return one if has_phase(one, cell_of(found)) else None


def fastest(
    plans: list[Plan],
    spills: Callable[[Plan], int],
    microseconds: Callable[[Plan], float],
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Plan, float] | None:
    """Return the fastest of the first FEW plans that do not spill, and its time; None: no such.

    Args:
        spills: registers that a plan's compiled loop moves to memory.
        microseconds: a plan's, timed.
        seconds: after which no other plan is begun, once one was timed.
    """
    began, timed = clock(), []
    for found in plans:
        if len(timed) == FEW or (timed and clock() - began > seconds):
            break
        if spills(found) == 0:
            timed.append((microseconds(found), found))
    if not timed:
        return None
    us, best = min(timed, key=lambda pair: pair[0])
    return best, us


def spills(found: Plan, device: devices.Device) -> int:
    """Return the spills of a plan's time loop."""
    from . import inspect

    report = inspect.inspect_amd if device.gfx else inspect.inspect
    found_in = report(found, device, cell_of(found))
    return found_in["spills"] if device.gfx else found_in["loop"]["spills"]


def microseconds(found: Plan) -> float:
    """Return a step's median time on the current GPU, with this plan for its launches."""
    with launched(found, "cuda") as once:
        return statistics.median(_events(once)) / STEPS


@contextmanager
def launched(found: Plan, device: str) -> Iterator[Callable[[], object]]:
    """Yield a call of the plan's operator on its shape, which launches this plan."""
    import torch

    from ..triton import op
    from ..triton.launch import NAMES

    dtype = next(dtype for dtype, name in NAMES.items() if name == found.dtype)
    H, B, G = found.hidden, found.batch, found.gates
    options: dict[str, Any] = {"dtype": dtype, "device": device}
    x, h0 = torch.zeros(STEPS, B, H, **options), torch.zeros(1, B, H, **options)
    weights = [torch.zeros(G * H, H, **options) for _ in range(2)]
    cell: dict[str, Any] = {"cell": cell_of(found).schema_cell, "rates": []}
    call = x, h0, h0, weights, 0.0, None, "steps"
    forward = found.direction == "forward"
    chosen, op.plan_of = (
        op.plan_of,
        lambda _, direction, *rest, **more: (
            found if direction == found.direction else chosen("steps", direction, *rest, **more)
        ),
    )
    try:
        y, _, _, h, c, gates = op.lstm(*call, True, **cell)

        def once() -> object:
            if forward:
                return op.lstm(*call, True, **cell)
            return op.lstm_backward(y, None, None, *call, y, h, c, gates, False, **cell)

        yield once
    finally:
        op.plan_of = chosen


def _events(once: Callable[[], object]) -> Iterator[float]:
    """Yield the microseconds of some calls, the first of which has compiled already."""
    import torch

    once()
    for _ in range(ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        once()
        end.record()
        torch.cuda.synchronize()
        yield begin.elapsed_time(end) * 1e3


def main(argv: list[str] | None = None) -> int:
    made = argparse.ArgumentParser(prog="python -m fused_lstm.tools.tune", description=__doc__)
    made.add_argument("file", type=Path, help="where the plans are kept")
    made.add_argument("--hidden", type=int, nargs="+", default=[650])
    made.add_argument("--batch", type=int, default=20)
    made.add_argument("--dtype", nargs="+", choices=["fp16", "bf16", "fp32"], default=["bf16"])
    made.add_argument("--gates", type=int, choices=[3, 4], default=4, help="3: a GRU's")
    made.add_argument("--seconds", type=float, default=20.0, help="for each shape [20]")
    args = made.parse_args(argv)
    import torch

    if not torch.cuda.is_available():
        print("fused_lstm.tools.tune: PyTorch finds no GPU to time on", file=sys.stderr)
        return 2
    from ..triton import measure

    device = devices.current(torch.device("cuda", torch.cuda.current_device()))
    constants = measure.measured(device)
    tuned.keep_constants(args.file, device, constants)
    device = replace(device, barrier_us=constants["barrier_us"], l2_rate=constants["l2_rate"])
    for hidden in args.hidden:
        for dtype in args.dtype:
            for direction in ("forward", "backward"):
                shape = {"hidden": hidden, "batch": args.batch, "dtype": dtype}
                plans = candidates(direction, device, gates=args.gates, **shape)
                found = fastest(plans, lambda one: spills(one, device), microseconds, args.seconds)
                if found is not None:
                    tuned.keep(args.file, found[0], device, found[1])
                    print(f"{tuned.key(found[0])}: {found[1]:.2f} us, {found[0].why[0]}")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    sys.exit(main())
