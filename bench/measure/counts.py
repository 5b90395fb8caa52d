"""What a run consists of, counted outside the timing: launches, bytes, memory, and kinds of work.

A launch is counted by torch.profiler: on a GPU a kernel, on a CPU the dispatch of an operator that
is neither a view nor an allocation, nor only a name for others. Overhead is what the same run took
beyond its launches: Python, autograd, the dispatcher (and some of the profiler's own). Bytes are
the operands that launches read and the results that they write: what stays on chip within a
launch does not count, which is what fusion is about. Memory is the most that tensors took above
what they took before, as PyTorch's allocator says, and the native engine's beside it; a library's
own buffers, such as MKL's and oneDNN's, are not in it.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode

from fused_lstm import native

KINDS = ("products", "pointwise", "fused", "copies", "overhead")
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mkl_linear", "mkldnn_linear_pointwise"}
COPIES = {"cat", "copy_", "fill_", "zero_", "index_select", "clone", "slice_backward"}
WHOLE = ("lstm", "rnn_layer", "_cudnn_rnn")  # products and pointwise work in one operator
ALLOCATIONS = ("empty", "new_empty", "resize_", "set_")
NO_WORK = ("detach", "lift_fresh", "is_same_size", "item", "_local_scalar_dense")


@dataclass
class Counts:
    """Of one run of the work."""

    launches: int = 0
    bytes: int | None = None  # None where a compiler ran kernels of its own
    peak_memory: int | None = None  # bytes
    seconds: dict[str, float] = field(default_factory=dict)  # by kind


def count(
    work: Callable[[], object], device: torch.device, setup: Callable[[], object] | None = None
) -> Counts:
    """Run `work`, which has run before, under the profiler, and again to see its operands.

    `setup` goes before each run and is not counted.
    """

    def prepare() -> None:
        if setup is not None:
            setup()

    profiles, begin = [], time.perf_counter()
    while len(profiles) < 3 and time.perf_counter() - begin < 1:
        prepare()
        profiles.append(_profiled(work, device))
    found, compiled = profiles[-1]
    for name in found.seconds:
        found.seconds[name] = statistics.median(p.seconds[name] for p, _ in profiles)
    # A compiler's own kernels are not dispatched; and its graph, watched once, never runs again.
    if not compiled:
        prepare()
        operands = _Operands()
        with operands:
            work()
        found.bytes = operands.bytes
    return found


def _profiled(work: Callable[[], object], device: torch.device) -> tuple[Counts, bool]:
    """What the profiler saw of one run, and whether torch.compile had a part in it."""
    cuda, whole = device.type == "cuda", "counted run"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if cuda else 0
    recorded = profile(activities=activities, profile_memory=not cuda)
    with _quiet(), _of_torch(), recorded as prof, record_function(whole):
        work()
        if cuda:
            torch.cuda.synchronize(device)
    events = prof.events()
    kernels = [e for e in events if e.device_type == DeviceType.CUDA]
    counted = kernels if cuda else _operators(events)
    launches = [(e.name, e.time_range.elapsed_us()) for e in counted]
    seconds = dict.fromkeys(KINDS[:-1], 0.0)
    for name, microseconds in launches:
        seconds[kind(name)] += microseconds / 1e6
    took = next(e.cpu_time_total for e in events if e.name == whole) / 1e6
    seconds["overhead"] = max(took - sum(seconds.values()), 0.0)
    peak = torch.cuda.max_memory_allocated(device) - before if cuda else _peak(prof)
    compiled = any(e.name.startswith("Torch-Compiled Region") for e in events)
    return Counts(len(launches), None, peak, seconds), compiled


@contextlib.contextmanager
def _of_torch() -> Iterator[None]:
    """With all memory taken of torch, also by the native engine: what that keeps no profile has."""
    keeps = native.missing(torch.device("cpu")) is None
    if keeps:
        native.OPS.keep_memory(False)
    try:
        yield
    finally:
        if keeps:
            native.OPS.keep_memory(True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the profiler's C++ part writes to this process's output."""
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
    """The outermost operators that do work, down from autograd's and composite ones."""
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
    """Bytes that the allocator held at most, above the beginning."""
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
    found = [] if packet is None else [getattr(packet, o) for o in packet.overloads()]
    return [op for op in found if torch._C._dispatch_has_kernel(op.name())]


@cache
def _composite(name: str) -> bool:
    """Whether an operator is only a name for others, which are dispatched in their turn."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return any(op.has_kernel_for_dispatch_key(key) for op in _overloads(name))


@cache
def _works(name: str) -> bool:
    """Whether an operator does work: it is neither a view nor an allocation."""
    short = name.partition("::")[2]
    if short.startswith(ALLOCATIONS) or short in NO_WORK:
        return False
    for op in _overloads(name):
        aliases = [r.alias_info for r in op._schema.returns]
        if aliases and all(a is not None and not a.is_write for a in aliases):
            return False
    return True


def kind(name: str) -> str:
    """products, pointwise, fused (both in one launch) or copies, of an operator's full name."""
    short = name.rpartition("::")[2]
    if any(word in short for word in WHOLE):
        return "fused"
    if short in PRODUCTS or "gemm" in short or "gemv" in short:
        return "products"
    if short in COPIES or "Memcpy" in name or "Memset" in name:
        return "copies"
    return "pointwise"


def shares(seconds: dict[str, float]) -> dict[str, float]:
    """Parts of a run by kind, adding up to 1."""
    whole = max(sum(seconds.values()), 1e-12)
    return {name: part / whole for name, part in seconds.items()}
