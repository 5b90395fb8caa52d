"""What a call consists of, counted outside the timing: launches, bytes, memory.

A launch is counted by torch.profiler: on a GPU a kernel, on a CPU the dispatch of an operator that
is neither a view nor an allocation, nor only a name for others. Bytes are the operands that
launches read and the results that they write: what stays on chip within a launch does not count,
which is what fusion is about. Memory is the most that tensors took above what they took before, as
PyTorch's allocator says, the native engine's beside it; a library's own buffers are not in it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from fused_lstm import native

ALLOCATIONS = ("empty", "new_empty", "resize_", "set_")
NO_WORK = ("detach", "lift_fresh", "is_same_size", "item", "_local_scalar_dense")
CPU = torch.device("cpu")


def count(
    work: Callable[[], object], device: torch.device, setup: Callable[[], object] | None = None
) -> dict[str, Any]:
    """Run `work`, which has run before, under the profiler, and again to see its operands.

    Returns "launches"; "bytes", None where a compiler ran kernels of its own; and "memory", bytes
    at the peak. `setup` goes before each run and is not counted.
    """
    prepare = setup or (lambda: None)
    prepare()
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if cuda else 0
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    recorded = profile(activities=activities, profile_memory=not cuda)
    with _quiet(), _memory_of_torch(), recorded as prof:
        work()
        if cuda:
            torch.cuda.synchronize(device)
    events = prof.events()
    kernels = [e for e in events if e.device_type == DeviceType.CUDA]
    launches = kernels if cuda else list(_operators(events))
    peak = torch.cuda.max_memory_allocated(device) - before if cuda else _peak(prof)
    counts: dict[str, Any] = {"launches": len(launches), "memory": peak, "bytes": None}
    # A compiler's own kernels are not dispatched; and its graph, watched once, never runs again.
    if not any(e.name.startswith("Torch-Compiled Region") for e in events):
        prepare()
        operands = _Operands()
        with operands:
            work()
        counts["bytes"] = operands.bytes
    return counts


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
def _quiet() -> Iterator[None]:
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


def _operators(events: Iterable) -> Iterator:
    """Yield the outermost operators that do work, down from autograd's and composite ones."""
    stack = [e for e in events if e.cpu_parent is None and e.device_type == DeviceType.CPU]
    while stack:
        event = stack.pop()
        namespace, _, rest = event.name.partition("::")
        is_operator = rest and " " not in event.name and namespace != "autograd"
        if not is_operator or _composite(event.name):
            stack += event.cpu_children
        elif _works(event.name):
            yield event


def _peak(prof: profile) -> int:
    """Return the bytes that the allocator held at most, above the beginning."""
    held = most = 0
    recorded: Any = prof.profiler
    memory = [e for e in recorded.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(memory, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


class _Operands(TorchDispatchMode):
    """Adds up what every launch reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if _works(func._schema.name):
            leaves = torch.utils._pytree.tree_leaves([args, kwargs or {}, result])
            tensors = {id(t): t for t in leaves if isinstance(t, Tensor)}
            self.bytes += sum(t.numel() * t.element_size() for t in tensors.values())
        return result


def _overloads(name: str) -> list:
    namespace, _, short = name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), short, None)
    overloads = [] if packet is None else [getattr(packet, o) for o in packet.overloads()]
    return [op for op in overloads if torch._C._dispatch_has_kernel(op.name())]


@cache
def _composite(name: str) -> bool:
    """Return whether an operator is only a name for others, dispatched in their turn."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return any(op.has_kernel_for_dispatch_key(key) for op in _overloads(name))


@cache
def _works(name: str) -> bool:
    """Return whether an operator does work: it is neither a view nor an allocation."""
    short = name.partition("::")[2]
    if short.startswith(ALLOCATIONS) or short in NO_WORK:
        return False
    for op in _overloads(name):
        aliases = [r.alias_info for r in op._schema.returns]
        if aliases and all(a is not None and not a.is_write for a in aliases):
            return False
    return True
