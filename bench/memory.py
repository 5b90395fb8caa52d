"""`python -m bench.memory`: peak memory of a training step and of inference, nn.LSTM's and ours.

Each runs in a new process, whose greatest resident size less the size before the first call is
printed: outputs, what a backward needs, gradients, and what an engine keeps.
"""

from __future__ import annotations

import resource
import subprocess
import sys

import torch

from . import tables
from .cases import CASES
from .contenders import BASE, NN_LSTM, OURS, Contender
from .layers import local, make_problem

PRESETS = ("small", "medium", "large")
CALLS = 3


def megabytes() -> float:
    """Return this process's greatest resident size so far, in MB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6


def grown(case: str, label: str, mode: str) -> float:
    """Return by how many MB a few calls of a mode let this process grow."""
    problem = make_problem(CASES[case])
    contender = NN_LSTM if label == BASE else Contender(OURS, "native", "layers")
    call = local(contender, problem).modes[mode]
    before = megabytes()
    for _ in range(CALLS):
        call()
    return megabytes() - before


def asked(case: str, label: str, mode: str) -> float:
    """Return `grown` of a new process."""
    words = [sys.executable, "-m", "bench.memory", case, label, mode]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Print a table; with the words of a case, a label and a mode, the megabytes of that."""
    if sys.argv[1:]:
        torch.set_num_threads(2)
        print(grown(*sys.argv[1:]))
        return
    rows = [
        [case, *(f"{asked(case, label, mode):,.0f}" for mode in ("step", "inference")
            for label in (BASE, OURS))]
        for case in PRESETS
    ]  # fmt: skip
    head = ("MB", "training step: nn.LSTM", "ours", "inference: nn.LSTM", "ours")
    print(tables.markdown(head, rows))


if __name__ == "__main__":
    main()
