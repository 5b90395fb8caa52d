"""`python -m bench.peers.worker PEER FOLDER THREADS`: the process of a peer (see remote.py).

Reads FOLDER/work.npz (an LSTM alone, or a lesson to train on), writes FOLDER/answer.npz, says that
it is ready, and then does at least as many calls as a line of its input says, "MODE CALLS SECONDS
PAUSE", and more until so many seconds have passed, with a pause of so many before each, and answers
with the seconds of each.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np


def main(name: str, folder: Path, threads: int) -> None:
    """Serve until the input ends."""
    # A library may print; only answers may reach the other side.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    with np.load(folder / "work.npz") as arrays:
        work = dict(arrays)
    from bench.peers import PEERS

    module = importlib.import_module(f"bench.peers.{PEERS[name].module}")
    begin = time.perf_counter()
    build = module.build_learner if "targets" in work else module.build
    peer = build(work, threads)
    np.savez(folder / "answer.npz", **{k: np.asarray(v) for k, v in peer.answer().items()})
    print(json.dumps({"seconds_to_start": time.perf_counter() - begin}), file=answers)
    for line in sys.stdin:
        mode, calls, seconds, pause = line.split()
        if hasattr(peer, "turn"):  # a contender of bench's own
            taken = peer.turn(mode, int(calls), float(seconds), float(pause))
            print(json.dumps(taken), file=answers)
            continue
        run, taken = getattr(peer, mode), []
        gc.disable()
        end = time.perf_counter() + float(seconds)
        while len(taken) < int(calls) or time.perf_counter() < end:
            if float(pause):
                time.sleep(float(pause))
            begin = time.perf_counter()
            run()
            taken.append(time.perf_counter() - begin)
        print(json.dumps(taken), file=answers)
        gc.enable()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
