"""Engine `triton`: this project's kernels on a GPU, and in Triton's interpreter without one."""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Any

import torch

from .. import ops
from . import interpreter

HAS_TRITON = importlib.util.find_spec("triton") is not None


def missing(device: torch.device) -> str | None:
    if not HAS_TRITON:
        return "the package triton is not installed; pip install triton (Linux only)"
    if device.type not in ("cpu", "cuda"):
        return f"its kernels run on CUDA GPUs, not on {device.type!r}; use engine='cudnn'"
    if device.type == "cuda" and torch.version.hip is not None:
        return "its barriers are NVIDIA's machine code, and this is ROCm; use engine='cudnn'"
    if device.type == "cuda" and (why := too_old(torch.cuda.get_device_properties(device))):
        return why
    interpreter.enable()
    if device.type == "cpu" and not interpreter.is_interpreted():
        return (
            "on a CPU its kernels run in Triton's interpreter, which must be chosen before"
            f" triton is imported; start Python with {interpreter.VARIABLE}=1"
        )
    if device.type == "cpu" and (why := interpreter.too_old()) is not None:
        return why
    if device.type == "cuda" and interpreter.is_interpreted():
        return f"Triton's interpreter is on; start Python without {interpreter.VARIABLE}"
    return None


def too_old(properties: Any) -> str | None:
    """Why these kernels do not run on a GPU of before Ampere, or None.

    Triton has no tensor cores there and needs more shared memory than there is, and some of the
    fences and copies that the kernels are made of begin with sm_80.
    """
    arch = properties.major * 10 + properties.minor
    if arch >= 80:
        return None
    return (
        f"its kernels need compute capability 8.0 (Ampere), and {properties.name} has"
        f" {properties.major}.{properties.minor}; use engine='cudnn'"
    )


def describe(device: torch.device) -> str:
    if device.type == "cpu":
        return "Triton kernels in Triton's interpreter on the CPU: verifies, does not race"
    return "Triton kernels, compiled for " + torch.cuda.get_device_name(device)


def load() -> None:
    """Import triton, and register the kernels."""
    from . import operators  # noqa: F401


lstm = partial(ops.run, ops.TRITON)
