"""The TensorFlow tutorial's graph compiled by XLA, as the post tried it: one argument differs."""

from __future__ import annotations

import numpy as np

from .tensorflow_cell import Stack, Unrolled
from .tensorflow_program import Program, configure


def build(problem: dict[str, np.ndarray], threads: int) -> Unrolled:
    configure(problem, threads)
    return Unrolled(problem, jit_compile=True)


def build_learner(lesson: dict[str, np.ndarray], threads: int) -> Program:
    configure(lesson, threads)
    return Program(lesson, Stack(lesson), jit_compile=True)
