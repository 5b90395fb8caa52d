"""The machine that a figure was measured on: its name, its libraries, what it can do at best."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from fused_lstm import available_engines, describe_engine
from lm.device import processor, version

from .timing import Run, timed

# Those that may be timed, where they are installed.
LIBRARIES = ("torch", "triton", "numpy", "tensorflow", "keras", "jax", "flashrnn", "torchrl")


def describe(device: torch.device) -> dict[str, Any]:
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
        "libraries": {name: found for name in LIBRARIES if (found := version(name)) is not None},
        "engines": {
            name: why or describe_engine(name, device)
            for name, why in available_engines(device).items()
        },
    }


def in_a_line(described: dict[str, Any]) -> str:
    """What `describe` found, in words: the processor, its threads and the main libraries."""
    names = ("torch", "triton", "tensorflow", "jax")
    libraries = [f"{n} {v}" for n, v in described["libraries"].items() if n in names]
    many = "s" * (described["threads"] != 1)
    threads = f"{described['threads']} thread{many} on {described['cores']} cores"
    return ", ".join([str(described["processor"]), threads, *libraries])


class Peaks:
    """The best that was seen so far: `measure` is called all through a run, for a machine may be
    slower at one moment than at another."""

    def __init__(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.device, self.dtype = device, dtype
        self.gflops = 0.0  # of large products, torch.mm's or oneDNN's
        self.gigabytes = 0.0  # a second, read and written, of copying more than any cache holds

    def measure(self) -> None:
        """Takes some tenths of a second."""
        cpu = self.device.type == "cpu"
        products = map(self._best_product, (1024, 1536) if cpu else (4096, 8192))
        self.gflops = max(self.gflops, *products)
        size = 2**27 if cpu else 2**30
        source = torch.zeros(size, dtype=torch.int8, device=self.device)
        target = torch.zeros_like(source)
        seconds = self._shortest(lambda: target.copy_(source))
        self.gigabytes = max(self.gigabytes, 2 * size / seconds / 1e9)

    def _best_product(self, size: int) -> float:
        a, b = (torch.randn(size, size, device=self.device).to(self.dtype) for _ in range(2))
        out = torch.empty_like(a)
        seconds = [self._shortest(lambda: torch.mm(a, b, out=out))]
        plain = self.device.type == "cpu" and self.dtype == torch.float32
        if plain and torch.backends.mkldnn.is_available():
            seconds.append(self._shortest(_onednn_product(a, b)))
        return 2 * size**3 / min(seconds) / 1e9

    def _shortest(self, work: Run) -> float:
        once = timed(work, self.device)
        once()
        return min(once() for _ in range(4))


def _onednn_product(a: torch.Tensor, b: torch.Tensor) -> Run:
    """a b' with b packed beforehand, as torch.compile freezes it: on a CPU where torch.mm is a
    library that knows no AVX-512, this is more than twice as fast."""
    ops = torch.ops.mkldnn
    packed = ops._reorder_linear_weight(b, len(a))
    return lambda: ops._linear_pointwise(a, packed, None, "none", [], "")


def _memory_gib(device: torch.device) -> float | None:
    if device.type == "cuda":
        return round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1)
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    return round(pages * size / 2**30, 1)
