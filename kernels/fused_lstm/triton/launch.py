"""From a plan to a launch: the constants a kernel is compiled with, and its barrier's counters."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from .interpreter import is_interpreted
from .plan import SIZES, Plan

NAMES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
}


def constants(plan: Plan) -> dict:
    """The constexpr arguments that all steps and layers kernels have."""
    size = SIZES[plan.dtype]
    return {
        "H": plan.hidden,
        "H_PAD": plan.chunks * plan.block_k,
        "UNITS": plan.units,
        "BLOCK_B": plan.block_b,
        "BATCH_BLOCKS": plan.batch_blocks,
        "BLOCK_K": plan.block_k,
        "RESIDENT": plan.resident,
        "AHEAD": plan.ahead,
        "STAGES": plan.stages,
        "HOLD": plan.hold,
        "PERSISTENT": plan.persistent,
        "ACC": tl.float64 if size == 8 else tl.float32,
        "PRECISION": plan.precision,
        "BITS": {2: tl.int16, 4: tl.int32, 8: tl.int64}[size],
    }


def compile_options(plan: Plan) -> dict:
    """Options of the compiler. num_stages = 1: nothing may be prefetched across a barrier."""
    return {"num_warps": plan.warps, "num_stages": 1, "enable_fp_fusion": True}


def options(plan: Plan) -> dict:
    """All keyword arguments of a launch that follow from the plan."""
    found = constants(plan)
    if not is_interpreted():
        found.update(compile_options(plan), launch_cooperative_grid=plan.persistent)
    return found


def counters(plan: Plan, device: torch.device) -> Tensor:
    """One launch's barriers, zeroed on its stream: all programs', then each block's."""
    return torch.zeros(1 + plan.programs // plan.split, dtype=torch.int32, device=device)


def exchange(plan: Plan, like: Tensor, *leading: int) -> Tensor:
    """A zeroed exchange (see tiles.py) of `like`'s dtype: [2, *leading, B_PAD, H_PAD]."""
    rows, columns = plan.batch_blocks * plan.block_b, plan.chunks * plan.block_k
    return like.new_zeros(2, *leading, rows, columns)
