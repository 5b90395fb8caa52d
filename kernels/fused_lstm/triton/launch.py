"""From a plan to a launch: the constants a kernel is compiled with, and its barrier's counters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache, wraps
from math import prod
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from ..cell import PLAIN, Cell
from .barrier import APART
from .helper import KEEP_LOOP
from .interpreter import is_interpreted
from .philox import scale_of
from .plan import SIZES, Plan

NAMES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
}


def on_their_device(operator: Callable) -> Callable:
    """`operator`, with its tensors' GPU as the current one.

    Triton launches on the current GPU and its stream, whichever the tensors are on.
    """

    @wraps(operator)
    def run(*args, **options):
        device = next(a for a in args if isinstance(a, Tensor)).device
        if device.type == "cpu":
            return operator(*args, **options)
        with torch.cuda.device(device):
            return operator(*args, **options)

    return run


@dataclass(frozen=True, eq=False)  # one object a plan: told apart, and hashed, by identity
class Weight:
    """One of a sweep kernel's weights, and the exchange that it is multiplied by."""

    K: int  # elements of a row, summed over
    STRIDE_ROW: int
    STRIDE_K: int
    RESIDENT: int  # chunks of BLOCK_K that stay on chip
    HOLD: bool
    PAD: int  # elements of a row of the exchange: chunks * BLOCK_K
    TILE: int  # of a block of batch: BLOCK_B rows
    SLOT: int  # and of all of them


@dataclass(frozen=True, eq=False)
class Has:
    """What a cell has in a step beside nn.LSTM's: PLAN.HAS."""

    PEEPHOLE: bool
    CANDIDATE: bool  # a mask on g
    RECURRENT: bool  # a mask on what w_hh is multiplied by
    ZONE_H: int  # zoneout: 0 none, 1 its expectation, 2 drawn
    ZONE_C: int
    NORM: bool  # w_hh's product and c are normalized


@lru_cache(1024)
def has(cell: Cell, draws: bool) -> Has:
    """Of a cell; draws: whether there is a seed, as in training."""
    zone_h, zone_c = ((2 if draws else 1) if p > 0 else 0 for p in cell.zones)
    found = {
        "PEEPHOLE": cell.peephole,
        "CANDIDATE": draws and cell.candidate_dropout > 0,
        "RECURRENT": draws and cell.recurrent_dropout > 0,
        "ZONE_H": zone_h,
        "ZONE_C": zone_c,
        "NORM": cell.layer_norm,
    }
    return Has(**_wrapped(found))


@dataclass(frozen=True, eq=False)
class Constants:
    """A sweep kernel's PLAN: what it is compiled with."""

    LANES: int
    CHAIN: bool  # a lane reads what the lane below it writes
    BOTH: bool  # or: lanes 0 and 1 are a layer's directions
    H: int
    P: int  # elements of h: H where it is not
    PROJECTED: bool
    UNITS: int
    SPLIT: int  # programs that share a block: 4, one a gate, or 1
    OWN: int  # units of a block that one of them finishes
    ROW_GROUPS: int  # of programs, each with rows of batch and a barrier of its own
    BLOCK_B: int
    BATCH_BLOCKS: int  # of BLOCK_B rows that a program takes in turn
    BLOCK_K: int
    W_HH: Weight
    W_IH: Weight
    W_HR: Weight  # where PROJECTED
    AHEAD: int
    STAGES: int
    EARLY: bool  # forward: a step's gates are loaded before the wait for it
    KEEP_LOOP: bool
    PERSISTENT: bool
    ACC: tl.dtype  # the state dtype
    PRECISION: str
    BITS: tl.dtype
    SAVE: bool  # forward: keep what a backward needs
    SUMS: bool  # phases of a step that a launch has, see sweep.py
    GATHERS: bool
    FINISHES: bool
    PROJECTS: bool
    DROPOUT: bool  # between lanes
    ROWS: bool  # rows of batch end early
    KEEP: bool  # states are zeroed before some steps
    HAS: Has
    MEETINGS: int  # of all programs in a wave
    BEFORE: int  # of these, before those of a norm
    PARTS: int  # programs that finish a lane's units
    UP: bool  # forward: what the lane above reads is not what w_hh is fed
    SENT: bool  # backward: w_hh^T . dgates is not sent on as it is


@lru_cache(1024)  # asked for by every launch
def constants(
    plan: Plan,
    save: bool,
    phases: tuple[str, ...],
    dropout: bool,
    rows: bool = False,
    keep: bool = False,
    cell: Cell = PLAIN,
    draws: bool = False,
) -> Constants:
    size, chain = SIZES[plan.dtype], plan.kind == "layers" and plan.layers > 1
    recurrent = draws and cell.recurrent_dropout > 0
    found = {
        "LANES": plan.layers,
        "CHAIN": chain,
        "BOTH": plan.kind == "both",
        "H": plan.hidden,
        "P": plan.outputs,
        "PROJECTED": plan.projected > 0,
        "UNITS": plan.units,
        "SPLIT": plan.split,
        "OWN": plan.own,
        "ROW_GROUPS": plan.row_groups,
        "BLOCK_B": plan.block_b,
        "BATCH_BLOCKS": plan.batch_blocks,
        "BLOCK_K": plan.block_k,
        **_weights(plan),
        "AHEAD": plan.ahead,
        "STAGES": plan.stages,
        "EARLY": plan.persistent and plan.batch_blocks == 1 and not rows,
        "KEEP_LOOP": KEEP_LOOP or _spills(plan) or len(cell.on) > 0,  # masks need registers
        "PERSISTENT": plan.persistent,
        "ACC": tl.float64 if size == 8 else tl.float32,
        "PRECISION": plan.precision,
        "BITS": {2: tl.int16, 4: tl.int32, 8: tl.int64}[size],
        "SAVE": save,
        "SUMS": "sum" in phases,
        "GATHERS": "gather" in phases,
        "FINISHES": "finish" in phases,
        "PROJECTS": "project" in phases,
        "DROPOUT": dropout,
        "ROWS": rows,
        "KEEP": keep,
        "HAS": has(cell, draws),
        "MEETINGS": plan.meetings,
        "BEFORE": int(plan.projected > 0 and plan.direction == "backward"),
        "PARTS": plan.programs // (plan.row_groups * plan.layers),
        "UP": dropout or (recurrent and chain),
        "SENT": keep or recurrent,
    }
    return Constants(**_wrapped(found))


def _weights(plan: Plan) -> dict[str, Weight]:
    """W_HH [4H, P] and W_IH, by their rows forward and by their columns backward; W_HR [P, H]."""
    forward, H, P = plan.direction == "forward", plan.hidden, plan.outputs

    def weight(K: int, columns: int, chunks: int, resident: int, hold: bool) -> Weight:
        pad, strides = chunks * plan.block_k, (columns, 1) if forward else (1, columns)
        tile, slot = plan.block_b * pad, plan.padded_batch * pad
        values = K, *strides, resident, hold, pad, tile, slot
        names = (field.name for field in fields(Weight))
        return Weight(**_wrapped(dict(zip(names, values, strict=True))))

    gates = H if not forward else P, P, plan.chunks
    return _wrapped({
        "W_HH": weight(*gates, plan.resident, plan.hold),
        "W_IH": weight(*gates, plan.resident_ih, plan.hold),
        "W_HR": weight(H if forward else P, H, plan.chunks_hr, plan.resident_hr, plan.hold_hr),
    })  # fmt: skip


def _wrapped(found: dict) -> dict:
    """Compiled code adds and compares constants of its own kind alone."""
    return found if is_interpreted() else {name: tl.constexpr(v) for name, v in found.items()}


def _spills(plan: Plan) -> bool:
    """Whether a time loop needs more registers than there are once all that can is moved out.

    Found by fused_lstm.inspect: a forward of many units (an L4 at H=1500), and, from sm_90 on, a
    backward that streams a part of its weights (an H100 at H=1024 in TF32), or a projected one.
    """
    if plan.direction == "forward":
        return plan.units > 16
    return (plan.stages > 1 or plan.projected > 0) and not plan.hold


@lru_cache(1024)
def rates(p: float, cell: Cell) -> tuple[float, ...]:
    """RATES of added.py; p: of dropout between the sweep's lanes."""
    near = [torch.tensor(z, dtype=torch.float32).item() for z in cell.zones]
    rest = [z - of for z, of in zip(cell.zones, near, strict=True)]
    dropouts = [x for p in (p, cell.candidate_dropout) for x in (p, scale_of(p))]
    return *dropouts, *near, *rest


@lru_cache(1024)
def options(plan: Plan) -> dict:
    """Of the compiler and the launch. num_stages = 1: nothing is prefetched across a barrier."""
    if is_interpreted():
        return {}
    found = {"num_warps": plan.warps, "num_stages": 1, "enable_fp_fusion": True}
    return found | {"launch_cooperative_grid": plan.persistent}


class Workspace(NamedTuple):
    """What the programs of some launches share, zeroed on the stream by one fill."""

    exchange: Tensor  # see product.py: [*leading, B_PAD, PAD]
    between: Tensor | None  # where h is projected: [lanes, B_PAD, PAD]
    counters: Tensor  # int32 [launches, .]: of each row group, all programs', then each block's


def workspace(plan: Plan, like: Tensor, leading: Sequence[int], launches: int) -> Workspace:
    """Zeroed exchanges of `like`'s dtype, and the counters of `launches` launches."""
    shape = (*leading, plan.padded_batch, plan.chunks * plan.block_k)
    between = (launches * plan.layers, plan.padded_batch, plan.chunks_hr * plan.block_k)
    size, whole = prod(shape), prod(shape) + prod(between)
    row = plan.row_groups * (1 + plan.blocks) * APART.value
    zeros = like.new_zeros(whole + launches * row * 4 // like.element_size())
    counters = zeros[whole:].view(torch.int32).view(launches, row)
    found = zeros[size:whole].view(between) if plan.projected else None
    return Workspace(zeros[:size].view(shape), found, counters)


def first_rows(exchange: Tensor, L: int, B: int, P: int, slots: int = 1) -> Tensor:
    """The first slots of an exchange [., L, 2, B_PAD, PAD], without its padding: [., L, B, P]."""
    _, lane, slot, row, column = exchange.stride()
    return exchange.as_strided((slots, L, B, P), (slot, lane, row, column))
