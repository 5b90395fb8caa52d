"""Counts of a call, taken outside the timing: launches, bytes, memory.

A launch is an operator that is neither a view nor an allocation; on a GPU a kernel. Bytes are the
operands that launches read and the results that they write: what stays on chip within a launch does
not count, which is what fusion is about. Memory is the most that tensors took above what they took
before, as PyTorch's allocator says, the native engine's beside it; a library's own buffers are not
in it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from fused_lstm import native

from .core import CPU, Run

NO_WORK = ("empty", "new_empty", "resize_", "set_", "detach", "lift_fresh", "is_same_size",
    "_local_scalar_dense")  # fmt: skip


class Traffic(TorchDispatchMode):
    """Counts launches and the bytes that they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.read, self.written = 0, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if works(function):
            self.launches += 1
            self.read += _bytes((args, kwargs))
            self.written += _bytes(result)
        return result


def works(function: Any) -> bool:
    """Return whether an operator does work: it is neither a view nor an allocation."""
    if function._schema.name.partition("::")[2].startswith(NO_WORK):
        return False
    aliases = [r.alias_info for r in function._schema.returns if r.alias_info is not None]
    return not aliases or any(alias.is_write for alias in aliases)


def _bytes(values: object) -> int:
    leaves = torch.utils._pytree.tree_leaves(values)
    tensors = {id(t): t for t in leaves if isinstance(t, Tensor)}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def traffic(work: Run) -> Traffic:
    """Run `work` and return what it launched."""
    with Traffic() as seen:
        work()
    return seen


def count(work: Run, setup: Run | None, device: torch.device) -> dict[str, Any]:
    """Return "launches", "bytes" and "memory" of `work`, which has run before.

    `setup` goes before each run and is not counted. Where torch.compile has made kernels of its
    own, which nobody dispatches, launches and bytes are None.
    """
    prepare = setup or (lambda: None)
    prepare()
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if cuda else 0
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with (
        quiet(),
        _memory_of_torch(),
        profile(activities=activities, profile_memory=not cuda) as recorded,
    ):
        work()
        if cuda:
            torch.cuda.synchronize(device)
    events = recorded.events()
    peak = torch.cuda.max_memory_allocated(device) - before if cuda else _peak(recorded)
    if any(e.name.startswith("Torch-Compiled Region") for e in events):  # it bears no watching
        return {"launches": None, "bytes": None, "memory": peak}
    prepare()
    seen = traffic(work)
    kernels = [e for e in events if e.device_type == DeviceType.CUDA]
    launches = len(kernels) if cuda else seen.launches
    return {"launches": launches, "bytes": seen.read + seen.written, "memory": peak}


@contextlib.contextmanager
def _memory_of_torch() -> Iterator[None]:
    """Have all memory taken of torch, by the native engine too: what that keeps no profile has."""
    keeps = native.missing(CPU) is None
    if keeps:
        native.OPS.keep_memory(False)
    try:
        yield
    finally:
        if keeps:
            native.OPS.keep_memory(True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what the profiler's C++ part writes to this process's output."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        for number, copy in enumerate(kept, start=1):
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)


def _peak(recorded: profile) -> int:
    """Return the bytes that the allocator held at most, above the beginning."""
    held = most = 0
    profiler: Any = recorded.profiler
    memory = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(memory, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
