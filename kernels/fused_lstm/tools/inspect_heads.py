"""The machine code of the kernels of heads, for GPUs that are not there, and its time for a step.

    python -m fused_lstm.tools.inspect_heads bench/results/compiled-heads.json

A step's time is bounded by arithmetic from two sides: the instructions that a program executes, and
the bytes on their way from the L2 cache.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from ..recurrence import Cell
from ..triton import devices
from ..triton.heads_plan import BLOCK_B, WARPS, HeadsPlan, options, plan
from ..triton.plan import SIZES as BYTES
from . import inspect, sass

SIZES = (32, 64, 128, 256, 768)  # FlashRNN's head sizes, and one that a program has alone
L2_BYTES = 64  # a clock cycle and multiprocessor, at best
GATES = 4


def compiled(cell: str, direction: str, dtype: str, arch: int, chosen: HeadsPlan) -> dict:
    """Return a kernel's machine code for a plan, and what it uses; fp32 is TF32."""
    import torch

    from ..triton import heads

    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
    constants = heads.constants(
        Cell(cell), chosen, dtypes.get(dtype, torch.float32), keep=False, rounds=dtype == "tf32"
    )
    kernel = {"forward": heads.heads_forward_kernel, "backward": heads.heads_backward_kernel}
    given = {k: v for k, v in options(chosen).items() if k != "launch_cooperative_grid"}
    made = inspect.compile_kernel(
        kernel[direction], dtype.replace("tf32", "fp32"),
        {"CELL": heads.kernel_cell(Cell(cell)), "PLAN": constants}, {}, arch, given,
        multiples=("K",) if chosen.parts > 1 else (),  # as all of SIZES are
    )  # fmt: skip
    cubin = made.asm["cubin"]
    registers, stack = inspect.thread(cubin)
    code = sass.instructions(sass.disassemble(cubin, "-sass"))
    return {
        "code": code, "registers": registers, "stack": stack, "shared": made.metadata.shared,
        "spills": sass.count(code)["spills"],
    }  # fmt: skip


def executed(code: sass.Code, chosen: HeadsPlan, units: int) -> dict[str, int]:
    """Return the instructions, syncs and multiplications of a thread, or its warp, in a step.

    Inside the loop over time is one over the blocks of a program. Inside of it are loops over
    blocks of the sum, gate by gate, or over chunks that stream.
    """
    time = sass.time_loop(code)
    assert time is not None
    inner = [loop for loop in sass.loops(code) if loop != time]
    blocks = -(-units // chosen.block)
    if chosen.k_parts == 1:
        rounds = [-(-blocks // chosen.parts), blocks]
    else:
        rounds = [-(-blocks // chosen.parts), 1 if chosen.resident else chosen.chunks]
    multiplies = [
        loop for loop in inner if any(sass.multiplications(t) for _, t in sass.inside(code, loop))
    ]
    total = {"instructions": 0, "syncs": 0, "multiplications": 0}
    for address, text in sass.inside(code, time):
        depth = sum(first <= address <= last for first, last in multiplies)
        times = 1
        for n in rounds[: min(depth, 2)]:
            times *= n
        total["instructions"] += times
        total["syncs"] += times * (text.split()[0].split(".")[0] == "BAR")
        total["multiplications"] += times * sass.multiplications(text)
    return total


def needed(direction: str, chosen: HeadsPlan, units: int) -> int:
    """Return the multiplications of a program's warps in a step, with those of masked elements."""
    blocks = -(-units // chosen.block)
    of_program = -(-blocks // chosen.parts) * GATES * chosen.block * BLOCK_B
    if chosen.k_parts > 1:
        return of_program * chosen.k_parts * chosen.part_k * chosen.chunks
    copies = max(1, 8 * WARPS // chosen.block)  # warps that make the same 16 x 8 sums
    return of_program * blocks * chosen.block * copies


def l2_us(direction: str, dtype: str, chosen: HeadsPlan, units: int, device) -> float:
    """Return the microseconds of a step's weights and exchanged vectors on their way from L2."""
    size, gates = BYTES[dtype.replace("tf32", "fp32")], GATES if direction == "backward" else 1
    weights = 0 if chosen.resident else GATES * units * units * size
    moving = gates * BLOCK_B * units * size * chosen.parts
    of_one = (weights + moving) / chosen.parts / L2_BYTES / device.clock / 1e3
    return max(of_one, (weights + moving) / device.l2_rate / 1e3)


def inspected(cell: str, direction: str, dtype: str, arch: int, units: int) -> dict:
    """Return a row of the table: one head of `units` units, 16 rows of batch."""
    device = devices.by_arch(arch)
    shape = {"heads": 1, "units": units, "batch": BLOCK_B, "gates": GATES}
    chosen = plan(direction, **shape, dtype=dtype.replace("tf32", "fp32"), device=device)
    made = compiled(cell, direction, dtype, arch, chosen)
    step = executed(made["code"], chosen, units)
    cycles = step["instructions"] * WARPS / 4 + step["syncs"] * inspect.SYNC_CYCLES
    return {
        "arch": f"sm_{arch}", "dtype": dtype, "direction": direction, "K": units,
        "programs": chosen.parts, "resident": chosen.resident,
        "registers": made["registers"], "stack": made["stack"], "spills": made["spills"],
        "shared": made["shared"],
        "counted": step["multiplications"] * WARPS == needed(direction, chosen, units),
        "instructions": step["instructions"], "syncs": step["syncs"],
        "us": round(cycles / device.clock / 1e3 + device.barrier_us * chosen.meets, 2),
        "us_l2": round(l2_us(direction, dtype, chosen, units, device), 2),
    }  # fmt: skip


def main(path: Path) -> None:
    """Write the survey's rows to a file."""
    rows = [
        inspected("slstm", direction, dtype, arch, units)
        for arch in (80, 90)
        for dtype in ("bf16", "tf32")
        for units in SIZES
        for direction in ("forward", "backward")
    ]
    lines = ",\n".join(json.dumps(row) for row in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "0"  # before triton is imported: nothing else compiles
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    main(Path(sys.argv[1]))
