"""Plans that make small shapes take every path of the steps and layers kernels."""

from __future__ import annotations

from dataclasses import replace

import torch

from fused_lstm.triton.devices import INTERPRETER, Device
from fused_lstm.triton.launch import NAMES
from fused_lstm.triton.plan import Plan, alone_on, plan

# name -> what differs from the interpreter's own plan: few large programs, nothing resident.
PATHS = {
    "own": {},
    "many programs and chunks": {"units": 16, "block_k": 16},
    "resident": {"units": 16, "block_k": 32, "resident": 9, "ahead": 2, "hold": True},
    "partly resident": {"units": 16, "block_k": 16, "resident": 1, "resident_ih": 1, "ahead": 3},
    "blocks of batch": {"block_b": 16, "units": 64},
    "groups of rows": {"block_b": 16, "units": 64, "row_groups": 2},
    "sums in 8 parts": {"units": 16, "block_k": 128, "k_parts": 8, "resident": 9, "ahead": 1},
    "sums in 4 parts": {"units": 16, "block_k": 64, "k_parts": 4, "resident": 1, "resident_ih": 1},
}
ALONE = {"alone": 16}  # a lane's program keeps all on chip, and has 16 rows of batch
PATHS_BACKWARD = PATHS | {
    "parts of the gates": {"units": 64, "split": 4, "block_k": 32},
    "resident parts": {"units": 64, "split": 4, "block_k": 32, "resident": 9, "ahead": 1},
}


def make_plan(
    kind: str,
    direction: str,
    H: int,
    B: int,
    L: int,
    dtype: torch.dtype,
    path: dict,
    device: Device = INTERPRETER,
    tf32: bool = False,
    projected: int = 0,
    norm: bool = False,
    gates: int = 4,
    inner: tuple[int, ...] = (),
    inside: int = 0,
) -> Plan:
    """A device's plan with a path's changes, and what follows from them."""
    found = plan(
        kind, direction, hidden=H, batch=B, layers=L, dtype=NAMES[dtype], device=device, tf32=tf32,
        projected=projected, norm=norm, gates=gates, inner=inner, inside=inside,
        in_parts=not path,
    )  # fmt: skip
    path = dict(path)
    if block_b := path.pop("alone", 0):
        return alone_on(found, max(16, 1 << (H - 1).bit_length()), block_b)
    tile = 1 << (gates - 1).bit_length()
    if found.direction == "backward" and path.get("split", found.split) > 1:
        path["split"] = gates  # a part a gate
        rows = path.get("units", found.rows)
        path |= {"rows": rows, "own": rows // tile, "units": gates * (rows // tile)}
    elif "units" in path:
        own = path["units"]
        path |= {"own": own, "rows": tile * own if direction == "forward" else own, "split": 1}
    found = replace(found, **path)
    sums, others = (found.outputs, H) if direction == "forward" else (H, found.outputs)
    chunks, chunks_hr = -(-sums // found.block_k), -(-others // found.block_k)
    return replace(
        found,
        chunks=chunks,
        resident=min(found.resident, chunks),
        resident_ih=min(found.resident_ih or found.resident, chunks),
        chunks_hr=chunks_hr if projected or inner else 0,
        resident_hr=min(found.resident, chunks_hr) if projected or inner else 0,
        hold_hr=tuple(hold or found.hold for hold in found.hold_hr),
        programs=found.layers
        * found.split
        * found.row_groups
        * -(-max(H, found.outputs) // found.units),
        batch_blocks=-(-B // (found.block_b * found.row_groups)),
    )
