"""A soak: random calls from four threads, while their teams and their cores change.

    python tests/conformance/soak.py --minutes 10

Each call's results and gradients are compared with those of the same call before any other ran.
The memory of the process is printed each minute; it may not grow.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

import torch  # noqa: E402
from calls import give, graded, leaves_of, make, ours  # noqa: E402
from case import Case  # noqa: E402

THREADS = 4
CELLS = {
    "lstm": [{}, {"norm": True}, {"heads": 2}, {"proj": True}, {"peephole": True, "rdrop": 0.4}],
    "gru": [{}, {"norm": True}, {"heads": 2}],
    "rnn_tanh": [{}],
    "slstm": [{}, {"heads": 2}],
    "zoo.lltm": [{}, {"zoneout": (0.3, 0.3)}, {"proj": True}],
    "zoo.mgu": [{}, {"heads": 2}],
}


def cases(draw: random.Random) -> list[Case]:
    """Return sixty calls of all kinds and sizes."""
    found = []
    for n in range(60):
        cell = draw.choice(list(CELLS))
        more = draw.choice(CELLS[cell])
        rows = draw.choice(["plain", "batch_first", "lengths", "unsorted"])
        found.append(Case(
            cell, T=draw.choice([1, 3, 20, 60]), B=draw.choice([1, 3, 20, 40]),
            I=draw.choice([3, 40]), H=draw.choice([8, 48, 128]), layers=draw.choice([1, 2]),
            directions=draw.choice([1, 2, -1]), rows=rows, resets=draw.random() < 0.2,
            mode=draw.choice(["train", "eval", "eval-no_grad"]), seed=n,
            dtype=draw.choice(["float64", "float32"]), **more,
        ))  # fmt: skip
    return [replace(c, T=3) if c.rows in ("lengths", "unsorted") and c.T == 1 else c for c in found]


def results(case: Case, module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a call's results and gradients; masks are drawn from the case's own seed."""
    given, leaves = leaves_of(case, give(case), module)
    with torch.set_grad_enabled(case.differentiated):
        return graded(case, ours(case, module, given), leaves)


def megabytes() -> float:
    """Return the memory that the process has now."""
    with open("/proc/self/statm", encoding="utf-8") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def main() -> int:
    """Run; return 1 where a value was wrong or memory grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    drawing = random.Random(options.seed)
    # A mask depends on a seed of torch's generator, of which the threads have one together.
    told = [c for c in cases(drawing) if not c.draws]
    modules = [make(case) for case in told]
    wanted = [results(c, m) for c, m in zip(told, modules, strict=True)]
    end, wrong, done = time.monotonic() + 60 * options.minutes, [], [0] * THREADS
    cores = sorted(os.sched_getaffinity(0))

    def work(me: int) -> None:
        draw = random.Random(options.seed + me)
        while time.monotonic() < end and not wrong:
            n = draw.randrange(len(told))
            if draw.random() < 0.1:
                torch.set_num_threads(draw.choice([1, 2, 3]))
            if draw.random() < 0.1:
                os.sched_setaffinity(0, draw.choice([cores, cores[:1], cores[-1:]]))
            found = results(told[n], modules[n])
            for name, value in wanted[n].items():
                tolerance = 1e-9 if value.dtype == torch.float64 else 2e-4
                scale = float(value.abs().max().clamp(min=1)) if value.numel() else 1.0
                if not torch.allclose(found[name] / scale, value / scale, tolerance, tolerance):
                    wrong.append(f"{name} of {told[n]}")
            done[me] += 1

    workers = [threading.Thread(target=work, args=(n,)) for n in range(THREADS)]
    for worker in workers:
        worker.start()
    memory: list[float] = []
    while any(worker.is_alive() for worker in workers):
        time.sleep(min(60.0, max(end - time.monotonic(), 0.0)) + 0.1)
        memory.append(megabytes())
        print(f"{sum(done):,} calls, {memory[-1]:,.0f} MB", flush=True)
    for line in wrong:
        print(f"wrong: {line}")
    grew = len(memory) > 3 and memory[-1] > 1.05 * max(memory[:3])
    print(f"{sum(done):,} calls from {THREADS} threads: {len(wrong)} wrong;"
          f" memory {'grew' if grew else 'is flat'}")  # fmt: skip
    return int(bool(wrong) or grew)


if __name__ == "__main__":
    sys.exit(main())
