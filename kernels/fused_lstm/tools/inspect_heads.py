"""The machine code of the kernels of heads, for GPUs that are not there, and its time for a step.

    python -m fused_lstm.tools.inspect_heads bench/results/compiled-heads.json

A program runs 16 rows of a head through all steps, and its weights come from the caches at each. So
one kernel serves a head of any size K, and a step's time is bounded by arithmetic from two sides:
the instructions that a thread executes, and the weights' bytes on their way from the L2 cache.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from ..recurrence import Cell
from . import inspect, sass

SIZES = (64, 128, 256, 768)  # FlashRNN's head sizes
L2_BYTES = 64  # a clock cycle and multiprocessor, at best
CELL = "slstm"


def executed(code: sass.Code, rounds: int) -> dict[str, int]:
    """Return the instructions, syncs and multiplications of a thread, or its warp, in a step.

    Inside the loop over time are a loop over blocks of units and, in it, one over blocks of the
    sum for each gate; both have as many `rounds`.
    """
    every = sass.loops(code)
    time = sass.time_loop(code)
    inner = [loop for loop in every if loop != time]
    total = {"instructions": 0, "syncs": 0, "multiplications": 0}
    for address, text in sass.inside(code, time) if time else code:
        depth = sum(first <= address <= last for first, last in inner)
        times = rounds ** min(depth, 2)
        total["instructions"] += times
        total["syncs"] += times * (text.split()[0].split(".")[0] == "BAR")
        total["multiplications"] += times * sass.multiplications(text)
    return total


def compiled(direction: str, dtype: str, arch: int) -> tuple[bytes, dict]:
    """Return a kernel's cubin and the constants that it was compiled with."""
    import torch

    from ..triton import heads

    dtypes = {"bf16": torch.bfloat16, "fp32": torch.float32}
    told = heads.constants(Cell(CELL), max(SIZES), dtypes[dtype], False)
    told |= {"ROUND": dtype == "fp32", "PRECISION": "ieee" if dtype == "bf16" else "tf32"}
    options = {"num_warps": told.pop("num_warps")}
    kernel = heads.heads_forward_kernel
    own: dict = {"EXPONENTIAL": False, "SAVE": True, "BIAS": False}
    if direction == "backward":
        kernel, own = heads.heads_backward_kernel, {"APART": False, "CLIP": False}
    made = inspect.compile_kernel(kernel, dtype, told | own, {}, arch, options)
    return made.asm["cubin"], told | options


def inspected(direction: str, dtype: str, arch: int) -> list[dict]:
    """Return a row for each size of a head."""
    from ..triton import devices

    device = devices.by_arch(arch)
    cubin, told = compiled(direction, dtype, arch)
    registers, stack = inspect.thread(cubin)
    code = sass.instructions(sass.disassemble(cubin, "-sass"))
    warps, rows = told["num_warps"], []
    for K in SIZES:
        blocks = -(-K // told["BLOCK_K"])
        step = executed(code, blocks)
        needed = told["G"] * (blocks * told["BLOCK_K"]) ** 2 * told["BLOCK_B"]
        copies = max(1, 8 * warps // told["BLOCK_K"])  # warps that make the same 16 x 8 sums
        cycles = step["instructions"] * warps / 4 + step["syncs"] * inspect.SYNC_CYCLES
        weights = told["G"] * K * K * (2 if dtype == "bf16" else 4)
        rows.append({
            "arch": f"sm_{arch}", "dtype": dtype, "direction": direction, "K": K,
            "registers": registers, "stack": stack, "spills": sass.count(code)["spills"],
            "counted": step["multiplications"] * warps == needed * copies,
            "instructions": step["instructions"],
            "us": round(cycles / device.clock / 1e3, 2),
            "us_weights": round(weights / L2_BYTES / device.clock / 1e3, 2),
        })  # fmt: skip
    return rows


def main(path: Path) -> None:
    """Write the survey's rows to a file."""
    rows = [
        row
        for arch in (80, 90)
        for dtype in ("bf16", "fp32")
        for direction in ("forward", "backward")
        for row in inspected(direction, dtype, arch)
    ]
    lines = ",\n".join(json.dumps(row) for row in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "0"  # before triton is imported: nothing else compiles
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    main(Path(sys.argv[1]))
