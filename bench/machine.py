"""The machine that a figure was measured on: its name, its libraries, what it can do at best."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from functools import cache

import torch

from kernels import available_engines, describe_engine
from lm.machine import processor

from .timing import quartiles, timed

LIBRARIES = ("torch", "triton", "numpy", "tensorflow", "keras", "jax", "flashrnn", "torchrl")


def describe(device: torch.device) -> dict[str, object]:
    """Name, cores, threads, memory, libraries and engines, for a result file's `machine_info`."""
    return {
        "device": str(device),
        "processor": processor(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(device),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "libraries": versions(),
        "engines": {
            name: why or describe_engine(name, device)
            for name, why in available_engines(device).items()
        },
    }


def versions() -> dict[str, str]:
    """Version of each library that is installed and may be timed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def in_a_line(described: dict[str, object]) -> str:
    """What `describe` found, in words: the processor, its threads and the main libraries."""
    names = ("torch", "triton", "tensorflow", "jax")
    libraries = [f"{n} {v}" for n, v in described["libraries"].items() if n in names]
    threads = f"{described['threads']} threads on {described['cores']} cores"
    return ", ".join([str(described["processor"]), threads, *libraries])


@cache
def product_peak(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """GF/s of the best large matrix product that torch.mm does here: the roof of the roofline."""
    sizes = (1024, 1536, 2048) if device.type == "cpu" else (4096, 8192)
    best = 0.0
    for size in sizes:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        once = timed(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device)
        once()
        best = max(best, 2 * size**3 / min(once() for _ in range(8)) / 1e9)
    return best


@cache
def copy_bandwidth(device: torch.device) -> float:
    """GB/s, read and written bytes together, of copying memory larger than any cache."""
    size = 2**28 if device.type == "cpu" else 2**30
    source = torch.zeros(size, dtype=torch.int8, device=device)
    target = torch.zeros_like(source)
    once = timed(lambda: target.copy_(source), device)
    once()
    return 2 * size / quartiles([once() for _ in range(7)]).q1 / 1e9


def _memory_gib(device: torch.device) -> float | None:
    if device.type == "cuda":
        return round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1)
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    return round(pages * size / 2**30, 1)
