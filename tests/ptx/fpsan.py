"""Two plans of one case under Triton's floating-point sanitizer (FpSan), without a tolerance.

FpSan replaces floats by integers and their sums and products by those of integers, in which any
order of a sum gives the same bits. So two plans that compute the same sums, each in its own order,
must agree in all bits of all results. It compares plans, and cannot find a fault that both have.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from triton import knobs
from triton._C import libtriton

from .cases import Case, problem
from .device import Device
from .run import STRICT


def missing() -> str | None:
    """Why there is no FpSan here, or None."""
    if hasattr(libtriton.passes.ttgpuir, "add_fp_sanitizer"):
        return None
    return "this Triton has no FpSan"


def differing(case: Case, paths: tuple[str, str], sanitized: bool) -> dict[str, int]:
    """By the result's name, in how many elements two plans of a case differ."""
    one, other = (_results(replace(case, path=path), sanitized) for path in paths)
    return {name: int((_bits(one[name]) != _bits(other[name])).sum()) for name in one}


def _results(case: Case, sanitized: bool) -> dict[str, Tensor]:
    torch.manual_seed(0)
    compute, _, _ = problem(case)
    with knobs.compilation.scope(), Device(case.arch, 1, replace(STRICT, races=0)):
        knobs.compilation.instrumentation_mode = "fpsan" if sanitized else ""
        return compute()


def _bits(result: Tensor) -> Tensor:
    """Integers, so that what is not a number has an equal too."""
    size = result.element_size()
    return result.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[size])
