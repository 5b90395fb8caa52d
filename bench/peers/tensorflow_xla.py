"""The TensorFlow tutorial's graph compiled by XLA, as the post tried it: one argument differs."""

from __future__ import annotations

import numpy as np

from .tensorflow_cell import Unrolled, limit_threads


def build(problem: dict[str, np.ndarray], threads: int) -> Unrolled:
    limit_threads(threads)
    return Unrolled(problem, jit_compile=True)
