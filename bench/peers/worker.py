"""`python -m bench.peers.worker PEER FOLDER THREADS`: the process of a peer (see remote.py).

Reads FOLDER/work.npz (an LSTM alone, or a lesson to train on), writes FOLDER/answer.npz, says that
it is ready, and then does a round for every line of its input and answers with the seconds that it
took.
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
        run = getattr(peer, line.strip())
        gc.disable()
        begin = time.perf_counter()
        run()
        print(time.perf_counter() - begin, file=answers)
        gc.enable()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
