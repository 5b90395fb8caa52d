"""From a plan to a launch: the constants a kernel is compiled with, and its barrier's counters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from .barrier import APART
from .helper import KEEP_LOOP
from .interpreter import is_interpreted
from .plan import SIZES, Plan

NAMES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
}


@dataclass(frozen=True, eq=False)  # one object a plan: told apart, and hashed, by identity
class Constants:
    """A sweep kernel's PLAN: what it is compiled with."""

    LANES: int
    CHAIN: bool  # a lane reads what the lane below it writes
    BOTH: bool  # or: lanes 0 and 1 are a layer's directions
    H: int
    H_PAD: int  # chunks * BLOCK_K
    UNITS: int
    SPLIT: int  # programs that share a block: 4, one a gate, or 1
    OWN: int  # units of a block that one of them finishes
    ROW_GROUPS: int  # of programs, each with rows of batch and a barrier of its own
    BLOCK_B: int
    BATCH_BLOCKS: int  # of BLOCK_B rows that a program takes in turn
    TILE: int  # elements of an exchange for a block of batch: BLOCK_B * H_PAD
    SLOT: int  # and for all of them
    BLOCK_K: int
    RESIDENT: int  # chunks of w_hh that stay on chip
    RESIDENT_IH: int  # and of w_ih
    AHEAD: int
    STAGES: int
    HOLD: bool
    EARLY: bool  # forward: a step's gates are loaded before the wait for it
    KEEP_LOOP: bool
    PERSISTENT: bool
    ACC: tl.dtype  # the state dtype
    PRECISION: str
    BITS: tl.dtype
    SAVE: bool  # forward: keep what a backward needs
    PHASE: int  # backward: 0 sums, 1 finishes, 2 does both
    DROPOUT: bool  # between lanes
    ROWS: bool  # rows of batch end early
    KEEP: bool  # states are zeroed before some steps


@lru_cache(1024)  # asked for by every launch
def constants(
    plan: Plan, save: bool, phase: int, dropout: bool, rows: bool = False, keep: bool = False
) -> Constants:
    size, h_pad = SIZES[plan.dtype], plan.chunks * plan.block_k
    found = {
        "LANES": plan.layers,
        "CHAIN": plan.kind == "layers" and plan.layers > 1,
        "BOTH": plan.kind == "both",
        "H": plan.hidden,
        "H_PAD": h_pad,
        "UNITS": plan.units,
        "SPLIT": plan.split,
        "OWN": plan.units // plan.split,
        "ROW_GROUPS": plan.row_groups,
        "BLOCK_B": plan.block_b,
        "BATCH_BLOCKS": plan.batch_blocks,
        "TILE": plan.block_b * h_pad,
        "SLOT": plan.padded_batch * h_pad,
        "BLOCK_K": plan.block_k,
        "RESIDENT": plan.resident,
        "RESIDENT_IH": plan.resident_ih,
        "AHEAD": plan.ahead,
        "STAGES": plan.stages,
        "HOLD": plan.hold,
        "EARLY": plan.persistent and plan.batch_blocks == 1 and not rows,
        "KEEP_LOOP": KEEP_LOOP or _spills(plan),
        "PERSISTENT": plan.persistent,
        "ACC": tl.float64 if size == 8 else tl.float32,
        "PRECISION": plan.precision,
        "BITS": {2: tl.int16, 4: tl.int32, 8: tl.int64}[size],
        "SAVE": save,
        "PHASE": phase,
        "DROPOUT": dropout,
        "ROWS": rows,
        "KEEP": keep,
    }
    # Compiled code adds and compares constants of its own kind alone.
    wrap = (lambda value: value) if is_interpreted() else tl.constexpr
    return Constants(**{name: wrap(value) for name, value in found.items()})


def _spills(plan: Plan) -> bool:
    """Whether a time loop needs more registers than there are once all that can is moved out.

    Found by fused_lstm.inspect: a forward of many units (an L4 at H=1500), and, from sm_90 on, a
    backward that streams a part of its weights (an H100 at H=1024 in TF32).
    """
    if plan.direction == "forward":
        return plan.units > 16
    return plan.stages > 1 and not plan.hold


@lru_cache(1024)
def options(plan: Plan) -> dict:
    """Of the compiler and the launch. num_stages = 1: nothing is prefetched across a barrier."""
    if is_interpreted():
        return {}
    found = {"num_warps": plan.warps, "num_stages": 1, "enable_fp_fusion": True}
    return found | {"launch_cooperative_grid": plan.persistent}


class Workspace(NamedTuple):
    """What the programs of some launches share, zeroed on the stream by one fill."""

    exchange: Tensor  # see product.py: [*leading, B_PAD, H_PAD]
    counters: Tensor  # int32 [launches, .]: of each row group, all programs', then each block's


def workspace(plan: Plan, like: Tensor, leading: Sequence[int], launches: int) -> Workspace:
    """A zeroed exchange of `like`'s dtype, and the counters of `launches` launches."""
    shape = (*leading, plan.padded_batch, plan.chunks * plan.block_k)
    size, row = prod(shape), plan.row_groups * (1 + plan.blocks) * APART.value
    zeros = like.new_zeros(size + launches * row * 4 // like.element_size())
    counters = zeros[size:].view(torch.int32)
    return Workspace(zeros[:size].view(shape), counters.view(launches, row))


def first_rows(exchange: Tensor, L: int, B: int, H: int, slots: int = 1) -> Tensor:
    """The first slots of an exchange [., L, 2, B_PAD, H_PAD], without its padding: [., L, B, H]."""
    _, lane, slot, row, column = exchange.stride()
    return exchange.as_strided((slots, L, B, H), (slot, lane, row, column))
