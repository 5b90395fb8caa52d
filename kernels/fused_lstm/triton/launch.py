"""From a plan to a launch: the constants a kernel is compiled with, and its barrier's counters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import NamedTuple

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


@lru_cache(1024)  # asked for by every launch
def options(plan: Plan) -> dict:
    """All keyword arguments of a launch that follow from the plan."""
    found = constants(plan)
    if not is_interpreted():
        found.update(compile_options(plan), launch_cooperative_grid=plan.persistent)
    return found


class Workspace(NamedTuple):
    """What the programs of some launches share, zeroed on the stream by one fill."""

    exchange: Tensor  # see tiles.py: [*leading, B_PAD, H_PAD]
    counters: Tensor  # int32 [launches, .]: one's barriers, all programs', then each block's


def workspace(plan: Plan, like: Tensor, leading: Sequence[int], launches: int) -> Workspace:
    """A zeroed exchange of `like`'s dtype, and the counters of `launches` launches."""
    shape = (*leading, plan.batch_blocks * plan.block_b, plan.chunks * plan.block_k)
    size, row = prod(shape), -(-(1 + plan.programs // plan.split) // 4) * 4  # a pointer's 16 bytes
    zeros = like.new_zeros(size + launches * row * 4 // like.element_size())
    counters = zeros[size:].view(torch.int32)
    return Workspace(zeros[:size].view(shape), counters.view(launches, row))


def first_rows(exchange: Tensor, lanes: int, B: int, H: int) -> Tensor:
    """Slot 0 of an exchange [., L, 2, B_PAD, H_PAD], without its padding: [L, B, H]."""
    *_, lane, _, row, column = exchange.stride()
    return exchange.as_strided((lanes, B, H), (lane, row, column))
