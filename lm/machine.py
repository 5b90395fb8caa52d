"""The machine and the libraries that a figure was measured with."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

import torch


def processor(device: torch.device) -> str:
    """The name of the accelerator that `device` is, or of the CPU."""
    if device.type == "cpu":
        return _cpu_name()
    module = torch.get_device_module(device)
    return module.get_device_name(device) if hasattr(module, "get_device_name") else str(device)


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions() -> dict[str, str | None]:
    """Version of PyTorch and of Triton, None where Triton is not installed."""
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = None
    return {"torch_version": torch.__version__, "triton_version": triton}
