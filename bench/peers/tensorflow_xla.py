"""The TensorFlow tutorial's graph compiled by XLA, as the post tried it: one argument differs."""

from __future__ import annotations

import numpy as np

from .tensorflow_cell import Unrolled, configure


def build(problem: dict[str, np.ndarray], threads: int) -> Unrolled:
    configure(problem, threads)
    return Unrolled(problem, jit_compile=True)
