"""A card's own measurements, in a process of their own: the first launches that a GPU sees.

`python -m bench.gpu.card`. A barrier that hangs is killed with this process, and named.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import replace
from typing import Any

import torch

from .watching import HUNG, say, stop_if_broken, watch

SILENCE = 30.0  # seconds: an import, a compilation, and what POLLS of suite.py take
LAST = "a step's meeting"  # what is measured last
STEPS = {"small": 200, "medium": 650}  # H of the steps whose meeting is timed
FORMS = {"barrier": False, "phase": True}  # how h is exchanged
TURNS = 3


def measured(deadline: float) -> dict[str, float] | str:
    """Return what `fused_lstm.triton.measure` finds on the card, or one line about why not.

    Microseconds of a barrier, of its parts and of steps, and L2's rate.
    """
    found: dict[str, float] = {}

    def take(event: dict) -> None:
        if event["event"] == "measured":
            found.update(event["found"])

    end = watch([sys.executable, "-m", "bench.gpu.card"], take, deadline, SILENCE)
    if end.who in (None, LAST):  # where that one fails a test of its own says so
        return found
    return f"{end.who} {HUNG}" if end.why == HUNG else end.why


def main() -> None:
    """Measure the card; say what was found."""
    from fused_lstm.triton import measure
    from fused_lstm.triton.devices import current

    device = torch.device("cuda")
    say("the grid barrier", "starts")
    found = measure.measured(current(device))
    stop_if_broken("the grid barrier", device)
    say("card", "measured", found=found)
    say("the grid barrier's parts", "starts")
    found = measure.parts(current(device))
    stop_if_broken("the grid barrier's parts", device)
    say("card", "measured", found=found)
    say(LAST, "starts")
    found = steps(current(device))
    stop_if_broken(LAST, device)
    say("card", "measured", found=found)


def steps(device: Any) -> dict[str, float]:
    """Return {"SIZE_FORM_step_us": of a forward step in bfloat16, batch 20}, of STEPS and FORMS.

    Both forms are timed in turns: they differ in how programs exchange h.
    """
    from fused_lstm.tools import tune
    from fused_lstm.triton.choice import choose

    found: dict[str, float] = {}
    for size, hidden in STEPS.items():
        plan = choose("forward", hidden=hidden, batch=20, layers=1, dtype="bf16", device=device)
        if tune.with_phase(plan) is None:
            continue
        times: dict[str, list[float]] = {form: [] for form in FORMS}
        for _ in range(TURNS):
            for form, phase in FORMS.items():
                times[form].append(tune.microseconds(replace(plan, phase=phase)))
        found |= {f"{size}_{form}_step_us": statistics.median(us) for form, us in times.items()}
    return found


if __name__ == "__main__":
    main()
