"""A card's own measurements, in a process of their own: the first launches that a GPU sees.

`python -m bench.gpu.card`. A barrier that hangs is killed with this process, and named.
"""

from __future__ import annotations

import sys

import torch

from .watching import HUNG, say, stop_if_broken, watch

SILENCE = 30.0  # seconds: an import, a compilation, and what POLLS of suite.py take


def measured(deadline: float) -> dict[str, float] | str:
    """Return what `fused_lstm.triton.measure` finds on the card, or one line about why not.

    Microseconds of a barrier and of its parts, and L2's rate.
    """
    found: dict[str, float] = {}

    def take(event: dict) -> None:
        if event["event"] == "measured":
            found.update(event["found"])

    end = watch([sys.executable, "-m", "bench.gpu.card"], take, deadline, SILENCE)
    if end.who is None:
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


if __name__ == "__main__":
    main()
