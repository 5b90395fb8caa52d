"""Processes in which Triton compiles: one that runs its interpreter, as tests do, cannot."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cache

import cores


def compile_here() -> None:
    """For a new process, before it imports triton."""
    os.environ["TRITON_INTERPRET"] = "0"
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # silences a warning of Triton 3.9
    import torch

    torch.set_num_threads(1)
    # torch.empty gives NaN, as in tests/conftest.py.
    torch.use_deterministic_algorithms(True, warn_only=True)


@cache
def pool() -> ProcessPoolExecutor:
    """One process a core, of a GB each: four at most. What is submitted is a module's function."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(min(4, cores.own()), mp_context=context, initializer=compile_here)


def outcomes(function: Callable, every: Iterable[tuple[Hashable, ...]]) -> Callable:
    """`function` in the pool, each of its outcomes found once.

    Those of `every`, tuples of arguments, are found at once, so that no core waits for a test to
    ask; but not where processes share the tests, since another may be asked for them.
    """

    @cache
    def submit(*arguments):
        return pool().submit(function, *arguments)

    if "PYTEST_XDIST_WORKER" not in os.environ:
        for arguments in every:
            submit(*arguments)
    return lambda *arguments: submit(*arguments).result()
