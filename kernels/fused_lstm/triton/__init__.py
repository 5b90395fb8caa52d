"""Engine `triton`: this project's kernels on a GPU, and in Triton's interpreter without one."""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Any

import torch

from ..call.spec import Spec
from ..operator import autograd, ops
from . import interpreter
from .devices import AMD, gfx_of

HAS_TRITON = importlib.util.find_spec("triton") is not None


def missing(device: torch.device) -> str | None:
    if not HAS_TRITON:
        return "the package triton is not installed; pip install 'triton>=3.6' (Linux only)"
    if device.type not in ("cpu", "cuda"):
        return f"its kernels run on CUDA GPUs, not on {device.type!r}; use engine='cudnn'"
    if device.type == "cuda" and not torch.cuda.is_available():
        return "PyTorch finds no CUDA GPU on this machine; device 'cpu' has the interpreter"
    if (
        device.type == "cuda"
        and (why := unfit(torch.cuda.get_device_properties(device))) is not None
    ):
        return why
    interpreter.enable()
    if (why := outdated()) is not None:
        return why
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


def outdated() -> str | None:
    """Return which library is too old for these kernels, or None."""
    import triton

    for module, oldest in ((torch, (2, 11)), (triton, (3, 6))):
        if interpreter.version(module) < oldest:
            at_least = ".".join(map(str, oldest))
            return (
                f"its kernels need {module.__name__} {at_least}, and {module.__version__} is"
                f" installed; pip install '{module.__name__}>={at_least}'"
            )
    return None


def unfit(properties: Any) -> str | None:
    """Return why these kernels do not run on a GPU, or None where they run.

    They run from Ampere on, and on the GPUs of AMD's that devices.AMD describes. On an older GPU
    Triton has no tensor cores and needs more shared memory than there is. Some fences and copies of
    the kernels begin with sm_80.
    """
    if gfx := gfx_of(properties):
        known = sorted(card.gfx for card in AMD.values())
        if gfx in known:
            return None
        return (
            f"on ROCm its kernels are compiled for {', '.join(known)}, not for {gfx};"
            " use engine='cudnn'"
        )
    arch = properties.major * 10 + properties.minor
    if arch >= 80:
        return None
    return (
        f"its kernels need compute capability 8.0 (Ampere), and {properties.name} has"
        f" {properties.major}.{properties.minor}; use engine='cudnn'"
    )


def is_too_wide(spec: Spec, device: torch.device, widest: int) -> bool:
    """Return whether a GPU holds too few programs to normalize the rows of a layer at once.

    widest: the larger of H and P.
    """
    from . import launch, op, plan

    gates = launch.kernel_cell(spec).by_h
    return not plan.runs_at_once(widest, gates, spec.directions, op.card_of(device))


def why_hoisted(
    D: int, device: torch.device, dtype: torch.dtype, L: int, B: int, H: int
) -> str | None:
    """Return why a plain LSTM's steps are faster at "hoisted" on a GPU, or None.

    L: lanes, of D directions each layer. A shape with a timed plan stays at "steps". So does
    float32 where torch's products have another precision than an LSTM's: those of "hoisted" are
    torch's own.
    """
    from . import choice, op, precision, tuned

    if B < choice.MANY_ROWS or H < choice.MANY_UNITS or missing(device) is not None:
        return None
    tf32 = dtype == torch.float32 and precision.tf32()
    if dtype == torch.float32 and precision.matmul_tf32() != tf32:
        return None
    shape = op.Shape(L=L, D=D, B=B, H=H, projected=0, P=H)
    plans = [
        op.plan_of("layers", direction, dtype, device, shape, norm=0, gates=4, tf32=tf32)
        for direction in ("forward", "backward")
    ]
    if any(tuned.is_timed(plan) for plan in plans):
        return None
    return choice.why_hoisted(plans, op.card_of(device))


def describe(device: torch.device) -> str:
    if device.type == "cpu":
        return "Triton kernels in Triton's interpreter on the CPU: verifies, does not race"
    return "Triton kernels, compiled for " + torch.cuda.get_device_name(device)


def load() -> None:
    """Import triton, and register the kernels."""
    from . import operators  # noqa: F401


run = partial(autograd.run, ops.TRITON)
